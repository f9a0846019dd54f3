#!/usr/bin/env bash
# real.sh [URL URL]
# Tests the router with two real vLLM replicas: token counts, the SDK scenarios, then faults (idle connections,
# disconnects, killed and restarted replicas). Without URLs real-vllm/ installs (6 GB) and starts the replicas.
# Replicas given by URL must serve a model called `tiny` and have no other users; they are not killed.
# Takes about 10 minutes on two cores after installation.
#
#   TOKENWEIR           the binary                 (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  package directory          (default ~/.cache/tokenweir-e2e)
#   REAL_VLLM_HOME      where vLLM is installed    (default ~/.cache/real-vllm)
#   VLLM_ARGS           more arguments for vLLM    (default none; `--shutdown-timeout 20` lets it finish its requests)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

vllm=$root/tests/e2e/real-vllm
options=()
if (($# == 0)); then
  "$vllm/setup.sh"
  base=$(free_run 2)
  trap '"$vllm/stop.sh" "$base" 2; finish' EXIT
  "$vllm/start.sh" 2 "$base"
  set -- "http://127.0.0.1:$base" "http://127.0.0.1:$((base + 1))"
elif (($# == 2)); then
  options+=(--no-kill)
else
  echo "usage: real.sh [URL URL]" >&2
  exit 2
fi

tokenweir=$(binary)
home=$(sdk_home)
read -r port admin <<< "$(free_ports 2)"
router=http://127.0.0.1:$port
TOKENWEIR__LISTEN=127.0.0.1:$port TOKENWEIR__ADMIN=127.0.0.1:$admin start serve.log "$tokenweir" serve "$@"
wait_for 20 "$router/readyz" || { cat "$scratch/serve.log" >&2; exit 1; }

# The first logprobs, tools and responses of each replica compile for up to 90 s, which is no fault.
echo "# warming up each replica"
for url in "$@"; do
  "$home/venv/bin/python" "$root/tests/e2e/sdk/scenarios.py" "$url/v1" tiny --engine vllm --skip model_by_name > "$scratch/warm.log" ||
    { echo "a replica without the router fails:"; cat "$scratch/warm.log"; }
done

failed=0
echo "# tokens"
python3 "$root/tests/e2e/truth.py" "$router" "http://127.0.0.1:$admin" tiny "$@" || failed=1
echo "# conversations of several turns: possible and actual cached tokens"
block=$(curl -sf "$1/metrics" | sed -n 's/^vllm:cache_config_info{.*[{,]block_size="\([0-9]*\)".*/\1/p' | head -1)
for policy in round_robin token_cost; do
  read -r port2 admin2 <<< "$(free_ports 2)"
  TOKENWEIR__LISTEN=127.0.0.1:$port2 TOKENWEIR__ADMIN=127.0.0.1:$admin2 TOKENWEIR__POLICY=$policy \
    start "$policy.log" "$tokenweir" serve "$@"
  wait_for 20 "http://127.0.0.1:$port2/readyz"
  least=0
  [ "$policy" = token_cost ] && least=90
  python3 "$root/tests/e2e/turns.py" "http://127.0.0.1:$port2" tiny "${block:-16}" "$policy" --least "$least" || failed=1
done
echo "# Claude Code: cached tokens without and with its header that changes with every request"
shares=()
for header in --no-billing-header --billing-header; do
  share=$(python3 "$root/tests/e2e/turns.py" "$router" tiny "${block:-16}" "claude${#shares[@]}" --claude-code "$header") || failed=1
  echo "$share"
  shares+=("$(sed -n 's/.* cached, \([0-9.]*\) %.*/\1/p' <<< "$share")")
done
if python3 -c "import sys; without, with_header = map(float, sys.argv[1:]); sys.exit(with_header < without - 3)" "${shares[@]}"; then
  echo "ok the header costs at most 3 points of cached tokens"
else
  echo "FAIL the header costs more than 3 points of cached tokens"
  failed=1
fi
echo "# openai for Python"
"$home/venv/bin/python" "$root/tests/e2e/sdk/scenarios.py" "$router/v1" tiny --engine vllm \
  --metrics "$1/metrics" --metrics "$2/metrics" || failed=1
echo "# openai for JavaScript"
(cd "$home/node" && node "$root/tests/e2e/sdk/scenarios.mjs" "$router/v1" tiny --engine vllm) || failed=1
echo "# trouble"
"$home/venv/bin/python" "$vllm/trouble.py" "$router" "http://127.0.0.1:$admin" "$@" ${options[@]+"${options[@]}"} || failed=1
python3 "$root/tests/e2e/metrics.py" "http://127.0.0.1:$admin/metrics" tokenweir_ || failed=1
if grep -n "panicked" "$scratch/serve.log"; then echo "FAIL no panic in the log"; failed=1; else echo "ok no panic in the log"; fi
exit "$failed"
