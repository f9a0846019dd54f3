#!/usr/bin/env python3
"""The router's token counts compared with the engines': usage: truth.py ROUTER ADMIN MODEL REPLICA...

Runs streams with and without requested usage, and plain responses, all to their ends. The totals must be equal. Then
it runs streams only and samples the router's estimate of resident tokens. On average it may differ from the engines'
tokens by a tenth. Prints a table and ends with `ok` or `FAIL` lines.

An emulated engine reports its tokens exactly, and only its samples can fail the test. vLLM reports used KV blocks.
They are rounded up per request, so half a block is subtracted. Requests with a common prefix share them, so here all
prefixes differ. Without enough CPU they are reported late, and then the number of requests differs, too; it is printed.
"""

import re
import sys
import threading
import time

import traffic
from traffic import Traffic, page, samples, total

MOMENTS = 100
PROMPT_S = 0.05  # slower pages do not describe one moment
TOTALS = {
    "prompt tokens": ("tokenweir_prompt_tokens_total", "vllm:prompt_tokens_total"),
    "completion tokens": ("tokenweir_completion_tokens_total", "vllm:generation_tokens_total"),
}


class Fresh(Traffic):
    """Streams without requested usage and with unique prefixes."""

    def ask(self, connection, body):
        body.pop("stream_options", None)
        body["stream"] = True
        body["messages"] = [{"role": "user", "content": f"{body['messages'][1]['content'][9:]} " * 3}]
        return super().ask(connection, body)


def counts(admin, replicas):
    """Returns the totals by name and side."""
    ours, theirs = page(f"{admin}/metrics"), [page(f"{replica}/metrics") for replica in replicas]
    return {
        name: (total(ours, mine), sum(total(text, other) for text in theirs)) for name, (mine, other) in TOTALS.items()
    }


def held(text):
    """Returns the tokens that an engine holds by its metrics, and whether that is exact."""
    exact = samples(text, "emulated:resident_tokens")
    if exact:
        return exact[0][1], True
    config = samples(text, "vllm:cache_config_info")[0][0]
    size, blocks = (int(re.search(rf'{name}="(\d+)"', config)[1]) for name in ("block_size", "num_gpu_blocks"))
    taken = total(text, "vllm:kv_cache_usage_perc") * (blocks - 1)  # one block is reserved
    return max(0.0, (taken - total(text, "vllm:num_requests_running") / 2) * size), False


def fetch(urls):
    """Fetches all pages concurrently."""
    texts = [None] * len(urls)

    def get(at):
        texts[at] = page(urls[at])

    threads = [threading.Thread(target=get, args=(at,)) for at in range(len(urls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return texts


def moments(admin, replicas):
    """Returns samples of the resident tokens and the requests of both sides, where the engines hold tokens."""
    seen = []
    until = time.monotonic() + 60
    while len(seen) < MOMENTS and time.monotonic() < until:
        time.sleep(0.1)
        began = time.monotonic()
        ours, *theirs = fetch([f"{each}/metrics" for each in (admin, *replicas)])
        if time.monotonic() - began > PROMPT_S:
            continue  # without enough CPU an engine delays its page, sometimes by seconds
        truth = sum(held(text)[0] for text in theirs)
        if truth > 0:
            running = sum(total(text, "vllm:num_requests_running") for text in theirs)
            resident, in_flight = (total(ours, f"tokenweir_{name}") for name in ("resident_tokens", "in_flight"))
            seen.append((resident, truth, in_flight, running))
    return seen


def settled(admin, replicas):
    """Waits until no request runs, so that both sides have counted all."""
    for _ in range(100):
        running = sum(total(page(f"{replica}/metrics"), "vllm:num_requests_running") for replica in replicas)
        if total(page(f"{admin}/metrics"), "tokenweir_in_flight") == running == 0:
            time.sleep(1)  # engines publish their totals a little later
            return
        time.sleep(0.1)
    raise SystemExit("FAIL a request still runs")


def main():
    """Runs mixed requests for the totals, and streams for the samples."""
    router, admin, model, *replicas = sys.argv[1:]
    settled(admin, replicas)
    before = counts(admin, replicas)
    mixed = Traffic(router, [model], 8, (20, 120))
    mixed.start()
    time.sleep(8)
    sent = mixed.stop()
    streams = Fresh(router, [model], 4, (600, 1800))
    streams.start()
    time.sleep(8)  # the router learns tokens per event from completed streams
    seen = moments(admin, replicas)
    sent += streams.stop()
    settled(admin, replicas)
    after, faults = counts(admin, replicas), []
    print(f"{sent} requests\n{'':<22} {'router':>10} {'engines':>10}")
    for name, sides in after.items():
        ours, theirs = (now - then for now, then in zip(sides, before[name]))
        print(f"{name:<22} {ours:>10.0f} {theirs:>10.0f}")
        if ours != theirs:
            faults.append(f"{name} differ by {ours - theirs:.0f}")
    resident, truth, in_flight, running = (sum(column) / max(1, len(seen)) for column in zip(*(seen or [(0, 0, 0, 0)])))
    error = sum(abs(ours - theirs) / theirs for ours, theirs, *_ in seen) / max(1, len(seen))
    print(f"{'resident tokens, mean':<22} {resident:>10.0f} {truth:>10.0f}")
    print(f"{'requests, mean':<22} {in_flight:>10.1f} {running:>10.1f}")
    print(f"mean error of resident tokens in {len(seen)} samples: {error:.1%}")
    exact = all(held(page(f"{replica}/metrics"))[1] for replica in replicas)
    if exact and (len(seen) < MOMENTS / 2 or error > 0.1):
        faults.append(f"resident tokens are off by {error:.1%} on average")
    for fault in faults:
        print(f"FAIL {fault}")
    if not faults:
        print("ok token counts match the engines'")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
