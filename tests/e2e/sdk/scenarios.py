#!/usr/bin/env python3
"""Scenarios of the openai package for Python, run against one server and checked.

usage: scenarios.py BASE_URL MODEL --engine emulated|vllm [--metrics URL]... [--only NAME]... [--skip NAME]...

Prints `ok NAME` or `FAIL NAME: why` for each scenario and ends with `N passed, N failed`; the exit code is 1 if one failed.
`--metrics` names the engines' own /metrics pages: with them a disconnect scenario also checks that the engines stop.
BASE_URL may be an engine itself: a failure there is not the router's. (vLLM 0.32 without a
router passes all but model_by_name, which it does not serve.)
"""

import argparse
import asyncio
import inspect
import json
import re
import sys
import time
import traceback
import urllib.request

import openai
from openai import AsyncOpenAI, OpenAI

SCENARIOS = []
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
PICK_WEATHER = {"type": "function", "function": {"name": "get_weather"}}


def scenario(*engines):
    """Registers a function as a scenario for `engines` (all, if none is named)."""

    def register(function):
        SCENARIOS.append((function.__name__, engines, function))
        return function

    return register


class Bench:
    """A scenario's context: both clients, the model's name, and the engines' load."""

    def __init__(self, args):
        options = {"base_url": args.base_url, "api_key": "unused", "timeout": args.timeout, "max_retries": 0}
        self.client = OpenAI(**options)
        self.open_async = lambda: AsyncOpenAI(**options)
        self.model = args.model
        self.engine = args.engine
        self.metrics = args.metrics

    def ask(self, text="hello world", **more):
        """Returns arguments for a short chat request."""
        return {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 24} | more

    def long(self, **more):
        """Returns arguments for a response that takes seconds, so that a disconnect happens before its end."""
        return self.ask(max_tokens=3000, extra_body={"ignore_eos": True}) | more

    def running(self):
        """Returns the number of running requests from the engines' metrics."""
        total = 0.0
        for url in self.metrics:
            with urllib.request.urlopen(url, timeout=10) as page:
                for line in page.read().decode().splitlines():
                    if line.startswith("vllm:num_requests_running"):
                        total += float(line.rsplit(" ", 1)[1])
        return total

    def busy(self):
        """Waits until the engines are busy; returns whether they are. True without a metrics page."""
        end = time.monotonic() + 2
        while self.metrics and self.running() == 0 and time.monotonic() < end:
            time.sleep(0.05)
        return time.monotonic() < end

    def idle_within(self, seconds):
        """Fails unless the engines become idle. Does nothing without a metrics page."""
        end = time.monotonic() + seconds
        while self.running() > 0:
            assert time.monotonic() < end, f"{self.running():.0f} requests still running after {seconds} s"
            time.sleep(0.05)


def check_chunks(chunks, usage=False):
    """Checks the rules of every chat stream and returns its text."""
    assert len(chunks) >= 2, f"only {len(chunks)} chunks"
    assert len({c.id for c in chunks}) == 1, "chunks of several responses in one stream"
    with_usage = [c for c in chunks if c.usage is not None]
    if usage:
        assert len(with_usage) == 1 and chunks[-1] is with_usage[0], "usage is not exactly the last chunk's"
        assert chunks[-1].choices == [], "the usage chunk has choices"
        assert chunks[-1].usage.completion_tokens > 0
        chunks = chunks[:-1]
    else:
        assert not with_usage, "unrequested usage"
    assert all(len(c.choices) == 1 for c in chunks), "a chunk without a choice"
    finished = [c for c in chunks if c.choices[0].finish_reason]
    assert len(finished) == 1 and finished[0].choices[0].finish_reason in ("stop", "length"), "no proper end"
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text, "no text"
    return text


