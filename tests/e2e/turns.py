#!/usr/bin/env python3
"""turns.py ROUTER MODEL BLOCK NAME [--least PERCENT] [--claude-code [--no-billing-header]]

Sends conversations of several turns through a router. Prints the tokens that the replicas found in their caches as a
share of the possible ones: all whole blocks of BLOCK tokens of the previous turn's prompt. NAME makes the conversations
differ from those of other runs. Fails below PERCENT.

With --claude-code the requests are Anthropic messages, framed as Claude Code does: its `x-anthropic-billing-header`,
whose `cch` changes with every request, is the first block of `system`.
"""

import argparse
import json
import sys
import threading
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

CONVERSATIONS, TURNS, WORDS = 12, 5, 120
SYSTEM = "You are a coding agent. " + " ".join(f"Rule {rule}: read before you write." for rule in range(12))


def post(options, path, body):
    body |= {"model": options.model, "max_tokens": 8, "temperature": 0}
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(options.router + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["usage"]


def ask_chat(options, messages):
    """Returns the prompt's tokens and those of them that were cached."""
    usage = post(options, "/v1/chat/completions", {"messages": messages})
    return usage["prompt_tokens"], (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def ask_claude_code(options, messages):
    """Returns the prompt's tokens and those of them that were cached."""
    system = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    if options.billing_header:
        header = f"x-anthropic-billing-header: cc_version=2.1.40.a1b; cc_entrypoint=cli; cch={uuid.uuid4().hex[:5]};"
        system.insert(0, {"type": "text", "text": header})
    usage = post(options, "/v1/messages", {"system": system, "messages": messages})
    cached = usage.get("cache_read_input_tokens") or 0
    return usage["input_tokens"] + cached + (usage.get("cache_creation_input_tokens") or 0), cached


def converse(options, name, sums, lock):
    ask = ask_claude_code if options.claude_code else ask_chat
    messages, before = [], 0
    for turn in range(TURNS):
        text = " ".join(f"{name} {turn} {word}" for word in range(WORDS // 3))
        messages.append({"role": "user", "content": text})
        prompt, cached = ask(options, messages)
        with lock:
            sums["possible"] += before // options.block * options.block
            sums["cached"] += cached if turn else 0
            sums["prompt"] += prompt
        before = prompt
        # A random model's output does not tokenize back to the same tokens, so it is left out.
        messages.append({"role": "assistant", "content": "Go on."})


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("router")
    parser.add_argument("model")
    parser.add_argument("block", type=int)
    parser.add_argument("name")
    parser.add_argument("--least", type=float, default=0)
    parser.add_argument("--claude-code", action="store_true")
    parser.add_argument("--billing-header", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main():
    options = arguments()
    sums, lock = {"possible": 0, "cached": 0, "prompt": 0}, threading.Lock()
    with ThreadPoolExecutor(CONVERSATIONS) as pool:
        running = [pool.submit(converse, options, f"{options.name} {at}", sums, lock) for at in range(CONVERSATIONS)]
    for conversation in running:
        conversation.result()  # raises what a request raised
    share = 100 * sums["cached"] / max(sums["possible"], 1)
    print(
        f"{options.name}: {sums['cached']} of {sums['possible']} possible tokens cached, {share:.1f} %"
        f" ({sums['prompt']} prompt tokens)"
    )
    return 0 if share >= options.least else 1


sys.exit(main())
