#!/usr/bin/env python3
"""Faults of real replicas: two vLLM replicas behind the router fail in several ways.

usage: trouble.py ROUTER_URL ADMIN_URL REPLICA_URL REPLICA_URL [--no-kill] [--only NAME]...

Prints `ok NAME` or `FAIL NAME: why`, with `#` lines of observations, and ends with `N passed, N failed`.
Replicas are killed by the process ids that start.sh recorded, and restarted with it; `--no-kill` does not kill them.
"""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from openai import AsyncOpenAI

HERE = pathlib.Path(__file__).parent
HOME = pathlib.Path(os.environ.get("REAL_VLLM_HOME", pathlib.Path.home() / ".cache/real-vllm"))
BACK_WITHIN_S = 70
LONG = 3500  # tokens: some seconds, so that a kill falls in the middle


def total(url, beginning):
    """Returns the sum of the series of `/metrics` with this prefix."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(beginning))


class Replica:
    """A vLLM started by start.sh."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        self.address = urllib.parse.urlsplit(url).netloc
        self.port = int(self.address.rsplit(":", 1)[1])

    def pid(self):
        """Returns the API server's id; it leads its process group."""
        return int((HOME / f"{self.port}.pid").read_text())

    def engine_pid(self):
        """Returns the id of the API server's engine process."""
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if "EngineCore" in (entry / "cmdline").read_text() and os.getpgid(int(entry.name)) == self.pid():
                    return int(entry.name)
            except OSError:
                continue
        raise AssertionError("no engine process")

    def start(self):
        """Restarts it and waits until it serves."""
        try:
            os.killpg(self.pid(), signal.SIGKILL)  # processes left by a partial kill
            time.sleep(1)
        except OSError:
            pass
        subprocess.run([HERE / "start.sh", "1", str(self.port)], check=True, stdout=subprocess.DEVNULL)

    def running(self):
        """Returns the number of running requests from its metrics."""
        return total(self.url, "vllm:num_requests_running")


class Scene:
    """The router, its replicas and a client."""

    def __init__(self, args):
        self.router, self.admin = args.router.rstrip("/"), args.admin.rstrip("/")
        self.replicas = [Replica(url) for url in args.replica]

    def denied(self):
        """Returns the number of retries that the router's budget refused."""
        return total(self.admin, 'tokenweir_retries_total{pool="default",result="denied"}')

    def client(self):
        """Returns a client that does not retry, so its results are the router's."""
        return AsyncOpenAI(base_url=f"{self.router}/v1", api_key="unused", timeout=240, max_retries=0)

    async def quick(self, client):
        """Sends a short request; returns the replica that answered."""
        raw = await client.chat.completions.with_raw_response.create(**chat_request("hello", 4))
        assert raw.parse().choices, "no answer"
        return raw.headers.get("x-upstream", "?")

    async def spread(self, count):
        """Sends `count` short requests, eight at a time, and returns how many each replica answered."""
        seen = collections.Counter()
        async with self.client() as client:
            for start in range(0, count, 8):
                seen.update(await asyncio.gather(*(self.quick(client) for _ in range(min(8, count - start)))))
        return seen


def chat_request(text, tokens, **more):
    """Returns a request for exactly `tokens` tokens."""
    messages = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": messages, "max_tokens": tokens, "extra_body": {"ignore_eos": True}} | more


Seen = collections.namedtuple("Seen", "kind state events upstream detail")


def describe(error, began):
    """Returns an error's message, cause and time."""
    cause = f" ({error.__cause__!r})" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"[:160] + f" after {time.monotonic() - began:.0f} s"


async def whole(client, number, begun):
    """Sends a long request without a stream; returns `whole`, `short` or `error`."""
    began = time.monotonic()
    try:
        raw = await client.chat.completions.with_raw_response.create(**chat_request(f"whole {number}", LONG))
        answer = raw.parse()
    except Exception as error:  # every class of failure is recorded
        return Seen("whole", "error", 0, "?", describe(error, began))
    reason = answer.choices[0].finish_reason
    full = answer.usage.completion_tokens == LONG and reason == "length"
    return Seen("whole", "whole" if full else "short", 1, raw.headers.get("x-upstream"), reason)


async def stream(client, number, begun):
    """Reads a long stream and adds it to `begun`: `whole`, `short` (a clean end before the last token), or `error`."""
    events, tokens, reason, upstream, began = 0, None, None, "?", time.monotonic()
    try:
        wish = chat_request(f"stream {number}", LONG, stream=True, stream_options={"include_usage": True})
        raw = await client.chat.completions.with_raw_response.create(**wish)
        upstream = raw.headers.get("x-upstream")
        async for chunk in raw.parse():
            events += 1
            if events == 5:
                begun[number] = upstream
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
            reason = (chunk.choices[0].finish_reason if chunk.choices else None) or reason
    except Exception as error:  # every class of failure is recorded
        return Seen("stream", "error", events, upstream, describe(error, began))
    full = tokens == LONG and reason == "length"
    return Seen("stream", "whole" if full else "short", events, upstream, f"{reason}, {tokens} tokens")


async def both_serve(scene):
    seen = await scene.spread(40)
    print(f"# {dict(seen)}")
    assert set(seen) == {r.address for r in scene.replicas}, "one replica got nothing"


async def idle_pause(scene):
    for pause in (6.0, 5.0, 4.98):  # vLLM closes an idle connection after 5 s; at 5.0 the two cross on the wire
        await scene.spread(16)
        await asyncio.sleep(pause)
        seen = await scene.spread(16)
        print(f"# after {pause} s: {dict(seen)}")


