#!/usr/bin/env python3
"""turns.py ROUTER MODEL BLOCK NAME [LEAST]

Sends conversations of several turns through a router. Measures the replicas' `cached_tokens` as a
share of the possible ones. Possible are all whole blocks of BLOCK tokens of the previous turn's prompt. NAME makes the
conversations differ from those of other runs. Fails below LEAST percent.
"""

import json
import sys
import threading
import urllib.request

CONVERSATIONS, TURNS, WORDS = 12, 5, 120


def ask(router, model, messages):
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        router + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def converse(router, model, block, name, sums, lock):
    messages, before = [], 0
    for turn in range(TURNS):
        text = " ".join(f"{name} {turn} {word}" for word in range(WORDS // 3))
        messages.append({"role": "user", "content": text})
        answer = ask(router, model, messages)
        usage = answer["usage"]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        with lock:
            sums["possible"] += before // block * block
            sums["cached"] += cached if turn else 0
            sums["prompt"] += usage["prompt_tokens"]
        before = usage["prompt_tokens"]
        # A random model's output does not tokenize back to the same tokens, so it is left out.
        messages.append({"role": "assistant", "content": "Go on."})


def main():
    router, model, block, name = sys.argv[1:5]
    least = float(sys.argv[5]) if len(sys.argv) > 5 else 0
    sums, lock = {"possible": 0, "cached": 0, "prompt": 0}, threading.Lock()
    threads = [
        threading.Thread(target=converse, args=(router, model, int(block), f"{name} {at}", sums, lock))
        for at in range(CONVERSATIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    share = 100 * sums["cached"] / max(sums["possible"], 1)
    print(f"{name}: {sums['cached']} of {sums['possible']} possible tokens cached, {share:.0f} % ({sums['prompt']} prompt tokens)")
    return 0 if share >= least else 1


sys.exit(main())
