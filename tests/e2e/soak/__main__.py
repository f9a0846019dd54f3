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
    """CPU ticks that a process has had."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Samples:
    """What the router takes, every few seconds."""

    def __init__(self, world, load, audit):
        self.world, self.load, self.audit, self.began, self.rows = world, load, audit, time.monotonic(), []

    async def take(self):
        print(f"{'s':>5} {'MiB':>7} {'fds':>5} {'threads':>7} {'in flight':>9} {'busy':>6} {'router':>6} {'requests':>9} "
              f"{'explained':>9} {'unexplained':>11}", flush=True)
        spent, then = ticks(self.world.router.pid), time.monotonic()
        while True:
            await asyncio.sleep(EVERY_S)
            now, cpu = time.monotonic(), ticks(self.world.router.pid)
            share = (cpu - spent) / os.sysconf("SC_CLK_TCK") / (now - then)
            spent, then = cpu, now
            # Every pool tells of all the requests on a replica; this one has all replicas but for times without r4.
            in_flight = sum(n for labels, n in samples(await self.world.metrics(), "tokenweir_in_flight") if '"chat"' in labels)
            row = (now - self.began, *self.world.sizes(), in_flight)
            self.rows.append(row)
            busy = sum(self.load.pace.shares[-EVERY_S:]) / EVERY_S
            print(f"{row[0]:5.0f} {row[1]:7.1f} {row[2]:5} {row[3]:7} {row[4]:9.0f} {busy:6.0%} {share:6.0%} "
                  f"{self.load.number:9} {self.audit.explained.total():9} {len(self.audit.bad):11}", flush=True)

    def slope(self, since):
        """MiB in 10 minutes by least squares, of the samples from a time on; None if they are too few."""
        rows = [(row[0] / 600, row[1]) for row in self.rows if row[0] >= since]
        if len(rows) < 12:
            return None
        mean = [sum(column) / len(rows) for column in zip(*rows)]
        spread = sum((x - mean[0]) ** 2 for x, _ in rows)
        return sum((x - mean[0]) * (y - mean[1]) for x, y in rows) / spread


async def settled(world, before, audit):
    """Waits until nothing is left of the load; tells what is."""
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
    audit.fail(f"left over 30 s after the load: {left}; before it there were {before[1]} descriptors and {before[2]} threads; "
               f"requests: {audit.unanswered()[:5]}")


async def books(world, audit):
    """The totals must be those of the access log."""
    text = await world.metrics()
    statuses = {labels: int(value) for labels, value in samples(text, "tokenweir_requests_total")}
    told = sum(statuses.values())
    if told != audit.lines:
        audit.fail(f"{told} requests in the metrics, {audit.lines} lines in the access log; {statuses} {dict(audit.statuses)}")
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
    """The whole run; returns the exit code."""
    dice = random.Random(int(os.environ.get("SOAK_SEED", "1")))
    world = World(binary, folder, ports, engines)
    await world.start(dice)
    audit = Audit(world)
    load, chaos = Load(world, audit), Chaos(world, audit, dice)
    long = minutes * 60 >= 2 * STEADY_S
    if long:
        print(f"# filling what is remembered of {IDS:,} stored responses", flush=True)
        await load.warm()
    await asyncio.sleep(12)  # idle connections and threads go
    before = world.sizes()
    keeping = Samples(world, load, audit)
    tasks = [asyncio.create_task(each) for each in (audit.follow(), load.pace.keep(), keeping.take())]
    running, harm = asyncio.create_task(load.run()), asyncio.create_task(chaos.run())
    await asyncio.wait([running], timeout=minutes * 60)
    load.over = True
    await chaos.stop()
    await running
    await harm
    world.file.write_text(world.plain)
    await chaos.asked("POST", "/reload")
    await settled(world, before, audit)
    outcomes, statuses = await books(world, audit)
    for task in tasks:
        task.cancel()
    after = world.sizes()
    verdict(world, (audit, load, chaos, keeping), (outcomes, statuses), (before, after), long)
    return bool(audit.bad)


def verdict(world, parts, totals, sizes, long):
    """Ends what runs and prints what has come of it all."""
    audit, load, chaos, keeping = parts
    code = world.stop()
    if code:
        audit.fail(f"the router ended with {code}")
    for name in ("router.out", "error.log"):
        if b"panicked" in (world.folder / name).read_bytes():
            audit.fail(f"a panic in {name}")
    slope = keeping.slope(STEADY_S if long else 0)
    if long and (slope is None or slope >= SLOPE_MIB):
        audit.fail(f"memory grows by {slope} MiB in 10 min")
    span, shares = time.monotonic() - keeping.began, load.pace.shares
    steady = [row[1] for row in keeping.rows if row[0] >= (STEADY_S if long else 0)]
    name_all = lambda counter: ", ".join(f"{name} {count}" for name, count in sorted(dict(counter).items(), key=lambda i: -i[1]))
    rows = {
        "time, s": f"{span:.0f}",
        "machine busy, mean": f"{sum(shares) / max(1, len(shares)):.0%}",
        "requests": f"{load.number} ({load.number / span:.0f}/s): {name_all({k: v for k, v in audit.counts.items() if k != 'whole'})}",
        "as expected": f"{audit.counts['whole']}, {audit.tokens} tokens counted by both sides",
        "over HTTP/2": name_all(load.curls),
        "left by the client, as logged": name_all(audit.left),
        "failed with a cause": f"{audit.explained.total()}: {name_all(audit.explained)}",
        "unexplained": len(audit.bad),
        "done to it": name_all(chaos.done),
        "attempts by outcome": name_all(totals[0]),
        "answers by status": name_all(totals[1]),
        "RSS, MiB": f"{min(steady):.1f} to {max(steady):.1f}, {'' if slope is None else f'{slope:+.2f}'} in 10 min",
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
        print("ok every request was answered, or failed for a reason, and nothing is left over")


def main():
    binary, folder, minutes, ports, engines = sys.argv[1:]
    numbers = lambda text: [int(number) for number in text.split()]
    sys.exit(asyncio.run(run(binary, pathlib.Path(folder), float(minutes), numbers(ports), numbers(engines))))


main()
