"""The requests and their expected responses."""

import json
import random
import re
import time

from config import secret

# The emulator's words: one per token, always in this order.
WORDS = (
    "water flows over the weir and each gate opens when its share is due so that no basin spills while another stands "
    "dry today"
).split()
MOST = 64
TEXT = [" ".join(WORDS[at % len(WORDS)] for at in range(n)).encode() for n in range(MOST + 1)]
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
# The spelling of a stream's text, its end and its usage.
PIECES = {
    "chat": re.compile(rb'"delta":\{(?:"role":"assistant",)?"content":"([^"]*)"'),
    "completions": re.compile(rb'"text":"([^"]*)"'),
    "messages": re.compile(rb'"text_delta","text":"([^"]*)"'),
    "responses": re.compile(rb'"delta":"([^"]*)"'),
}
ENDS = {
    "chat": b"data: [DONE]\n\n",
    "completions": b"data: [DONE]\n\n",
    "messages": b'data: {"type":"message_stop"}\n\n',
    "responses": b'"type":"response.completed"}\n\n',
}
USAGE = re.compile(rb'"(?:completion|output)_tokens":(\d+)')
ID = re.compile(rb'"id":"(resp_[0-9a-f]+)"')
ERROR = re.compile(rb'data: \{"error"|event: error\n')
POOL_SHARES = {"chat": 40, "pair": 14, "ring": 14, "talk": 12, "cook": 12, "open": 8}
DIALECT_SHARES = {"chat": 70, "completions": 15, "messages": 12, "responses": 3}

corpus = random.Random(7)
CORPUS = " ".join(
    "".join(corpus.choice("etaoinshrdlucmfwypvbgk") for _ in range(corpus.randrange(2, 9))) for _ in range(150_000)
)


def pick(dice, shares):
    """Returns a random name by its share."""
    return dice.choices(list(shares), shares.values())[0]


class Ask:
    """A request, its expected response, and its outcome."""

    __slots__ = ("id", "number", "kind", "pool", "dialect", "stream", "tokens", "prompt", "usage", "text", "message")
    __slots__ += ("session", "key", "owner", "expect", "began", "ended", "seen", "line")

    def __init__(self, number, kind):
        self.id, self.number, self.kind = f"soak-{number}", number, kind
        self.began, self.ended = time.monotonic(), None
        self.pool, self.dialect, self.stream, self.tokens, self.prompt = "chat", "chat", False, 0, None
        self.usage, self.expect, self.owner, self.seen, self.line = False, None, None, None, None
        self.session, self.text, self.key = None, "", "a"

    def sent(self, method, path, body, headers=()):
        """Formats the request."""
        host = "open.test" if self.pool == "open" else "127.0.0.1"
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"x-request-id: {self.id}", *headers]
        if not any(line.startswith(("authorization", "x-api-key")) for line in headers):
            lines.append(f"authorization: Bearer {secret(self.key)}")
        if method == "POST":
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        self.message = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        return self


def excerpt(dice, size):
    """Returns a random excerpt of a number of characters."""
    at = dice.randrange(len(CORPUS) - size)
    return CORPUS[at : at + size]