def check_answer(answer, choices=1):
    """Checks the rules of every chat completion."""
    assert answer.object == "chat.completion" and answer.id
    assert [c.index for c in answer.choices] == list(range(choices))
    for choice in answer.choices:
        assert choice.finish_reason in ("stop", "length"), choice.finish_reason
        assert choice.message.role == "assistant" and choice.message.content
    assert answer.usage.prompt_tokens > 0 and answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def check_arguments(b, text):
    """Checks that a tool's arguments are complete; an emulated engine generates arbitrary values."""
    arguments = json.loads(text)
    assert isinstance(arguments, dict) and arguments, text
    assert b.engine == "emulated" or arguments["city"] in ("Paris", "Rome"), text


def refusal(kind, call):
    """Returns the error of `call`, which must be exactly of class `kind` and have OpenAI's error body."""
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
        assert isinstance(error.body, dict) and error.body.get("message"), f"no error body: {error.body!r}"
        assert {"type", "param", "code"} <= set(error.body), f"error body lacks a field: {error.body!r}"
        return error
    raise AssertionError(f"no {kind.__name__}")


@scenario()
def chat(b):
    check_answer(b.client.chat.completions.create(**b.ask()))


@scenario()
async def chat_async(b):
    async with b.open_async() as client:
        check_answer(await client.chat.completions.create(**b.ask()))


@scenario()
def stream(b):
    check_chunks(list(b.client.chat.completions.create(**b.ask(stream=True))))


@scenario()
async def stream_async(b):
    async with b.open_async() as client:
        check_chunks([c async for c in await client.chat.completions.create(**b.ask(stream=True))])


@scenario()
def stream_with_helper(b):
    with b.client.chat.completions.stream(**b.ask()) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
    assert text and text == events.current_completion_snapshot.choices[0].message.content


@scenario()
def stream_with_usage(b):
    check_chunks(list(b.client.chat.completions.create(**b.ask(stream=True, stream_options={"include_usage": True}))), True)


@scenario()
def raw_response(b):
    raw = b.client.chat.completions.with_raw_response.create(**b.ask())
    assert raw.status_code == 200 and raw.headers["content-type"].startswith("application/json")
    check_answer(raw.parse())


@scenario()
def streaming_response(b):
    with b.client.chat.completions.with_streaming_response.create(**b.ask(stream=True)) as raw:
        assert raw.status_code == 200 and raw.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in raw.iter_lines() if line.startswith("data:")]
    assert lines[-1].removeprefix("data:").strip() == "[DONE]", f"ends with {lines[-1]!r}"
    for line in lines[:-1]:
        json.loads(line.removeprefix("data:"))


@scenario()
def request_id(b):
    raw = b.client.chat.completions.with_raw_response.create(**b.ask(extra_headers={"x-request-id": "e2e-id-1"}))
    assert raw.headers.get("x-request-id") == "e2e-id-1", f"x-request-id is {raw.headers.get('x-request-id')!r}"


@scenario()
def close_early(b):
    for _ in range(3):  # after a delay a real engine may be done before the check
        answer = b.client.chat.completions.create(**b.long(stream=True))
        for seen, _ in enumerate(answer):
            if seen == 3:
                break
        if busy := b.busy():
            break
    answer.close()
    assert busy, "no engine runs the long request"
    b.idle_within(2)
    check_answer(b.client.chat.completions.create(**b.ask()))


@scenario()
async def cancel_task(b):
    async with b.open_async() as client:
        for _ in range(3):  # after a delay a real engine may be done before the check
            task = asyncio.create_task(client.chat.completions.create(**b.long()))
            await asyncio.sleep(0.3)
            if busy := await asyncio.to_thread(b.busy) and not task.done():
                break
        assert busy, "no engine runs the long request"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(b.idle_within, 2)


@scenario()
def client_timeout(b):
    try:
        b.client.with_options(timeout=0.5).chat.completions.create(**b.long())
        raise AssertionError("no timeout")
    except openai.APITimeoutError:
        pass
    b.idle_within(2)


