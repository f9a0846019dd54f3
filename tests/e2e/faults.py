"""faults.py TOKENWEIR FOLDER: compares the faults of nginx and tokenweir over the same replicas.

Every nginx.conf here is the usual one of articles with two improvements: responses are not buffered, and 502 and 503
are retried. tokenweir runs its import by `tokenweir import`, without the lines marked as nginx's defaults.
"""

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys

TOKENWEIR, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
CHAT = "/v1/chat/completions"
SIDES = ("nginx", "tokenweir")
NGINX = """
daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/{side}.log;
events {{ worker_connections 768; }}
http {{
    access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
    uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    upstream backend {{ {policy} {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://backend;
            proxy_buffering off;
            proxy_next_upstream error timeout http_502 http_503;
            add_header X-Upstream $upstream_addr always;
        }}
    }}
}}
"""


class Replica:
    """An engine's HTTP interface with one fault."""

    def __init__(self, fault=None):
        self.fault, self.connections, self.sessions = fault, 0, []

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=4096, limit=1 << 16)
        self.port = self.server.sockets[0].getsockname()[1]
        if self.fault == "refuses":
            self.server.close()
        return self

    async def serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.answer(reader, writer):
                pass
        writer.close()

    async def answer(self, reader, writer):
        head, body = await read_message(reader)
        if "GET" in head[0]:
            return await reply(writer, "200 OK", {"object": "list", "data": [{"id": "m"}]})
        self.sessions.append(json.loads(body).get("prompt_cache_key"))
        if self.fault == "dies":
            writer.transport.abort()
            return False
        if self.fault in ("502", "503"):
            return await reply(writer, f"{self.fault} X", {})
        if "x-prefill" in head[1]:
            await asyncio.sleep(int(head[1]["x-prefill"]))
        if "x-stream" in head[1]:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {}\n\n")
            await asyncio.sleep(5)
            writer.write(b"data: [DONE]\n\n")
            return False
        return await reply(writer, "200 OK", {"choices": []})


async def reply(writer, status, body):
    text = json.dumps(body)
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}"
    writer.write(f"{head}\r\n\r\n{text}".encode())
    await writer.drain()
    return True