def generation(number, dice, kind, turns=None, pool=None):
    """Returns a request for text. `turns` are a conversation so far; large ones have a body of 1 MiB."""
    ask = Ask(number, kind)
    ask.pool, ask.dialect = pool or pick(dice, POOL_SHARES), "chat" if turns else pick(dice, DIALECT_SHARES)
    ask.stream = kind in ("slow", "leaving") or dice.random() < 0.7
    ask.tokens = dice.randrange(24, MOST + 1) if kind in ("slow", "leaving") else dice.randrange(1, MOST + 1)
    model = {"open": "m", "chat": dice.choice(("chat", "gpt-4o"))}.get(ask.pool, ask.pool)
    body = {"model": model, "stream": ask.stream}
    if kind == "large":
        ask.text = excerpt(dice, 400_000)
        body["metadata"] = {"padding": "x" * 620_000}
    else:
        ask.text = excerpt(dice, dice.choice((60, 200, 200, 1000, 6000)))
    if ask.dialect in ("chat", "messages"):
        body["messages"] = [*(turns or ()), {"role": "user", "content": ask.text}]
        size = sum(len(turn["role"]) + len(turn["content"]) + 2 for turn in body["messages"])
    else:
        body["prompt" if ask.dialect == "completions" else "input"] = ask.text
        size = len(ask.text)
    ask.prompt = max(1, -(-size // 4))
    body["max_output_tokens" if ask.dialect == "responses" else "max_tokens"] = ask.tokens
    ask.usage = ask.stream and ask.dialect in ("chat", "completions") and dice.random() < 0.4
    if ask.usage:
        body["stream_options"] = {"include_usage": True}
    ask.session = f"s{dice.randrange(3000)}" if ask.pool == "talk" else None
    headers = [f"x-emulate-tokens-per-event: {dice.choice((1, 1, 2, 4))}"]
    headers += [f"x-session-id: {ask.session}"] if ask.session else []
    headers += ["accept-encoding: gzip"] if dice.random() < 0.3 else []
    ask.key = "b" if ask.pool in ("chat", "pair", "talk") and dice.random() < 0.3 else "a"
    return ask.sent("POST", PATHS[ask.dialect], json.dumps(body).encode(), headers)


def chat_body(model="chat", **more):
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    return json.dumps({**body, **more}).encode()


def bad(number, dice):
    """Returns a request that must be refused, with the expected words."""
    ask, chat = Ask(number, "bad"), PATHS["chat"]
    long = {"messages": [{"role": "user", "content": excerpt(dice, 540_000)}]} if dice.random() < 0.05 else None
    if long:
        ask.expect = (400, b"maximum context length")
        return ask.sent("POST", chat, chat_body(**long))
    method, path, body, headers, ask.expect = dice.choice(
        (
            ("POST", chat, b'{"model": "chat", "messages": [', (), (400, b"")),
            ("POST", chat, b"[" * 5000, (), (400, b"")),
            ("POST", chat, b'{"model": 7, "messages": []}', (), (400, b'"param":"model"')),
            ("POST", chat, chat_body("no-such-model"), (), (404, b"model_not_found")),
            ("POST", chat, chat_body("ring"), (f"x-api-key: {secret('b')}",), (404, b"model_not_found")),
            ("POST", chat, chat_body(), ("authorization: Bearer sk-wrong",), (401, b"invalid_api_key")),
            ("POST", chat, chat_body(), ("x-api-key:",), (401, b"invalid_api_key")),
            ("POST", chat, chat_body(temperature=-1), (), (400, b"non-negative")),
            ("POST", "/sleep", b"{}", (), (404, b"unknown_url")),
            ("POST", "/closed/now", b"{}", (), (403, b"permission_error")),
            ("GET", chat, b"", (), (405, b"method_not_supported")),
            ("POST", "/v1/models", b"{}", (), (405, b"")),
            ("POST", chat, b" " * 5_000_000 if dice.random() < 0.02 else b"", (), None),
        )
    )
    if ask.expect is None:
        ask.expect = (413, b"body_bytes") if body else (400, b"")
    return ask.sent(method, path, body, headers)


def other(number, dice):
    """Returns a valid request for something other than text."""
    ask = Ask(number, "other")
    method, path, body, words = dice.choice(
        (
            ("GET", "/v1/models", b"", b'"gpt-4o"'),
            ("GET", "/v1/models/chat", b"", b'"chat"'),
            ("GET", "/livez", b"", b""),
            ("OPTIONS", PATHS["chat"], b"", b""),
            ("POST", "/v1/embeddings", {"model": "chat", "input": excerpt(dice, 400)}, b"embedding"),
            ("POST", "/tokenize", {"model": "ring", "prompt": excerpt(dice, 40)}, b'"count":10'),
        )
    )
    ask.pool, ask.expect = "ring" if path == "/tokenize" else "chat", (200, words)
    headers = ("origin: https://a.test", "access-control-request-method: POST") if method == "OPTIONS" else ()
    if headers:
        ask.expect = (204, b"")
    return ask.sent(method, path, json.dumps(body).encode() if body else b"", headers)


def looked_up(number, made, id_, owner):
    """Returns a request for a stored response."""
    ask = Ask(number, "stored")
    ask.pool, ask.key, ask.began = made.pool, made.key, made.began
    ask.owner, ask.expect = owner, (200, id_.encode())
    return ask.sent("GET", f"/v1/responses/{id_}", b"")


def see(ask, answer):
    """Classifies a response: `whole` or the form of its failure, and details."""
    if answer.status == 0 or answer.broke and not answer.body:
        return "broken", answer.broke
    if ask.expect:
        status, words = ask.expect
        if answer.status != status or answer.whole and words not in answer.body:
            return str(answer.status), answer.body[:300]
        return ("whole", "") if answer.whole else ("cut refusal", answer.body[:300])
    if answer.status != 200:
        return str(answer.status), answer.body[:300]
    return (stream if ask.stream else plain)(ask, answer)


def plain(ask, answer):
    """Classifies a response of one JSON text."""
    if not answer.whole:
        return "cut", answer.broke
    reply = json.loads(answer.body)
    if ask.dialect == "chat":
        text, finish = reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]
    elif ask.dialect == "completions":
        text, finish = reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]
    elif ask.dialect == "messages":
        text, finish = reply["content"][0]["text"], reply["stop_reason"]
    else:
        text, finish = reply["output"][0]["content"][0]["text"], reply["status"]
    if finish in ("abort", "cancelled", None):
        return "abort", finish
    if text.encode() != TEXT[ask.tokens]:
        return "wrong", f"{len(text.split())} words instead of {ask.tokens}: {text[:80]}"
    usage = reply.get("usage") or {}
    counted = usage.get("completion_tokens", usage.get("output_tokens"))
    return ("whole", "") if counted == ask.tokens else ("no usage", str(usage))


def stream(ask, answer):
    """Classifies a stream; the received part of its text must be correct."""
    text, error = b"".join(PIECES[ask.dialect].findall(answer.body)), ERROR.search(answer.body)
    if not TEXT[ask.tokens].startswith(text):
        return "wrong", f"{text[:200]} is not what was generated"
    ended = answer.body.endswith(ENDS[ask.dialect])
    if error:
        return ("error, then its end" if ended else "error event"), answer.body[error.start() :][:200]
    if not answer.whole:
        return "cut", f"{answer.broke} after {answer.body[-120:]}"
    if not ended:
        return "short", answer.body[-120:]
    if text != TEXT[ask.tokens]:
        if b'"status":"cancelled"' in answer.body:
            return "abort", "cancelled"
        return "wrong", f"{len(text.split())} words instead of {ask.tokens}, with a proper end"
    counts = USAGE.findall(answer.body)
    if ask.dialect in ("chat", "completions") and not ask.usage:
        return ("usage leaked", counts[0]) if counts else ("whole", "")
    return ("whole", "") if counts and int(counts[-1]) == ask.tokens else ("no usage", counts)
