"""The router's configuration: random in detail, constant for clients."""

import hashlib
import json

MODEL = "m"
# Per pool: the members that the file may give it. All possible members count when no replica is available.
POOLS = {
    "chat": ("r1", "r2", "r3", "r4"),
    "pair": ("r1", "r2"),
    "ring": ("r2", "r3", "r4"),
    "talk": ("r1", "r2", "r3", "r4"),
    "cook": ("r1", "r2", "r3", "r4"),
    "open": ("r1", "r2", "r3", "r4"),
}
FALLBACK = {"ring": "chat"}
# By key: its models; none for all.
KEYS = {"a": None, "b": ["chat", "gpt-4o", "pair", "talk"]}
POLICIES = ("least_tokens", "least_prefill", "lmetric", "cache_aware", "prefix_hash", "token_cost routers=2")
FORMAT = (
    '{"id":"$request_id","status":"$status","to":"$upstream_addr","each":"$upstream_status","prompt":"$prompt_tokens",'
    '"completion":"$completion_tokens","attempts":"$attempts","outcome":"$outcome","time":"$request_time"}'
)
TOP = """\
listen = {listen}
admin = "127.0.0.1:{world.admin}"
explain = {explain}
explain_header = {explained}
gzip = "{gzip}"
response_headers = {{ X-Tried = "$upstream_addr" }}
[tls]
certificate = "{world.folder}/{pair}.pem"
key = "{world.folder}/{pair}.key"
[limits]
body_bytes = "4MiB"
[timeouts]
first_byte = "10s"
idle = "6s"
total = "40s"
first_event_hold = "2s"
waiting_comment = "1s"
drain = "20s"
[log]
access = "{world.access}"
format = '{format}'
error = "{world.errors}"
[record]
path = "{world.folder}/trace.jsonl"
max_bytes = "20MiB"
max_files = 1
[cors]
origins = ["*"]
"""
CHECK = 'health_check = { path = "/health", interval = "1s", timeout = "1s", rise = 1, fall = 2 }'


def secret(key):
    """Returns a client's secret for a key."""
    return f"sk-soak-{key}"


def tables(policy, shadow, pair):
    """Returns the lines of each pool without its members, and the members' options."""
    listed = f'{CHECK}\nrefuse = {{ "/closed" = 403 }}'
    return {
        "chat": (f'model = ["chat", "gpt-4o"]\npolicy = "{policy}"\nshadow = "{shadow}"\n{listed}', ""),
        "pair": (f'model = "pair"\npolicy = "{pair}"\nengine_metrics = "1s"', " slow_start=2s"),
        "ring": (f'model = "ring"\npolicy = "hash $session consistent"\nfallback = "chat"\n{CHECK}', ""),
        "talk": (
            'model = "talk"\npolicy = "random two"\nsticky = { header = "x-session-id", timeout = "1m" }\n'
            'request_headers = { X-Tenant = "$tenant" }',
            "",
        ),
        "cook": (
            'model = "cook"\npolicy = "least_time first_byte"\nsticky = { cookie = "route", path = "/" }\n'
            'tokens = "o200k"',
            "",
        ),
        "open": ('host = "open.test"\npaths = "any"\npolicy = "ip_hash"', ""),
    }


def file(world, dice, plain=False):
    """Returns a file for the current world; a plain one does not depend on the dice."""
    maybe = lambda share: not plain and dice.random() < share
    of = lambda *choices: choices[0] if plain else dice.choice(choices)
    listen = [f"127.0.0.1:{world.port}", f"127.0.0.1:{world.secure} ssl", f"unix:{world.folder}/socket"]
    listen += [f"127.0.0.1:{world.extra}"] if maybe(0.3) else []
    text = TOP.format(
        world=world,
        listen=json.dumps(listen),
        explain=of(20_000, 15_000),
        explained=of("true", "false"),
        gzip=of("1KiB", "512", "4KiB"),
        pair=of("one", "two"),
        format=FORMAT,
    )
    for key, models in {**KEYS, **({"c": None} if maybe(0.5) else {})}.items():
        text += f'[[key]]\nname = "{key}"\nhash = "sha256:{hashlib.sha256(secret(key).encode()).hexdigest()}"\n'
        text += f"models = {json.dumps(models)}\n" if models else ""
    policy = of("token_cost", dice.choice(POLICIES))
    shadow = of("least_conn", "round_robin", "hash $session consistent")
    gone = "r4" if maybe(0.3) else None
    for pool, (lines, words) in tables(policy, shadow, of("least_conn", "round_robin")).items():
        members = [
            f"http://127.0.0.1:{world.replicas[name].port} name={name} weight={of(1, 1, 2, 3)} max_fails=1 "
            f"fail_timeout=2s{words}"
            for name in POOLS[pool]
            if name != gone
        ]
        text += f'[[pool]]\nname = "{pool}"\n{lines}\nreplicas = {json.dumps(members, indent=2)}\n'
    return text


def broken(world, dice):
    """Returns an invalid file."""
    good = file(world, dice)
    return dice.choice(
        (
            good + "\nnonsense =",
            good.replace('policy = "random two"', 'policy = "random three"'),
            good.replace("body_bytes", "body_octets"),
            good.replace(f"127.0.0.1:{world.port}", f"127.0.0.1:{world.admin}", 1),
            good.replace(".pem", ".gone"),
            good.replace('fallback = "chat"', 'fallback = "missing"'),
        )
    )