async def read_message(reader):
    """Reads a first line, headers by lower-case name, and a body; None if the message is incomplete."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    elif "content-length" in headers or not lines[0].startswith("HTTP/"):
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    else:
        body = await reader.read(-1)
    return (lines[0], headers), body


class Client:
    """A connection that reconnects after it was closed."""

    def __init__(self, port):
        self.port, self.link = port, None

    async def post(self, body, headers=""):
        """Returns status and body; status 0 if the connection broke."""
        try:
            if not self.link:
                self.link = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.link
            head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            (line, answered), body = await read_message(reader)
            if answered.get("connection") == "close":
                self.close()
            return int(line.split()[1]), body
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""

    def close(self):
        if self.link:
            self.link[1].close()
        self.link = None


def chat(session="s", padding=0):
    message = {"role": "user", "content": "x" * padding}
    return json.dumps({"model": "m", "prompt_cache_key": session, "messages": [message]}).encode()


async def many(port, bodies, at_once=10):
    """Returns the statuses of one POST per body."""
    queue, statuses = list(bodies), []

    async def work():
        client = Client(port)
        while queue:
            statuses.append((await client.post(queue.pop(0)))[0])
        client.close()

    await asyncio.gather(*(work() for _ in range(at_once)))
    return statuses


class Pair:
    """Both proxies, each in front of its own replicas; stopped on exit."""

    numbers = iter(range(1000))

    def __init__(self, faults, policy="", edit=lambda toml: toml):
        self.faults, self.policy, self.edit = faults, policy, edit

    async def __aenter__(self):
        self.dir = FOLDER / str(next(self.numbers))
        self.dir.mkdir()
        self.replicas, self.ports, self.running = {}, {}, []
        for side in SIDES:
            self.replicas[side] = [await Replica(fault).start() for fault in self.faults]
            free = await Replica().start()
            self.ports[side] = free.port
            free.server.close()
            conf = self.dir / f"{side}.conf"
            servers = " ".join(f"server 127.0.0.1:{replica.port};" for replica in self.replicas[side])
            words = {"dir": self.dir, "side": side, "port": self.ports[side], "policy": self.policy}
            conf.write_text(NGINX.format(servers=servers, **words))
        command = [TOKENWEIR, "import", self.dir / "tokenweir.conf"]
        self.imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        ours = "\n".join(line for line in self.imported.splitlines() if "# nginx's default" not in line)
        (self.dir / "router.toml").write_text(self.edit(ours))
        self.run("nginx", "nginx", "-p", self.dir, "-e", self.dir / "nginx.log", "-c", self.dir / "nginx.conf")
        self.run("tokenweir", "env", "TOKENWEIR__ADMIN=off", TOKENWEIR, "serve", "-c", self.dir / "router.toml")
        for side in SIDES:
            await self.listens(side)
        return self

    def run(self, side, *command):
        log = (self.dir / f"{side}.out").open("wb")
        self.running.append(subprocess.Popen(command, stdout=log, stderr=log))

    async def listens(self, side):
        for _ in range(200):
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", self.ports[side]))[1].close()
                return
            await asyncio.sleep(0.05)
        sys.exit(f"{side} does not listen: {(self.dir / f'{side}.out').read_text()}")

    async def __aexit__(self, *_):
        for process in self.running:
            process.terminate()
        for process in self.running:
            await asyncio.to_thread(process.wait)
        for replica in sum(self.replicas.values(), []):
            replica.server.close()

    def log_text(self):
        return (self.dir / "tokenweir.log").read_text()


async def both(pair, ask):
    return await asyncio.gather(*(ask(side, pair.ports[side]) for side in SIDES))


async def silent_prefill():
    async with Pair([None]) as pair:
        ask = lambda _, port: Client(port).post(chat(), "x-prefill: 61\r\n")
        return [status for status, _ in await both(pair, ask)]


async def large_prompt():
    async with Pair([None]) as pair:
        return [status for status, _ in await both(pair, lambda _, port: Client(port).post(chat(padding=2 << 20)))]


async def connections():
    async with Pair([None] * 3) as pair:
        await both(pair, lambda _, port: many(port, [chat()] * 1000))
        return [sum(replica.connections for replica in pair.replicas[side]) for side in SIDES]


async def failing_replica(fault):
    async with Pair([None, fault, None]) as pair:
        answers = await both(pair, lambda _, port: many(port, [chat()] * 30, at_once=1))
        return [sum(status != 200 for status in statuses) for statuses in answers]


async def streams():
    async def one(port):
        status, body = await Client(port).post(chat(), "x-stream: 1\r\n")
        return status == 200 and body.endswith(b"data: [DONE]\n\n")

    async with Pair([None] * 3) as pair:
        finished = [await asyncio.gather(*(one(pair.ports[side]) for _ in range(500))) for side in SIDES]
        return [whole.count(False) for whole in finished]


def share(replicas):
    counts = [len(replica.sessions) for replica in replicas]
    return round(100 * max(counts) / sum(counts))


async def constant_key(policy):
    """Returns the largest share of a replica; import, check and the log must warn about it."""
    bodies = [chat(f"s{at % 700}") for at in range(2100)]
    async with Pair([None] * 3, f"{policy};") as pair:
        await both(pair, lambda _, port: many(port, bodies))
        shares = [share(pair.replicas[side]) for side in SIDES]
        expect("import names a better key", "hash $session consistent" in pair.imported)
        expect("the error log names the single key", "more than 80 %" in pair.log_text())
        checked = pair.dir / "checked.toml"
        checked.write_text(f'policy = "{policy}"\nreplicas = ["http://a:1", "http://b:1"]\n')
        output = subprocess.run([TOKENWEIR, "check", "-c", checked], capture_output=True, text=True).stdout
        expect("check names a better key", "warning" in output and "hash $session consistent" in output)
    return shares


async def session_key():
    bodies = [chat(f"s{at % 700}") for at in range(2100)]
    edit = lambda toml: toml.replace('paths = "any"\n', "").replace("ip_hash", "hash $session consistent")
    async with Pair([None] * 3, "ip_hash;", edit) as pair:
        while (await Client(pair.ports["tokenweir"]).post(chat()))[0] != 200:
            await asyncio.sleep(0.05)  # until the replicas have listed their models
        await many(pair.ports["tokenweir"], bodies)
        mine = pair.replicas["tokenweir"]
        homes = [session for replica in mine for session in set(replica.sessions)]
        expect("every conversation stays on its replica", len(homes) == len(set(homes)))
        return share(mine)


MISSED = []


def expect(fact, holds):
    if not holds:
        MISSED.append(fact)


FAILING = {
    # The minimum number of nginx's failures.
    "refuses": ("refuses connections", 0),
    "dies": ("dies with the request", 1),
    "502": ("answers 502", 10),
    "503": ("answers 503", 10),
}


async def rows():
    """Yields each measurement with both figures, nginx's expected range and tokenweir's maximum."""
    prefill = asyncio.create_task(silent_prefill())
    yield "a prompt of 2 MiB: status", await large_prompt(), range(413, 414), 200
    what = "1,000 requests, 10 at once: connections to 3 replicas"
    yield what, await connections(), range(1000, 1001), 30
    for fault, (what, least) in FAILING.items():
        what = f"30 POSTs, one replica of three {what}: failed"
        yield what, await failing_replica(fault), range(least, 31), 0
    what = "500 streams at once, `worker_connections 768`, one process: failed"
    yield what, await streams(), range(1, 501), 0
    for policy in ("hash $request_uri", "ip_hash"):
        what = f"`{policy}` behind one app server: % of requests at the busiest of 3 replicas"
        yield what, await constant_key(policy), range(100, 101), 100
    what = "`hash $session consistent`, 700 conversations: % at the busiest of 3"
    yield what, ["-", await session_key()], None, 50
    yield "61 s until the first byte: status", await prefill, range(504, 505), 200


async def main():
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2]
    print(f"| | nginx {version} | tokenweir |\n|---|---|---|")
    async for what, (theirs, mine), fault, most in rows():
        print(f"| {what} | {theirs} | {mine} |", flush=True)
        expect(f"nginx has the fault: {what}", fault is None or theirs in fault)
        expect(f"tokenweir does not have the fault: {what}", mine <= most)
    for fact in MISSED:
        print("FAIL", fact)
    sys.exit(bool(MISSED))


asyncio.run(main())
