"""The clients, paced to a target CPU load."""

import asyncio
import collections
import json
import os
import random
import tempfile
import time

import asks
from config import secret
from wire import Answer, Link

CLIENTS = 160
BUSY = 0.70
KINDS = {"text": 800, "talk": 200, "slow": 8, "leaving": 75, "large": 12, "bad": 45, "other": 30}
PHASES = {"head": 1, "body": 1, "sent": 3, "stream": 6}
TURNS = 12
IDS = 100_000  # stored responses that the router remembers


def busy_and_all():
    """Returns the machine's busy CPU ticks, without `nice` ones, and all ticks."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, idle, waiting, *interrupts = (int(field) for field in stat.readline().split()[1:9])
    busy = user + system + sum(interrupts)
    return busy, busy + nice + idle + waiting


def refusal(error):
    """Returns the status of an error by its message."""
    if error["code"] == "no_replica":
        return "503"
    return str(error["code"] or ("504" if "in time" in error["message"] else "502"))


class Pace:
    """Sets the clients' think time by the machine's load."""

    def __init__(self):
        self.think, self.shares = 0.5, []

    async def keep(self):
        before = busy_and_all()
        while True:
            await asyncio.sleep(1)
            now = busy_and_all()
            share = (now[0] - before[0]) / max(1, now[1] - before[1])
            self.shares.append(share)
            before = now
            self.think = min(1.5, max(0.005, self.think * (1 + (share - BUSY) * 0.6)))


class Load:
    """All clients, and the numbers of their requests."""

    def __init__(self, world, audit):
        self.world, self.audit, self.pace, self.over, self.number = world, audit, Pace(), False, 0
        self.curls = collections.Counter()

    def next(self):
        self.number += 1
        return self.number

    async def run(self):
        """Sends requests until stopped, and waits for their ends."""
        readers = [self.reader(seed) for seed in range(3)]
        await asyncio.gather(*(self.client(seed) for seed in range(CLIENTS)), *readers, self.curl())

    def links(self):
        """A kept connection of each kind."""
        return [Link(self.world.port), Link(self.world.secure, secure=True), Link(f"{self.world.folder}/socket")]

    async def client(self, seed):
        """A client with mixed requests, over kept and fresh connections."""
        dice, links, turns = random.Random(seed), self.links(), []
        while not self.over:
            await asyncio.sleep(self.pace.think * dice.uniform(0.2, 1.8))
            kind = asks.pick(dice, {name: share for name, share in KINDS.items() if name != "slow"})
            link = dice.choices(links, (80, 8, 12))[0]
            if dice.random() < 0.1:
                link.drop()
            try:
                turns = await self.one(kind, link, dice, turns)
            except Exception as error:  # any failure is reported
                self.audit.fail(f"a client at {kind}: {type(error).__name__}: {error}")
                link.drop()
        for link in links:
            link.drop()

    async def reader(self, seed):
        """A client that reads slowly, through a small buffer."""
        dice = random.Random(-seed - 1)
        while not self.over:
            ask, link = asks.generation(self.next(), dice, "slow"), Link(self.world.port, buffer=4096)
            await self.exchange(ask, link, pause=dice.uniform(0.02, 0.3))
            link.drop()

    async def one(self, kind, link, dice, turns):
        """Sends one request; returns the conversation after it."""
        if kind == "leaving":
            ask, phase = asks.generation(self.next(), dice, kind), asks.pick(dice, PHASES)
            self.audit.sends(ask)
            self.audit.record(ask, ("left", await link.leave(ask.message, phase, dice)))
        elif kind in ("bad", "other"):
            await self.exchange(getattr(asks, kind)(self.next(), dice), link)
        elif kind == "talk":
            pool = dice.choice(("chat", "ring", "cook"))
            ask = asks.generation(self.next(), dice, kind, turns or [{"role": "system", "content": "be brief"}], pool)
            if await self.exchange(ask, link):
                reply = asks.TEXT[ask.tokens].decode()
                turns = [*turns, {"role": "user", "content": ask.text}, {"role": "assistant", "content": reply}]
                return turns if len(turns) < TURNS else []
        else:
            ask = asks.generation(self.next(), dice, kind)
            answer = await self.exchange(ask, link)
            if answer and ask.dialect == "responses" and ask.pool != "open" and dice.random() < 0.3:
                await self.again(ask, answer, link)
        return turns

    async def again(self, made, answer, link):
        """Requests a stored response."""
        id_, owner = asks.ID.search(answer.body)[1].decode(), answer.headers["x-upstream"]
        await self.exchange(asks.looked_up(self.next(), made, id_, owner), link)

    async def exchange(self, ask, link, pause=0.0):
        """Sends a request and judges its response; returns it if it is complete."""
        self.audit.sends(ask)
        answer = await link.ask(ask.message, pause)
        try:
            seen = asks.see(ask, answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            seen = "wrong", f"{type(error).__name__}: {error} in {answer.body[:200]}"
        self.audit.record(ask, seen)
        if seen[0] != "whole":
            link.drop()
            return None
        if ask.expect is None and ask.number % 300 == 0:
            await self.explained(ask, answer)
        return answer

    async def explained(self, ask, answer):
        """Checks the router's explanation of a request."""
        status, text = await self.world.call(self.world.admin, "GET", f"/explain/{ask.id}")
        named = answer.headers.get("x-upstream")
        if status != 200 or json.loads(text)["attempts"][-1]["chosen"] != named:
            self.audit.fail(f"/explain says {status}: {text[:500]}, X-Upstream says {named}", ask)

    async def curl(self):
        """Uses HTTP/2: eight streams by TLS, one without, since curl 7.88 cannot reuse a plain connection."""
        dice, number = random.Random(2), 0
        while not self.over:
            await asyncio.sleep(self.pace.think * 10)
            number += 1
            with tempfile.TemporaryDirectory(dir=self.world.folder) as folder:
                await self.some(number, dice, folder)

    async def some(self, number, dice, folder):
        began, ask = time.monotonic(), asks.Ask(number, "h2")
        ask.tokens, ask.stream = dice.randrange(1, asks.MOST), True
        body = asks.chat_body(max_tokens=ask.tokens, stream=True)
        where, how, count = f"https://127.0.0.1:{self.world.secure}", ("--http2", "-Z"), 8
        if dice.random() < 0.5:
            where, how, count = f"http://127.0.0.1:{self.world.port}", ("--http2-prior-knowledge",), 1
        outs = sum((["-o", f"{folder}/{at}", where + asks.PATHS["chat"]] for at in range(count)), [])
        words = [f"authorization: Bearer {secret('a')}", "content-type: application/json", f"x-request-id: h2-{number}"]
        headers = sum((["-H", word] for word in words), [])
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
        command = ["curl", "-sSk", "-m", "60", *how, "-d", body.decode(), *headers, *outs]
        output, _ = await (await asyncio.create_subprocess_exec(*command, **pipes)).communicate()
        ended = time.monotonic()
        for at in range(count):
            path = f"{folder}/{at}"
            answer = Answer()
            answer.body, answer.whole = open(path, "rb").read() if os.path.exists(path) else b"", True
            form, detail = asks.stream(ask, answer)
            if answer.body.startswith(b"{"):
                form = refusal(json.loads(answer.body)["error"])
            if form == "short" and b"(92)" in output:
                form = "error event"  # curl 7.88 loses the events that come along with the end of a broken stream
            self.curls["whole" if form == "whole" else "not"] += 1
            if form != "whole" and not self.audit.shared(form, began, ended):
                self.audit.fail(f"h2-{number}: {form} {detail} {answer.body[-300:]}, curl says {output[-300:]}")

    async def warm(self):
        """Fills the router's table of stored responses, so that it does not grow later."""
        body = json.dumps({"model": "chat", "input": "x", "max_output_tokens": 1}).encode()
        left = IDS

        async def work():
            nonlocal left
            link = Link(self.world.port)
            while left > 0:
                left -= 1
                ask = asks.Ask(0, "warm")
                ask.id = f"warm-{left}"
                answer = await link.ask(ask.sent("POST", asks.PATHS["responses"], body).message)
                if answer.status != 200:
                    raise SystemExit(f"FAIL while warming up: {answer.status} {answer.broke} {answer.body[:300]}")
            link.drop()

        await asyncio.gather(*(work() for _ in range(48)))
