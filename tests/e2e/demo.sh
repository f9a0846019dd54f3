#!/usr/bin/env bash
# Does what a newcomer does: starts tokenweir without arguments, copies the curl command that it prints, looks at
# /metrics, stops it; then the same with --no-load; then runs both examples as they are, on the demo's own port.
# Ports 8080 and 9464 must be free, since no arguments means no choice of port.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  where packages lie    (default ~/.cache/tokenweir-e2e)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tokenweir=$(binary)
most_lines=12

fail() { echo "FAIL $*"; cat "$scratch/demo.out" "$scratch/demo.err"; exit 1; }

# demo NAME [ARGUMENTS...]: starts the demo, waits for it, and leaves its id in $pid.
demo() {
  local name=$1
  shift
  "$tokenweir" "$@" > "$scratch/demo.out" 2> "$scratch/demo.err" &
  pid=$!
  started+=("$pid")
  wait_for 20 http://127.0.0.1:8080/readyz || fail "$name: ready within 20 s"
  for _ in $(seq 25); do grep -q curl "$scratch/demo.out" && break; sleep 0.2; done
  sleep 1 # what it prints after it is ready counts as well
  cat "$scratch/demo.out"
  lines=$(cat "$scratch/demo.out" "$scratch/demo.err" | wc -l)
  ((lines >= 1 && lines <= most_lines)) || fail "$name: prints $lines lines, not 1 to $most_lines"
  echo "ok $name: prints $lines lines"
}

# printed_curl: the first curl command among the printed lines, with the lines that a backslash joins to it.
printed_curl() {
  awk '/^[ \t$]*curl / && !done { on = 1 } on { sub(/^[ \t$]+/, ""); print; if (!/\\$/) { on = 0; done = 1 } }' "$scratch/demo.out"
}

# has_token FILE: succeeds if the answer, stream or whole, brings text.
has_token() { grep -Eq '"content": ?"[^"]+"' "$1"; }

stop_demo() {
  kill -INT "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || { echo "ok $1: stops on Ctrl-C"; return; }; sleep 0.1; done
  fail "$1: runs on 10 s after Ctrl-C"
}

try() {
  local name=$1 command
  shift
  demo "$name" "$@"
  command=$(printed_curl)
  [ -n "$command" ] || fail "$name: prints a curl command"
  timeout 30 bash -c "$command" > "$scratch/answer" 2> "$scratch/demo.err" || fail "$name: the printed curl command runs: $command"
  has_token "$scratch/answer" || { cat "$scratch/answer"; fail "$name: a token comes"; }
  echo "ok $name: the printed command brings a token"
  python3 "$root/tests/e2e/metrics.py" http://127.0.0.1:9464/metrics tokenweir_ || fail "$name: /metrics parses"
  echo "ok $name: /metrics parses"
}

for port in 8080 9464; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "port $port is taken: stop what listens there" >&2; exit 1; fi
done

try demo
stop_demo demo
try demo-no-load --no-load

home=$(sdk_home)
"$home/venv/bin/python" "$root/examples/openai_sdk.py" > "$scratch/answer" || fail "examples/openai_sdk.py"
[ -s "$scratch/answer" ] || fail "examples/openai_sdk.py prints nothing"
echo "ok examples/openai_sdk.py"
cp "$root/examples/openai_sdk.mjs" "$home/node/openai_sdk.mjs"
(cd "$home/node" && node openai_sdk.mjs) > "$scratch/answer" || fail "examples/openai_sdk.mjs"
[ -s "$scratch/answer" ] || fail "examples/openai_sdk.mjs prints nothing"
echo "ok examples/openai_sdk.mjs"

stop_demo demo-no-load
