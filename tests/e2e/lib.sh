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

# sdk_home: installs the SDKs of OpenAI and Anthropic and LangChain once and prints their directory.
sdk_home() {
  local home=${TOKENWEIR_E2E_HOME:-$HOME/.cache/tokenweir-e2e}
  local python=(openai==3.54.0 anthropic==2.14.0 langchain-openai==1.7.4) node=(openai@6.49.0 @anthropic-ai/sdk@1.14.0)
  local have
  have=$home/.have-$(echo "${python[@]}" "${node[@]}" | sha256sum | cut -c 1-16)
  if [ ! -e "$have" ]; then
    rm -rf "$home/venv" "$home/node"
    mkdir -p "$home/node"
    python3 -m venv "$home/venv" >&2
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check "${python[@]}" >&2
    (cd "$home/node" && npm init -y > /dev/null 2>&1 && npm install --loglevel=error --no-audit --no-fund --save-exact "${node[@]}" >&2)
    touch "$have"
  fi
  echo "$home"
}

# agents_home: installs coding agents once and prints their directory. Of their install scripts only OpenCode's is run: it
# copies its program from the package of this platform.
agents_home() {
  local home=${TOKENWEIR_E2E_HOME:-$HOME/.cache/tokenweir-e2e}/agents have
  local packages=(@openai/codex@0.171.0 opencode-ai@1.18.33 @continuedev/cli@1.5.47)
  have=$home/.have-$(echo "${packages[@]}" | sha256sum | cut -c 1-16)
  if [ ! -e "$have" ]; then
    rm -rf "$home"
    mkdir -p "$home"
    (cd "$home" && npm init -y > /dev/null 2>&1 && npm install --loglevel=error --no-audit --no-fund --ignore-scripts \
      --save-exact "${packages[@]}" && node node_modules/opencode-ai/postinstall.mjs) >&2
    touch "$have"
  fi
  echo "$home"
}

# page_home: installs the driver of Chromium and axe-core once and prints their directory.
page_home() {
  local home=${TOKENWEIR_E2E_HOME:-$HOME/.cache/tokenweir-e2e}/page have
  local packages=(playwright-core@1.65.1 axe-core@4.14.1)
  have=$home/.have-$(echo "${packages[@]}" | sha256sum | cut -c 1-16)
  if [ ! -e "$have" ]; then
    rm -rf "$home"
    mkdir -p "$home"
    (cd "$home" && npm init -y > /dev/null 2>&1 && npm install --loglevel=error --no-audit --no-fund --save-exact "${packages[@]}") >&2
    touch "$have"
  fi
  echo "$home"
}