@scenario()
def tool(b):
    options = b.ask(tools=[WEATHER], tool_choice=PICK_WEATHER, max_tokens=200, temperature=0)
    answer = b.client.chat.completions.create(**options)
    (call,) = answer.choices[0].message.tool_calls
    assert call.id and call.type == "function" and call.function.name == "get_weather"
    check_arguments(b, call.function.arguments)


@scenario()
def tool_stream(b):
    name, arguments, end = "", "", None
    options = b.ask(tools=[WEATHER], tool_choice=PICK_WEATHER, max_tokens=200, temperature=0, stream=True)
    for chunk in b.client.chat.completions.create(**options):
        choice = chunk.choices[0]
        end = choice.finish_reason or end
        for call in choice.delta.tool_calls or []:
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "get_weather", name
    check_arguments(b, arguments)
    assert end in ("stop", "tool_calls"), end


@scenario()
def two_choices(b):
    check_answer(b.client.chat.completions.create(**b.ask(n=2, temperature=1.0)), choices=2)


@scenario()
def two_choices_stream(b):
    texts, ends = ["", ""], [None, None]
    for chunk in b.client.chat.completions.create(**b.ask(n=2, stream=True)):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert all(texts) and all(ends), (texts, ends)


@scenario()
def logprobs(b):
    answer = b.client.chat.completions.create(**b.ask(logprobs=True, top_logprobs=2))
    content = answer.choices[0].logprobs.content
    assert len(content) >= answer.usage.completion_tokens - 1, f"{len(content)} of {answer.usage.completion_tokens}"
    assert all(t.logprob <= 0 and len(t.top_logprobs) >= 2 for t in content)


@scenario("vllm")
def structured_output(b):
    schema = {"name": "place", "strict": True, "schema": WEATHER["function"]["parameters"]}
    options = b.ask(max_tokens=200, temperature=0, response_format={"type": "json_schema", "json_schema": schema})
    text = b.client.chat.completions.create(**options).choices[0].message.content
    assert json.loads(text)["city"] in ("Paris", "Rome"), text


@scenario()
def completions(b):
    answer = b.client.completions.create(model=b.model, prompt="once upon", max_tokens=16)
    assert answer.object == "text_completion" and answer.choices[0].text and answer.usage.completion_tokens > 0


@scenario()
def completions_stream(b):
    chunks = list(b.client.completions.create(model=b.model, prompt="once upon", max_tokens=16, stream=True))
    assert "".join(c.choices[0].text for c in chunks), "no text"
    assert all(c.usage is None for c in chunks), "unrequested usage"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason], "no end"


@scenario("emulated")
def embeddings(b):
    answer = b.client.embeddings.create(model=b.model, input=["one", "two"])
    assert [e.index for e in answer.data] == [0, 1]
    assert all(len(e.embedding) > 1 and isinstance(e.embedding[0], float) for e in answer.data)


@scenario()
def responses(b):
    answer = b.client.responses.create(model=b.model, input="hello world", max_output_tokens=24)
    assert answer.id and answer.status in ("completed", "incomplete"), answer.status
    assert answer.output and answer.usage.output_tokens > 0


@scenario()
def responses_stream(b):
    events = list(b.client.responses.create(model=b.model, input="hello world", max_output_tokens=24, stream=True))
    kinds = [e.type for e in events]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert "response.output_text.delta" in kinds, kinds
    assert events[-1].response.usage.output_tokens > 0


@scenario()
def responses_retrieve(b):
    for turn in range(4):  # behind a router each turn must reach the replica that stored the last one
        made = b.client.responses.create(model=b.model, input=f"turn {turn}", max_output_tokens=8, store=True)
        assert b.client.responses.retrieve(made.id).id == made.id


@scenario()
def models(b):
    listed = b.client.models.list().data
    assert b.model in [m.id for m in listed], listed
    assert all(m.object == "model" for m in listed)


