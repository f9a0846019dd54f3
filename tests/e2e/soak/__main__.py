"""soak TOKENWEIR FOLDER MINUTES PORTS ENGINES: see soak.sh."""

import asyncio
import os
import pathlib
import random
import sys
import time

from audit import Audit
from chaos import Chaos
from load import IDS, Load
from world import World

sys.path.append(str(pathlib.Path(__file__).parent.parent))
from traffic import samples, total  # noqa: E402

GAUGES = ("in_flight", "prefill_tokens", "resident_tokens", "decoding_streams")
EVERY_S = 10
STEADY_S = 300  # from then on memory must not grow
SLOPE_MIB = 1.0  # in 10 minutes


def ticks(pid):
    """Returns the CPU ticks of a process."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Samples:
    """Samples the router's resources every few seconds."""

    def __init__(self, world, load, audit):
        self.world, self.load, self.audit, self.rows = world, load, audit, []
        self.began, self.until = time.monotonic(), float("inf")

    async def take(self):
        print("    s     MiB   fds threads in flight   busy router  requests explained unexplained", flush=True)
        spent, then = ticks(self.world.router.pid), time.monotonic()
        while True:
            await asyncio.sleep(EVERY_S)
            now, cpu = time.monotonic(), ticks(self.world.router.pid)
            share = (cpu - spent) / os.sysconf("SC_CLK_TCK") / (now - then)
            spent, then = cpu, now
            # Each pool counts all requests on its replicas; this one has all replicas, except for times without r4.
            series = samples(await self.world.metrics(), "tokenweir_in_flight")
            row = now - self.began, *self.world.sizes(), sum(n for labels, n in series if '"chat"' in labels)
            self.rows.append(row)
            busy = sum(self.load.pace.shares[-EVERY_S:]) / EVERY_S
            print(
                f"{row[0]:5.0f} {row[1]:7.1f} {row[2]:5} {row[3]:7} {row[4]:9.0f} {busy:6.0%} {share:6.0%} "
                f"{self.load.number:9} {self.audit.explained.total():9} {len(self.audit.bad):11}",
                flush=True,
            )

    def steady(self):
        """Returns the samples that memory is judged by: all of a short run, and none from after the load."""
        since = STEADY_S if self.until >= 2 * STEADY_S else 0
        return [row for row in self.rows if since <= row[0] <= self.until]

    def slope(self):
        """Returns the growth in MiB per 10 minutes by least squares; None without enough samples."""
        rows = [(row[0] / 600, row[1]) for row in self.steady()]
        if len(rows) < 12:
            return None
        mean = [sum(column) / len(rows) for column in zip(*rows)]
        spread = sum((x - mean[0]) ** 2 for x, _ in rows)
        return sum((x - mean[0]) * (y - mean[1]) for x, y in rows) / spread


async def settled(world, before, audit):
    """Waits until nothing is left of the load; reports the rest."""
    left = {}
    for _ in range(30):
        text = await world.metrics()
        left = {name: total(text, f"tokenweir_{name}") for name in GAUGES if total(text, f"tokenweir_{name}")}
        for replica in world.replicas.values():
            text = (await world.call(replica.port, "GET", "/metrics"))[1]
            running = total(text, "vllm:num_requests_running") + total(text, "vllm:num_requests_waiting")
            left |= {f"requests at {replica.name}": running} if running else {}
        _, files, threads = world.sizes()
        left |= {"descriptors": files} if files > before[1] + 4 else {}
        left |= {"threads": threads} if threads > before[2] + 1 else {}
        if not left and not audit.unanswered():
            return
        await asyncio.sleep(1)
    was = f"before it there were {before[1]} descriptors and {before[2]} threads"
    audit.fail(f"left over 30 s after the load: {left}; {was}; requests without an end: {audit.unanswered()[:5]}")


async def books(world, audit):
    """Checks that the totals equal those of the access log."""
    text = await world.metrics()
    statuses = {labels: int(value) for labels, value in samples(text, "tokenweir_requests_total")}
    counted = sum(statuses.values())
    if counted != audit.lines:
        classes = f"{statuses} {dict(audit.statuses)}"
        audit.fail(f"{counted} requests in the metrics, {audit.lines} lines in the access log: {classes}")
    tries = int(total(text, "tokenweir_attempts_total"))
    if tries != audit.tries:
        audit.fail(f"{tries} attempts in the metrics, {audit.tries} in the access log")
    if lost := total(text, "tokenweir_log_lines_lost_total"):
        audit.fail(f"{lost:.0f} lines of logs were lost")
    outcomes = {}
    for labels, value in samples(text, "tokenweir_attempts_total"):
        outcome = labels.partition('outcome="')[2].partition('"')[0]
        outcomes[outcome] = outcomes.get(outcome, 0) + int(value)
    return outcomes, statuses


