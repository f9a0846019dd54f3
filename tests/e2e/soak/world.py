"""The router, its replicas, its configuration, and the replicas' faults over time."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import time

from config import FALLBACK, MODEL, POOLS, file

SPEED = "16"
# The longest ejection after a fault has ended: fail_timeout, and its checks.
RECOVERY_S = 6
# These faults are detected only after `first_byte`, plus a second per 1,000 tokens of prompt; then the replica is
# ejected.
LATE = {"slow-headers", "stopped"}
LATE_S = 10 + 5


class Replica:
    """An emulated replica in its own process, and its faults."""

    def __init__(self, world, name, port):
        self.world, self.name, self.port, self.process = world, name, port, None
        self.troubles = []  # [kind, since, until or None]
        self.taken = False  # a fault is being applied

    def start(self):
        command = [self.world.binary, "emulate", "--port", str(self.port), "--model", MODEL, "--speed", SPEED]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait()

    async def ready(self):
        """Waits until it listens."""
        for _ in range(200):
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
                return
            await asyncio.sleep(0.05)
        raise SystemExit(f"FAIL {self.name} did not start")

    @contextlib.contextmanager
    def trouble(self, kind):
        """Records a fault while it lasts."""
        note = [kind, time.monotonic(), None]
        self.troubles.append(note)
        try:
            yield
        finally:
            note[2] = time.monotonic()

    def met(self, since, until, after=0.0):
        """Returns the faults that may have affected a request, until `after` seconds after their end."""
        late = lambda kind: LATE_S if after and kind in LATE else 0
        return {
            kind
            for kind, began, ended in self.troubles
            if began <= until and (ended or until) + after + late(kind) >= since
        }

    def forget(self, before):
        self.troubles = [note for note in self.troubles if note[2] is None or note[2] > before]

    async def order(self, fault):
        """Makes every POST meet a fault; None ends it."""
        body = json.dumps({"fault": fault}) if fault else None
        await self.world.call(self.port, "POST" if fault else "DELETE", "/emulate/faults", body)


class World:
    """The router and its replicas."""

    def __init__(self, binary, folder, ports, engines):
        self.binary, self.folder = binary, folder
        self.port, self.secure, self.admin, self.extra = ports
        self.replicas = {f"r{at + 1}": Replica(self, f"r{at + 1}", port) for at, port in enumerate(engines)}
        self.by_place = {f"127.0.0.1:{replica.port}": replica for replica in self.replicas.values()}
        self.file, self.access, self.errors = (folder / name for name in ("router.toml", "access.log", "error.log"))
        self.router, self.plain = None, ""

    async def start(self, dice):
        """Starts everything and waits until every pool has a replica."""
        for replica in self.replicas.values():
            replica.start()
        for replica in self.replicas.values():
            await replica.ready()
        self.plain = file(self, dice, plain=True)
        self.file.write_text(self.plain)
        out = (self.folder / "router.out").open("wb")
        self.router = subprocess.Popen([self.binary, "serve", "-c", self.file], stdout=out, stderr=out)
        for _ in range(200):
            await asyncio.sleep(0.1)
            if self.router.poll() is not None:
                raise SystemExit("FAIL the router did not start: " + (self.folder / "router.out").read_text())
            with contextlib.suppress(OSError):
                states = [r["state"] for pool in await self.pools() for r in pool["replicas"]]
                if states and set(states) == {"admitted"}:
                    return
        raise SystemExit(f"FAIL not every replica is admitted: {states}")

    async def call(self, port, method, path, body=None):
        """Sends a request to a replica or the admin listener; returns status and body."""

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
            with contextlib.closing(connection):
                connection.request(method, path, body, {"content-type": "application/json"} if body else {})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()

        return await asyncio.to_thread(ask)

    async def pools(self):
        return json.loads((await self.call(self.admin, "GET", "/pools"))[1])

    async def metrics(self):
        return (await self.call(self.admin, "GET", "/metrics"))[1]

    def away(self, pool, since, until):
        """Returns whether no replica of a pool was available at a request's time."""
        names = set(POOLS[pool]) | set(POOLS.get(FALLBACK.get(pool), ()))
        return all(self.replicas[name].met(since, until, RECOVERY_S) for name in names)

    def sizes(self):
        """Returns the router's resident MiB, descriptors and threads."""
        pid = self.router.pid
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            facts = dict(line.split(":", 1) for line in status)
        return int(facts["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(facts["Threads"])

    def hang_up(self, how=signal.SIGHUP):
        self.router.send_signal(how)

    def stop(self):
        """Stops everything; the router must exit cleanly."""
        self.router.terminate()
        code = self.router.wait(30)
        for replica in self.replicas.values():
            if replica.process.poll() is None:
                replica.end(signal.SIGKILL)
        return code