@scenario()
def model_by_name(b):
    assert b.client.models.retrieve(b.model).id == b.model


@scenario()
def unknown_model(b):
    error = refusal(openai.NotFoundError, lambda: b.client.chat.completions.create(**b.ask() | {"model": "no-such"}))
    assert "no-such" in error.body["message"], error.body


@scenario()
def bad_parameters(b):
    wrong = [{"temperature": -5}, {"max_tokens": -1}, {"max_tokens": "many"}]
    if b.engine == "vllm":
        wrong.append({"messages": "no list"})
    for fields in wrong:
        refusal(openai.BadRequestError, lambda: b.client.chat.completions.create(**b.ask(extra_body=fields)))


@scenario()
def bad_parameters_stream(b):
    refusal(openai.BadRequestError, lambda: b.client.chat.completions.create(**b.ask(temperature=-5, stream=True)))


@scenario()
def prompt_too_long(b):
    error = refusal(openai.BadRequestError, lambda: b.client.chat.completions.create(**b.ask("hello world " * 60_000)))
    assert re.search(r"maximum context length|max_model_len|longer than", error.body["message"]), error.body


@scenario()
def unicode_both_ways(b):
    text = "你好 🙂 naïve \u2028 \"quoted\" \\ back\u0000slash".replace("\u0000", "")
    check_chunks(list(b.client.chat.completions.create(**b.ask(text, stream=True))))


@scenario()
async def fifty_streams_without_cross_talk(b):
    async with b.open_async() as client:

        async def one(i):
            limit = 5 + i  # each stream has its own length, so a misrouted or lost event changes a count
            options = b.ask(f"stream {i} " + "word " * i, stream=True, stream_options={"include_usage": True})
            options |= {"max_tokens": limit, "extra_body": {"ignore_eos": True}}
            chunks = [c async for c in await client.chat.completions.create(**options)]
            check_chunks(chunks, usage=True)
            got = chunks[-1].usage.completion_tokens
            assert got == limit, f"stream {i} has {got} tokens instead of {limit}"
            return chunks[0].id, chunks[-1].usage.prompt_tokens

        seen = await asyncio.gather(*(one(i) for i in range(50)))
    assert len({id for id, _ in seen}) == 50, "two streams have one id"
    prompts = [tokens for _, tokens in seen]
    assert prompts == sorted(prompts) and prompts[0] < prompts[-1], f"prompt tokens do not increase with prompts: {prompts}"


def run(b, args):
    """Runs the chosen scenarios and returns how many passed and failed."""
    passed = failed = 0
    for name, engines, function in SCENARIOS:
        if (engines and b.engine not in engines) or name in args.skip or (args.only and name not in args.only):
            continue
        began = time.monotonic()
        try:
            outcome = function(b)
            if inspect.isawaitable(outcome):
                asyncio.run(outcome)
            passed += 1
            print(f"ok {name}", flush=True)
        except Exception as error:  # any failure; the next scenario runs
            failed += 1
            why = f"{type(error).__name__}: {error}".replace("\n", " ")[:400]
            print(f"FAIL {name}: {why}", flush=True)
            if args.verbose:
                traceback.print_exc()
        if args.verbose:
            print(f"   {time.monotonic() - began:.2f} s", flush=True)
    return passed, failed


def main():
    """Reads the arguments, runs the scenarios, prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base_url", help="http://HOST:PORT/v1")
    parser.add_argument("model")
    parser.add_argument("--engine", choices=["emulated", "vllm"], required=True)
    parser.add_argument("--metrics", action="append", default=[], metavar="URL", help="an engine's /metrics page")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME")
    parser.add_argument("--timeout", type=float, default=240, help="seconds; a real engine compiles on first use")
    parser.add_argument("--verbose", action="store_true", help="print tracebacks and durations")
    args = parser.parse_args()
    passed, failed = run(Bench(args), args)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
