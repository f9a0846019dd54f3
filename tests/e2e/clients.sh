#!/usr/bin/env bash
# clients.sh [PAGE...]
# Runs the commands of docs/clients (or of PAGE, such as codex.md), as readme.sh does, against a router in front of three
# emulated replicas, with the SDKs, LangChain and the agents installed. Every page that runs anything must have reached
# the router.
# Needs python3 (with venv) and node with npm; installs the packages once.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  package directory     (default ~/.cache/tokenweir-e2e)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TOKENWEIR=$(realpath "$(binary)")
export TOKENWEIR
home=$(sdk_home)
agents=$(agents_home)
first=$(free_run 3)
read -r port admin <<< "$(free_ports 2)"

start emulate.log "$TOKENWEIR" emulate --port "$first" --count 3 --stop-after 20
replicas=()
for ((i = first; i < first + 3; i++)); do
  wait_for 20 "http://127.0.0.1:$i/health"
  replicas+=("http://127.0.0.1:$i")
done
TOKENWEIR__LISTEN=127.0.0.1:$port TOKENWEIR__ADMIN=127.0.0.1:$admin start serve.log "$TOKENWEIR" serve "${replicas[@]}"
wait_for 20 "http://127.0.0.1:$port/readyz" || { cat "$scratch/serve.log" >&2; exit 1; }

# requests: prints the number of requests that the router has answered, but for those of health checks.
requests() { grep -c ' "[A-Z]* /v1/' "$scratch/serve.log" || true; }

pages=("$@")
if [ $# = 0 ]; then mapfile -t pages < <(cd "$root/docs/clients" && grep -lE '^<!-- (run|file)' -- *.md); fi
failed=0
mkdir -p "$scratch/pages" "$scratch/home"
for page in "${pages[@]}"; do
  # The pages use port 8080; this router uses another one.
  sed "s/127.0.0.1:8080/127.0.0.1:$port/" "$root/docs/clients/$page" > "$scratch/pages/$page"
  before=$(requests)
  env HOME="$scratch/home" PATH="$home/venv/bin:$agents/node_modules/.bin:$PATH" NODE_MODULES="$home/node/node_modules" \
    OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_MODELS_FETCH=1 \
    "$root/tests/e2e/readme.sh" "$scratch/pages/$page" || failed=1
  if (($(requests) > before)); then echo "ok $page reached the router"; else echo "FAIL $page did not reach the router"; failed=1; fi
done
if grep -E ' /v1/[^"]*" [45][0-9][0-9] ' "$scratch/serve.log"; then echo "FAIL no request failed"; failed=1; fi
if grep -n "panicked" "$scratch"/*.log; then echo "FAIL no panic in the logs"; failed=1; fi
exit "$failed"
