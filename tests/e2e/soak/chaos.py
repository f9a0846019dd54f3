"""The faults of the replicas and changes of the router under load."""

import asyncio
import collections
import contextlib
import signal
import time

import config

FAULTS = (
    "500", "503", "429", "close-before-head", "close-after-head", "die-midstream=3", "die-midstream=9",
    "cut-midstream=4", "stall=2", "stall=6", "error-event=1", "error-event=5", "abort-event=1", "abort-event=4",
    "bad-chunk=2", "no-usage", "usage-everywhere", "slow-headers=400", "slow-first=1500", "close-keepalive",
)  # fmt: skip
# The router no longer requests usage from a replica that sent it unrequested, so one replica does it for all.
UNASKED = "r4"
SHARES = {"fault": 30, "kill": 10, "terminate": 6, "hang": 6, "drain": 8, "blackout": 2, "reload": 12, "broken": 8,
          "weigh": 6, "remove": 5, "rotate": 4}  # fmt: skip


class Chaos:
    """Applies a fault or a change every few seconds; clients may notice only what `audit` allows."""

    def __init__(self, world, audit, dice):
        self.world, self.audit, self.dice = world, audit, dice
        self.file, self.done, self.tasks, self.over = asyncio.Lock(), collections.Counter(), set(), False
        self.gone = contextlib.ExitStack()  # open while r4 is not in the file

    async def run(self):
        """Starts a fault or a change every few seconds until stopped."""
        while not self.over:
            name = self.dice.choices(list(SHARES), SHARES.values())[0]
            task = asyncio.create_task(self.act(name))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(self.dice.uniform(0.5, 3))

    async def stop(self):
        """Waits until the started ones end."""
        self.over = True
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def act(self, name):
        try:
            if name in ("reload", "broken", "weigh", "remove", "rotate"):
                async with self.file:
                    await getattr(self, name)()
                self.done[name] += 1
            elif await getattr(self, name)():
                self.done[name] += 1
        except Exception as error:  # any failure is reported
            self.audit.fail(f"{name}: {type(error).__name__}: {error}")

    @contextlib.contextmanager
    def some(self):
        """Takes a replica without a fault, unless half of them have one."""
        free = [replica for replica in self.world.replicas.values() if not replica.taken]
        replica = self.dice.choice(free) if len(free) > 2 else None
        if replica:
            replica.taken = True
        try:
            yield replica
        finally:
            if replica:
                replica.taken = False

    async def fault(self):
        with self.some() as replica:
            if not replica:
                return False
            fault = self.dice.choice(FAULTS)
            if fault == "usage-everywhere" and replica.name != UNASKED:
                fault = "no-usage"
            with replica.trouble(fault.partition("=")[0]):
                await replica.order(fault)
                await asyncio.sleep(self.dice.uniform(0.5, 4))
                await replica.order(None)
                await asyncio.sleep(0.1)
            self.done[f"fault {fault.partition('=')[0]}"] += 1
            return True

    async def away(self, replica, how):
        """Ends a replica's process and starts another one."""
        with replica.trouble("killed"):
            replica.end(how)
            await asyncio.sleep(self.dice.uniform(0.2, 5))
            replica.start()
            await replica.ready()

    async def kill(self, how=signal.SIGKILL):
        with self.some() as replica:
            if not replica:
                return False
            await self.away(replica, how)
            return True

    async def terminate(self):
        return await self.kill(signal.SIGTERM)

    async def blackout(self):
        """Stops all replicas at once."""
        replicas = self.world.replicas.values()
        if any(replica.taken for replica in replicas):
            return False
        for replica in replicas:
            replica.taken = True
        try:
            await asyncio.gather(*(self.away(replica, signal.SIGKILL) for replica in replicas))
        finally:
            for replica in replicas:
                replica.taken = False
        return True

    async def hang(self):
        """Suspends a replica for a while."""
        with self.some() as replica:
            if not replica:
                return False
            with replica.trouble("stopped"):
                replica.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(self.dice.uniform(0.3, 3))
                replica.process.send_signal(signal.SIGCONT)
            return True

    async def drain(self):
        with self.some() as replica:
            if not replica or replica.name == "r4":  # r4 may leave the file in the meantime
                return False
            path = f"/replicas/{replica.name}/drain"
            with replica.trouble("drained"):
                await self.request("POST", path)
                await asyncio.sleep(self.dice.uniform(1, 5))
                await self.request("DELETE", path)
            return True

    async def request(self, method, path, body=None):
        """Sends a request that the admin listener must accept."""
        status, text = await self.world.call(self.world.admin, method, path, body)
        if status != 200:
            self.audit.fail(f"{method} {path} was answered {status}: {text[:300]}")

    async def settings(self):
        """Returns the state that a reload changes."""
        return [
            (pool["pool"], pool["policy"], [(r["name"], r["weight"]) for r in pool["replicas"]])
            for pool in await self.world.pools()
        ]

    async def logged(self, offset, words):
        """Waits until the error log has these words after an offset."""
        until = time.monotonic() + 15
        while time.monotonic() < until:
            with self.world.errors.open("rb") as log:
                log.seek(offset)
                if words in log.read():
                    return True
            await asyncio.sleep(0.05)
        return False

    async def reload(self):
        """Reloads a new file, by signal or by the admin listener."""
        text = config.file(self.world, self.dice)
        self.world.file.write_text(text)
        if "name=r4" not in text:
            self.gone.enter_context(self.world.replicas["r4"].trouble("gone"))
        offset = self.world.errors.stat().st_size
        if self.dice.random() < 0.5:
            await self.request("POST", "/reload")
        else:
            self.world.hang_up()
        if not await self.logged(offset, b"reloaded, changed"):
            self.audit.fail(f"no reload followed: {self.world.errors.read_bytes()[offset:][-3000:]}")
        if "name=r4" in text:
            self.gone.close()

    async def broken(self):
        """Reloads an invalid file."""
        before, good = await self.settings(), self.world.file.read_text()
        self.world.file.write_text(config.broken(self.world, self.dice))
        if self.dice.random() < 0.5:
            status, _ = await self.world.call(self.world.admin, "POST", "/reload")
            refused = status == 400
        else:
            offset = self.world.errors.stat().st_size
            self.world.hang_up()
            refused = await self.logged(offset, b"not reloaded, nothing changed")
        if not refused or await self.settings() != before:
            self.audit.fail("a broken file was not refused, or changed something: " + self.world.file.read_text())
        self.world.file.write_text(good)

    async def weigh(self):
        name = self.dice.choice(config.POOLS["chat"][:3])
        await self.request("PUT", f"/pools/chat/replicas/{name}", f'{{"weight": {self.dice.randrange(1, 5)}}}')

    async def remove(self):
        """Removes a replica from a pool and adds it again."""
        url = f"http://127.0.0.1:{self.world.replicas['r2'].port} name=r2 max_fails=1 fail_timeout=2s"
        with self.world.replicas["r2"].trouble("gone"):
            await self.request("DELETE", "/pools/talk/replicas/r2")
            await asyncio.sleep(self.dice.uniform(0.2, 3))
            await self.request("POST", "/pools/talk/replicas", f'{{"replica": "{url}"}}')

    async def rotate(self):
        reopen = lambda: self.world.hang_up(signal.SIGUSR1)
        await self.audit.moves(self.world.folder / "access.log.1", reopen)
