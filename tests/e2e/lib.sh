# shellcheck shell=bash
# Common functions of the end-to-end scripts: free ports, waiting, and stopping started processes by their ids.
# Source it: it sets `root`, `scratch` and a trap on EXIT.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d)
started=() # process ids; the trap stops them in reverse order

finish() {
  local pid index
  for ((index = ${#started[@]} - 1; index >= 0; index--)); do
    pid=${started[index]}
    kill -TERM "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap finish EXIT

# free_ports N: prints N different free TCP ports.
free_ports() {
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PY
}

# free_run N: prints the first of N neighbouring free ports.
free_run() {
  python3 - "$1" <<'PY'
import random, socket, sys
while True:
    first, held = random.randrange(20000, 30000), []
    try:
        for port in range(first, first + int(sys.argv[1])):
            held.append(socket.create_server(("127.0.0.1", port)))
        print(first)
        break
    except OSError:
        pass
    finally:
        for each in held:
            each.close()
PY
}

# wait_for SECONDS URL: waits until URL answers 2xx, else fails.
wait_for() {
  for _ in $(seq $(($1 * 5))); do
    if curl -sf -o /dev/null -m 2 "$2"; then return 0; fi
    sleep 0.2
  done
  echo "no response from $2 within $1 s" >&2
  return 1
}

# start LOG COMMAND...: runs a command in the background with its output in the scratch directory; sets $pid.
start() {
  local log=$1
  shift
  "$@" > "$scratch/$log" 2>&1 &
  pid=$!
  started+=("$pid")
}

# binary: prints the path of tokenweir: $TOKENWEIR, else the release build, built if missing.
binary() {
  if [ -n "${TOKENWEIR:-}" ]; then echo "$TOKENWEIR"; return; fi
  if [ ! -x "$root/target/release/tokenweir" ]; then cargo build --release --quiet --manifest-path "$root/Cargo.toml" >&2; fi
  echo "$root/target/release/tokenweir"
}

# sdk_home: installs both openai packages once and prints their directory.
sdk_home() {
  local home=${TOKENWEIR_E2E_HOME:-$HOME/.cache/tokenweir-e2e} python=3.54.0 node=6.49.0
  if [ ! -e "$home/.have-$python-$node" ]; then
    rm -rf "$home/venv" "$home/node"
    mkdir -p "$home/node"
    python3 -m venv "$home/venv" >&2
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check "openai==$python" >&2
    (cd "$home/node" && npm init -y > /dev/null 2>&1 && npm install --loglevel=error --no-audit --no-fund --save-exact "openai@$node" >&2)
    touch "$home/.have-$python-$node"
  fi
  echo "$home"
}
