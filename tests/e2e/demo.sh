#!/usr/bin/env bash
# Follows the steps of a new user: starts tokenweir without arguments, runs the printed curl command, reads /metrics,
# and
# stops it. Repeats that with --no-load, then runs both examples unchanged on the demo's port.
# Ports 8080 and 9464 must be free, because tokenweir without arguments uses them.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  package directory     (default ~/.cache/tokenweir-e2e)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tokenweir=$(binary)
most_lines=12

fail() { echo "FAIL $*"; cat "$scratch/demo.out" "$scratch/demo.err"; exit 1; }

# demo NAME [ARGUMENTS...]: starts the demo, waits until it is ready, and sets $pid.
demo() {
  local name=$1
  shift
  "$tokenweir" "$@" > "$scratch/demo.out" 2> "$scratch/demo.err" &
  pid=$!
  started+=("$pid")
  wait_for 20 http://127.0.0.1:8080/readyz || fail "$name: ready within 20 s"
  for _ in $(seq 25); do grep -q curl "$scratch/demo.out" && break; sleep 0.2; done
  sleep 1 # later output counts as well
  cat "$scratch/demo.out"
  lines=$(cat "$scratch/demo.out" "$scratch/demo.err" | wc -l)
  ((lines >= 1 && lines <= most_lines)) || fail "$name: prints $lines lines, not 1 to $most_lines"
  echo "ok $name: prints $lines lines"
}

# printed_curl: prints the first curl command of the output, with its continuation lines.
printed_curl() {
  awk '/^[ \t$]*curl / && !done { on = 1 } on { sub(/^[ \t$]+/, ""); print; if (!/\\$/) { on = 0; done = 1 } }' "$scratch/demo.out"
}

# has_token FILE: succeeds if the response, stream or not, has text.
has_token() { grep -Eq '"content": ?"[^"]+"' "$1"; }

stop_demo() {
  kill -INT "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || { echo "ok $1: stops on Ctrl-C"; return; }; sleep 0.1; done
  fail "$1: still runs 10 s after Ctrl-C"
}

try() {
  local name=$1 command
  shift
  demo "$name" "$@"
  command=$(printed_curl)
  [ -n "$command" ] || fail "$name: prints a curl command"
  timeout 30 bash -c "$command" > "$scratch/answer" 2> "$scratch/demo.err" || fail "$name: the printed curl command runs: $command"
  has_token "$scratch/answer" || { cat "$scratch/answer"; fail "$name: the response has a token"; }
  echo "ok $name: the printed command returns a token"
  python3 "$root/tests/e2e/metrics.py" http://127.0.0.1:9464/metrics tokenweir_ || fail "$name: /metrics parses"
  echo "ok $name: /metrics parses"
}

for port in 8080 9464; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "port $port is in use: stop the process that listens on it" >&2; exit 1; fi
done

try demo
grep -q '^Look: http://127.0.0.1:9464/ ' "$scratch/demo.out" || fail "demo: names the live page first"
for _ in $(seq 40); do grep -q 'replica normal slows down' "$scratch/demo.out" && break; sleep 1; done
grep -q 'replica normal slows down' "$scratch/demo.out" || fail "demo: a replica slows down within 40 s"
echo "ok demo: a replica slows down"
stop_demo demo
demo demo-policy --calm --policy round_robin
stop_demo demo-policy
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
