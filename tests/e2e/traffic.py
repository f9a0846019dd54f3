"""A chat load for the scripts: streams with and without requested usage, and plain responses."""

import http.client
import json
import random
import re
import threading
import time
import urllib.parse
import urllib.request

KINDS = ("silent stream", "stream", "plain")
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


def page(url):
    """Returns the body of a GET."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def samples(text, name):
    """Returns the labels, as text, and values of a metric's series."""
    found = (SAMPLE.match(line) for line in text.splitlines())
    return [(match[2] or "", float(match[3])) for match in found if match and match[1] == name]


def total(text, name):
    """Returns the sum of a metric's series."""
    return sum(value for _, value in samples(text, name))


def chat(dice, model, kind, tokens):
    """Returns a request of one of a few conversations, each with its own prefix, for a number of tokens in a range."""
    beginning = f"conversation {dice.randrange(12)}. " + "a weir holds water back. " * dice.choice((4, 20, 60))
    question = f"question {dice.random()}: " + "over the weir " * dice.randrange(1, 40)
    body = {
        "model": model,
        "messages": [{"role": "system", "content": beginning}, {"role": "user", "content": question}],
        "max_tokens": dice.randrange(*tokens),
    }
    if kind != "plain":
        body["stream"] = True
    if kind == "stream":
        body["stream_options"] = {"include_usage": True}
    return body


class Traffic:
    """Clients that send sequential requests until stopped. Every response must be complete."""

    def __init__(self, router, models, clients, tokens):
        self.router, self.models, self.tokens = urllib.parse.urlsplit(router).netloc, models, tokens
        self.over, self.lock, self.sent, self.faults = threading.Event(), threading.Lock(), 0, []
        self.threads = [threading.Thread(target=self._client, args=(seed,), daemon=True) for seed in range(clients)]

    def start(self):
        """Starts all clients."""
        for thread in self.threads:
            thread.start()

    def stop(self):
        """Waits for the running requests; returns the number sent. Raises if any failed."""
        self.over.set()
        for thread in self.threads:
            thread.join(120)
        if self.faults or any(thread.is_alive() for thread in self.threads):
            raise SystemExit(f"FAIL requests: {self.faults[:3] or 'some did not end'}")
        return self.sent

    def _client(self, seed):
        dice = random.Random(seed)
        try:
            connection = http.client.HTTPConnection(self.router, timeout=120)
            while not self.over.is_set():
                self.ask(connection, chat(dice, dice.choice(self.models), dice.choice(KINDS), self.tokens))
                time.sleep(dice.random() / 10)
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.faults.append(f"{type(error).__name__}: {error}")

    def ask(self, connection, body):
        """Sends a request and reads its response; returns the replica that answered."""
        path, head = "/v1/chat/completions", {"content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), head)
        answer = connection.getresponse()
        upstream, text = answer.headers["x-upstream"], answer.read()
        assert answer.status == 200, text[:200]
        assert text.endswith(b"data: [DONE]\n\n") if body.get("stream") else json.loads(text)["usage"], text[-200:]
        with self.lock:
            self.sent += 1
        return upstream
