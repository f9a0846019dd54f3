"""Every request has an answer and a line in the access log; what went wrong has a cause, or fails the test."""

import asyncio
import collections
import json
import time

from chaos import UNASKED
from world import RECOVERY_S

# By trouble of a replica that was tried: the forms in which a request may fail. Others must not be noticed.
FORMS = {
    "killed": {"error told", "502"},
    "500": {"500"},
    "503": {"503"},
    "429": {"429"},
    "close-before-head": {"502"},
    "close-after-head": {"502", "error told", "cut refusal"},
    "die-midstream": {"502", "error told", "cut refusal"},
    "cut-midstream": {"short"},
    "stall": {"504", "error told"},
    "error-event": {"500", "error told", "error, then its end"},
    "abort-event": {"abort", "error told"},
    "bad-chunk": {"502", "error told"},
    "no-usage": {"no usage"},
    "usage-everywhere": {"usage leaked"},
}
# What belongs to a replica is gone with it.
BOUND = {"killed": {"404", "502"}, "gone": {"404", "503"}}
MAYBE = [("left", "head")]  # what has no answer yet may have no line
LATE_S = 30  # a line that is later than this never comes
KEPT_S = 120  # longer than any request


class Audit:
    """Brings together what clients saw, what the access log says and what was done to the replicas."""

    def __init__(self, world):
        self.world, self.open, self.log, self.rest = world, {}, world.access.open("rb"), b""
        self.counts, self.explained, self.bad = collections.Counter(), collections.Counter(), []
        self.statuses, self.lines, self.tries, self.tokens = collections.Counter(), 0, 0, 0
        self.left, self.unasked = collections.Counter(), f":{world.replicas[UNASKED].port}"

    def sends(self, ask):
        self.open[ask.id] = ask

    def told(self, ask, seen):
        """Notes what the client saw, or in which phase it left."""
        ask.seen, ask.ended = seen, time.monotonic()
        self.settle(ask)

    def fail(self, what, ask=None, line=None):
        """Notes something that has no cause."""
        parts = [time.strftime("%H:%M:%S"), what]
        if ask:
            since = ask.ended or time.monotonic()
            parts.append(
                f"{ask.id} {ask.kind} {ask.pool} {ask.dialect} stream={ask.stream} tokens={ask.tokens} "
                f"took {since - ask.began:.3f} s, saw {ask.seen}"
            )
            troubles = {name: sorted(r.met(ask.began, since, 6)) for name, r in self.world.replicas.items()}
            parts.append(f"troubles {troubles}")
        if line:
            parts.append(f"line {json.dumps(line)}")
        self.bad.append(parts)
        print("UNEXPLAINED", *parts, sep="\n  ", flush=True)

    def settle(self, ask):
        """Judges a request once both sides have told of it."""
        if not ask.seen or not ask.line:
            return
        self.open.pop(ask.id, None)
        self.counts[ask.kind] += 1
        form, _ = ask.seen
        line = ask.line
        if form == "left":
            self.left[line["outcome"]] += 1
            return
        if form not in ("broken",) and ask.expect is None and form.isdigit() and form != line["status"]:
            self.fail("the log has another status", ask, line)
        elif form == "whole":
            self.whole(ask, line)
        elif cause := self.cause(ask, line, form):
            self.explained[f"{form} ({cause})"] += 1
        else:
            self.fail(f"no cause for {form}", ask, line)

    def whole(self, ask, line):
        """The log must have counted what the client got."""
        self.counts["whole"] += 1
        if ask.expect:
            return
        met = self.met(ask, line)
        if line["outcome"] != "completed":
            self.fail("an answer that was whole did not complete", ask, line)
        elif (line["completion"], line["prompt"]) == (str(ask.tokens), str(ask.prompt)):
            self.tokens += ask.tokens
        elif line["completion"] == "-" and not ask.usage and (ask.pool == "open" or line["to"].endswith(self.unasked)):
            self.counts["not counted"] += 1
        elif not met & {"no-usage", "usage-everywhere"}:
            self.fail(f"counted others than {ask.prompt} and {ask.tokens} tokens", ask, line)

    def shared(self, form, since, until):
        """Why one of several requests for chat, which cannot be told apart, may have failed so."""
        kinds = set().union(*(replica.met(since, until) for replica in self.world.replicas.values()))
        nobody = form == "503" and self.world.away("chat", since, until)
        if nobody or any(form in FORMS.get(kind, ()) for kind in kinds):
            self.explained[f"{form} (HTTP/2)"] += 1
            return True
        return False

    def met(self, ask, line):
        """The troubles of the replicas that the request was sent to."""
        sent = [self.world.by_place[place] for place in line["to"].split(", ") if place in self.world.by_place]
        sent += [self.world.replicas[ask.owner]] if ask.owner else []
        return set().union(*(replica.met(ask.began, ask.ended) for replica in sent))

    def cause(self, ask, line, form):
        """Why a request may have failed so; None if it may not."""
        forms = {**FORMS, **(BOUND if ask.owner else {})}
        for kind in sorted(self.met(ask, line)):
            if form in forms.get(kind, ()):
                return kind
        if form != "503" or "no_replica" not in str(ask.seen[1]):
            return None
        if ask.owner and self.world.replicas[ask.owner].met(ask.began, ask.ended, RECOVERY_S):
            return "its replica was left alone"
        return "nobody there" if self.world.away(ask.pool, ask.began, ask.ended) else None

    def read(self):
        """Takes in what the access log has got."""
        data = self.rest + self.log.read()
        *lines, self.rest = data.split(b"\n")
        for text in lines:
            line = json.loads(text)
            self.lines += 1
            self.tries += int(line["attempts"])
            status = line["status"]
            self.statuses[status[0] + "xx"] += 1
            ask = self.open.get(line["id"])
            if ask is None:
                if line["id"].startswith("soak-"):
                    self.fail("a line too many", line=line)
                continue
            if ask.line:
                self.fail("two lines of one request", ask, line)
            ask.line = line
            self.settle(ask)

    def unanswered(self):
        """The requests that one side has not told of yet and must."""
        return [ask.id for ask in self.open.values() if not ask.seen or ask.seen not in MAYBE]

    async def follow(self):
        """Reads the access log for ever, and what has become old is forgotten."""
        while True:
            self.read()
            now = time.monotonic()
            for ask in [ask for ask in self.open.values() if ask.ended and ask.ended < now - LATE_S]:
                del self.open[ask.id]
                if ask.seen in MAYBE:
                    self.left["no line"] += 1
                else:
                    self.fail("no line in the access log", ask)
            for replica in self.world.replicas.values():
                replica.forget(now - KEPT_S)
            await asyncio.sleep(0.5)

    async def moves(self, away, reopen):
        """Moves the log away as logrotate does, and follows the new one."""
        self.world.access.rename(away)
        reopen()
        while not self.world.access.exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)  # what was being written
        self.read()
        if self.rest:
            self.fail(f"half a line in the log that was moved away: {self.rest[:200]}")
        self.log.close()
        self.log, self.rest = self.world.access.open("rb"), b""
        away.unlink()