async def run(binary, folder, minutes, ports, engines):
    """Runs the test; returns the exit code."""
    dice = random.Random(int(os.environ.get("SOAK_SEED", "1")))
    world = World(binary, folder, ports, engines)
    await world.start(dice)
    audit = Audit(world)
    load, chaos = Load(world, audit), Chaos(world, audit, dice)
    long = minutes * 60 >= 2 * STEADY_S
    if long:
        print(f"# filling the table of {IDS:,} stored responses", flush=True)
        await load.warm()
    await asyncio.sleep(12)  # idle connections and threads end
    before = world.sizes()
    keeping = Samples(world, load, audit)
    tasks = [asyncio.create_task(each) for each in (audit.follow(), load.pace.keep(), keeping.take())]
    running, harm = asyncio.create_task(load.run()), asyncio.create_task(chaos.run())
    await asyncio.wait([running], timeout=minutes * 60)
    load.over, keeping.until = True, time.monotonic() - keeping.began
    await chaos.stop()
    await running
    await harm
    world.file.write_text(world.plain)
    await chaos.request("POST", "/reload")
    await settled(world, before, audit)
    outcomes, statuses = await books(world, audit)
    for task in tasks:
        task.cancel()
    after = world.sizes()
    verdict(world, (audit, load, chaos, keeping), (outcomes, statuses), (before, after), long)
    return bool(audit.bad)


def verdict(world, parts, totals, sizes, long):
    """Stops everything and prints the results."""
    audit, load, chaos, keeping = parts
    code = world.stop()
    if code:
        audit.fail(f"the router ended with {code}")
    for name in ("router.out", "error.log"):
        if b"panicked" in (world.folder / name).read_bytes():
            audit.fail(f"a panic in {name}")
    slope, sizes_mib = keeping.slope(), [row[1] for row in keeping.steady()]
    if long and (slope is None or slope >= SLOPE_MIB):
        audit.fail(f"memory grows by {slope} MiB in 10 min")
    shares = load.pace.shares[: int(keeping.until)]
    name_all = lambda counter: ", ".join(
        f"{name} {count}" for name, count in sorted(dict(counter).items(), key=lambda item: -item[1])
    )
    whole, uncounted = audit.counts.pop("whole", 0), audit.counts.pop("not counted", 0)
    rows = {
        "load, s": f"{keeping.until:.0f}",
        "machine busy, mean": f"{sum(shares) / max(1, len(shares)):.0%}",
        "requests": f"{load.number} ({load.number / keeping.until:.0f}/s): {name_all(audit.counts)}",
        "as expected": f"{whole}; {audit.tokens} tokens counted by both sides, none of {uncounted} responses",
        "over HTTP/2": name_all(load.curls),
        "left by the client, as logged": name_all(audit.left),
        "failed with a cause": f"{audit.explained.total()}: {name_all(audit.explained)}",
        "unexplained": len(audit.bad),
        "faults": name_all(chaos.done),
        "attempts by outcome": name_all(totals[0]),
        "answers by status": name_all(totals[1]),
        "RSS, MiB": f"{min(sizes_mib):.1f} to {max(sizes_mib):.1f}; by least squares {slope or 0:+.2f} in 10 min",
        "descriptors": f"{sizes[0][1]} before, {max(row[2] for row in keeping.rows)} at most, {sizes[1][1]} after",
        "threads": f"{sizes[0][2]} before, {max(row[3] for row in keeping.rows)} at most, {sizes[1][2]} after",
        "in flight at most": f"{max(row[4] for row in keeping.rows):.0f}",
    }
    print("\n| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for parts in audit.bad:
        print("FAIL", " ".join(parts[:2]))
    if not audit.bad:
        print("ok every request was answered or failed with a cause, and nothing is left over")


def main():
    binary, folder, minutes, ports, engines = sys.argv[1:]
    numbers = lambda text: [int(number) for number in text.split()]
    sys.exit(asyncio.run(run(binary, pathlib.Path(folder), float(minutes), numbers(ports), numbers(engines))))


main()
