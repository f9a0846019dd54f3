#!/usr/bin/env bash
# Runs the SDK scenarios and both examples against the router in front of three emulated replicas.
# Needs python3 (with venv) and npm; installs the packages once.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  package directory     (default ~/.cache/tokenweir-e2e)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tokenweir=$(binary)
home=$(sdk_home)
here=$root/tests/e2e/sdk
model=emulated-8b
first=$(free_run 3)
read -r port admin <<< "$(free_ports 2)"
base=http://127.0.0.1:$port

start emulate.log "$tokenweir" emulate --port "$first" --count 3
metrics=()
replicas=()
for ((i = first; i < first + 3; i++)); do
  wait_for 20 "http://127.0.0.1:$i/health"
  replicas+=("http://127.0.0.1:$i")
  metrics+=(--metrics "http://127.0.0.1:$i/metrics")
done
TOKENWEIR__LISTEN=127.0.0.1:$port TOKENWEIR__ADMIN=127.0.0.1:$admin start serve.log "$tokenweir" serve "${replicas[@]}"
wait_for 20 "$base/readyz" || { cat "$scratch/serve.log" >&2; exit 1; }

failed=0
echo "# openai for Python"
"$home/venv/bin/python" "$here/scenarios.py" "$base/v1" "$model" --engine emulated "${metrics[@]}" || failed=1
echo "# openai for JavaScript"
(cd "$home/node" && node "$here/scenarios.mjs" "$base/v1" "$model" --engine emulated) || failed=1

echo "# the examples"
# The examples use port 8080; this router uses another one.
sed "s/127.0.0.1:8080/127.0.0.1:$port/" "$root/examples/openai_sdk.py" > "$scratch/example.py"
sed "s/127.0.0.1:8080/127.0.0.1:$port/" "$root/examples/openai_sdk.mjs" > "$home/node/example.mjs"
for run in "$home/venv/bin/python $scratch/example.py" "node $home/node/example.mjs"; do
  # shellcheck disable=SC2086  # the command is two words
  if text=$($run) && [ -n "$text" ]; then echo "ok example ${run##*/}"; else echo "FAIL example ${run##*/}"; failed=1; fi
done

# Panics would otherwise go unnoticed.
if grep -n "panicked" "$scratch"/*.log; then echo "FAIL no panic in the logs"; failed=1; else echo "ok no panic in the logs"; fi
exit "$failed"
