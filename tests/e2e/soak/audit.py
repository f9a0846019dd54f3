"""The audit: every request has a response and an access-log line, and every failure has a cause."""

import asyncio
import collections
import json
import time

from chaos import UNASKED
from world import RECOVERY_S

# Per fault of a tried replica: the forms in which a request may fail. Other faults must not be noticed.
FORMS = {
    "killed": {"error event", "502"},
    "500": {"500"},
    "503": {"503"},
    "429": {"429"},
    "close-before-head": {"502"},
    "close-after-head": {"502", "error event", "cut refusal"},
    "die-midstream": {"502", "error event", "cut refusal"},
    "cut-midstream": {"short"},
    "stall": {"504", "error event"},
    "error-event": {"500", "error event", "error, then its end"},
    "abort-event": {"abort", "error event"},
    "bad-chunk": {"502", "error event"},
    "no-usage": {"no usage"},
    "usage-everywhere": {"usage leaked"},
}
# State that belongs to a replica is lost with it.
BOUND = {"killed": {"404", "502"}, "gone": {"404", "503"}}
MAYBE = [("left", "head")]  # a request without a response may have no line
LATE_S = 30  # a later line counts as missing
KEPT_S = 120  # longer than any request


class Audit:
    """Matches the clients' results with the access log and the replicas' faults."""

    def __init__(self, world):
        self.world, self.open, self.log, self.rest = world, {}, world.access.open("rb"), b""
        self.counts, self.explained, self.bad = collections.Counter(), collections.Counter(), []
        self.statuses, self.lines, self.tries, self.tokens = collections.Counter(), 0, 0, 0
        self.left, self.unasked = collections.Counter(), f":{world.replicas[UNASKED].port}"

    def sends(self, ask):
        self.open[ask.id] = ask

    def record(self, ask, seen):
        """Records the client's result, or the phase in which it left."""
        ask.seen, ask.ended = seen, time.monotonic()
        self.settle(ask)

    def fail(self, what, ask=None, line=None):
        """Records a failure without a cause."""
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
        """Judges a request once both sides are known."""
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
        """Checks that the log has the client's token counts."""
        self.counts["whole"] += 1
        if ask.expect:
            return
        met = self.met(ask, line)
        if line["outcome"] != "completed":
            self.fail("a complete response is not logged as completed", ask, line)
        elif (line["completion"], line["prompt"]) == (str(ask.tokens), str(ask.prompt)):
            self.tokens += ask.tokens
        elif line["completion"] == "-" and not ask.usage and (ask.pool == "open" or line["to"].endswith(self.unasked)):
            self.counts["not counted"] += 1
        elif not met & {"no-usage", "usage-everywhere"}:
            self.fail(f"the log's counts are not {ask.prompt} and {ask.tokens} tokens", ask, line)

    def shared(self, form, since, until):
        """Returns why one of several indistinguishable chat requests may have failed like this."""
        kinds = set().union(*(replica.met(since, until) for replica in self.world.replicas.values()))
        away = form == "503" and self.world.away("chat", since, until)
        if away or any(form in FORMS.get(kind, ()) for kind in kinds):
            self.explained[f"{form} (HTTP/2)"] += 1
            return True
        return False

    def met(self, ask, line):
        """Returns the faults of the replicas that the request was sent to."""
        sent = [self.world.by_place[place] for place in line["to"].split(", ") if place in self.world.by_place]
        sent += [self.world.replicas[ask.owner]] if ask.owner else []
        return set().union(*(replica.met(ask.began, ask.ended) for replica in sent))

    def cause(self, ask, line, form):
        """Returns why a request may have failed like this; None if it may not."""
        forms = {**FORMS, **(BOUND if ask.owner else {})}
        for kind in sorted(self.met(ask, line)):
            if form in forms.get(kind, ()):
                return kind
        if form != "503" or "no_replica" not in str(ask.seen[1]):
            return None
        if ask.owner and self.world.replicas[ask.owner].met(ask.began, ask.ended, RECOVERY_S):
            return "its replica was ejected"
        return "no replica" if self.world.away(ask.pool, ask.began, ask.ended) else None

    def read(self):
        """Reads new lines of the access log."""
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
                    self.fail("an unexpected line", line=line)
                continue
            if ask.line:
                self.fail("two lines of one request", ask, line)
            ask.line = line
            self.settle(ask)

    def unanswered(self):
        """Returns the requests that lack a result or a log line."""
        return [ask.id for ask in self.open.values() if not ask.seen or ask.seen not in MAYBE]

    async def follow(self):
        """Reads the access log until cancelled, and forgets old requests."""
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
        """Rotates the log as logrotate does, and follows the new one."""
        self.world.access.rename(away)
        reopen()
        while not self.world.access.exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)  # for lines that are being written
        self.read()
        if self.rest:
            self.fail(f"half a line in the log that was moved away: {self.rest[:200]}")
        self.log.close()
        self.log, self.rest = self.world.access.open("rb"), b""
        away.unlink()