async def client_abort(scene):
    host, port = urllib.parse.urlsplit(scene.router).netloc.rsplit(":", 1)

    def working():
        return sum(replica.running() for replica in scene.replicas)

    for streaming in (True, False):
        body = chat_request("hello", 3000, stream=streaming)
        body |= body.pop("extra_body")
        body = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        for attempt in range(3):  # after a delay the engine may be done before the check
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                try:
                    await until(lambda: working() == 1, 3, "an engine runs the request")
                    break
                except AssertionError:
                    assert attempt < 2, "no engine was seen working on a long answer in three attempts"
        took = await until(lambda: working() == 0, 1, "the engine is idle")
        print(f"# stream={streaming}: the engine was idle {took * 1000:.0f} ms after the client left")


async def until(holds, seconds, what):
    """Waits for a condition and returns how long it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def strike(scene, kill):
    """Runs 20 long requests, applies a fault in the middle, and checks the end of each."""
    for replica in scene.replicas:  # compilation on first use would delay one of the replicas
        async with AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="unused", timeout=240) as client:
            for size in (1, 4, 8):
                await asyncio.gather(*(client.chat.completions.create(**chat_request(f"{n}", 60)) for n in range(size)))
    await scene.spread(24)  # fills the retry budget
    async with scene.client() as client:
        begun = {}
        # Shuffled, because some policy's rotation could send all streams to one replica in any regular order.
        early = random.Random(5).sample([(run, n) for n in range(7) for run in (whole, stream)], 14)
        tasks = [asyncio.create_task(run(client, n, begun)) for run, n in early]
        await until(lambda: len(begun) == 7, 90, "seven streams have begun")  # a replica just started compiles first
        tasks += [asyncio.create_task(run(client, n, begun)) for n in range(7, 10) for run in (whole, stream)]
        await asyncio.sleep(0.02)
        flowed = collections.Counter(begun.values())
        unfinished = sum(not task.done() for task in tasks)
        denied = scene.denied()
        kill()
        seen = await asyncio.gather(*tasks)
        denied = scene.denied() - denied
        print(f"# {unfinished} of 20 requests ran when it was killed; streams that had begun: {dict(flowed)}")
        counts = collections.Counter(s[:2] + (s.upstream,) for s in seen)
        for (kind, state, upstream), n in sorted(counts.items()):
            print(f"# {n} {kind} ended {state} ({upstream})")
        for detail, n in collections.Counter((s.kind, s.detail) for s in seen if s.state != "whole").items():
            print(f"#   {n} x {detail}")
        after = collections.Counter([await scene.quick(client) for _ in range(10)])
        print(f"# ten requests after it: {dict(after)}")
    if all(s.state == "whole" for s in seen):
        print("# nothing was cut: without enough CPU, vLLM sends a stream in one piece at its end")
    short = [s for s in seen if s.state == "short"]
    assert not short, f"{len(short)} incomplete responses look complete: {short[0]}"
    lost = [s for s in seen if s.state == "error" and s.events == 0]
    print(f"# {len(lost)} requests failed before the first byte, {denied:.0f} retries were refused by the budget")
    assert len(lost) <= denied, f"{len(lost)} requests failed before the first byte: {lost[0]}"


async def comes_back(scene, replica):
    """Restarts the replica and waits until the router sends it requests."""
    await asyncio.to_thread(replica.start)
    began = time.monotonic()
    while replica.address not in (seen := await scene.spread(8)):
        assert time.monotonic() - began < BACK_WITHIN_S, f"no request within {BACK_WITHIN_S} s: {dict(seen)}"
        await asyncio.sleep(0.5)
    print(f"# it got requests {time.monotonic() - began:.1f} s after it was healthy")


async def killed_replica(scene):
    replica = scene.replicas[1]
    await strike(scene, lambda: os.killpg(replica.pid(), signal.SIGKILL))


async def killed_replica_comes_back(scene):
    await comes_back(scene, scene.replicas[1])


async def killed_engine(scene):
    """Kills only the engine: the API server answers 500, or ends streams with an error and [DONE]."""
    replica = scene.replicas[0]
    await strike(scene, lambda: os.kill(replica.engine_pid(), signal.SIGKILL))


async def killed_engine_comes_back(scene):
    await comes_back(scene, scene.replicas[0])


async def terminated_replica(scene):
    """Sends SIGTERM: vLLM ends running requests with 200 and `finish_reason: "abort"`."""
    replica = scene.replicas[1]
    await strike(scene, lambda: os.kill(replica.pid(), signal.SIGTERM))


async def terminated_replica_comes_back(scene):
    await comes_back(scene, scene.replicas[1])


GENTLE = [both_serve, idle_pause, client_abort]
ROUGH = [
    killed_replica,
    killed_replica_comes_back,
    killed_engine,
    killed_engine_comes_back,
    terminated_replica,
    terminated_replica_comes_back,
]


def main():
    """Reads the arguments, runs the cases, prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("router", help="http://HOST:PORT")
    parser.add_argument("admin", help="http://HOST:PORT of its admin listener")
    parser.add_argument("replica", nargs=2, help="http://HOST:PORT")
    parser.add_argument("--no-kill", action="store_true", help="do not kill the replicas")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    args = parser.parse_args()
    scene = Scene(args)
    passed = failed = 0
    for run in GENTLE if args.no_kill else GENTLE + ROUGH:
        if args.only and run.__name__ not in args.only:
            continue
        try:
            asyncio.run(run(scene))
            passed += 1
            print(f"ok {run.__name__}", flush=True)
        except Exception as error:  # any failure; the next case runs
            failed += 1
            why = f"{type(error).__name__}: {error}".replace("\n", " ")[:400]
            print(f"FAIL {run.__name__}: {why}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
