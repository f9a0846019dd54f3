#!/usr/bin/env bash
# start.sh N BASE_PORT [arguments for `vllm serve`...]
# Starts N real vLLM replicas on 127.0.0.1:BASE_PORT.. one after another and waits until each serves. Prints a line
# "PORT PID" for each. PID leads the replica's own process group. Stop them with stop.sh BASE_PORT N.
# The model is called `tiny` (with LORA=1 also `my-lora`). About 3 GB of memory and 60 CPU-seconds of start per replica.
#
#   REAL_VLLM_HOME  where setup.sh installed     (default ~/.cache/real-vllm)
#   WAIT            seconds to wait for one      (default 600)
#   MAX_SEQS        sequences run at once        (default 32)
#   VLLM_ARGS       more arguments               (default none)
set -euo pipefail

count=${1:?usage: start.sh N BASE_PORT [args]}
base=${2:?usage: start.sh N BASE_PORT [args]}
shift 2
home=${REAL_VLLM_HOME:-$HOME/.cache/real-vllm}
wait_s=${WAIT:-600}

cd "$home/model" # a relative model path: no machine path shows in /v1/models
unset PYTHONDONTWRITEBYTECODE
export VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 \
  VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 \
  CUDA_VISIBLE_DEVICES='' VLLM_HOST_IP=127.0.0.1 VLLM_ENABLE_RESPONSES_API_STORE=1

args=(--served-model-name tiny --host 127.0.0.1 --enforce-eager --max-model-len 4096
  --max-num-seqs "${MAX_SEQS:-32}" --enable-prefix-caching --enable-prompt-tokens-details
  --enable-server-load-tracking --enable-request-id-headers
  --enable-auto-tool-choice --tool-call-parser hermes
  --distributed-executor-backend uni)
read -ra more <<< "${VLLM_ARGS:-}"
args+=(${more[@]+"${more[@]}"})
if [ "${LORA:-0}" = 1 ]; then
  args+=(--enable-lora --max-lora-rank 8 --max-loras 1 --lora-modules my-lora=my-lora)
fi

for ((i = 0; i < count; i++)); do
  port=$((base + i))
  log="$home/$port.log"
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "port $port is in use" >&2; exit 1; fi
  setsid ../venv/bin/python ../venv/bin/vllm serve tiny --port "$port" "${args[@]}" "$@" > "$log" 2>&1 &
  pid=$!
  echo "$pid" > "$home/$port.pid"
  for ((waited = 0; ; waited++)); do
    if curl -sf -o /dev/null -m 2 "http://127.0.0.1:$port/health"; then break; fi
    kill -0 "$pid" 2>/dev/null || { echo "the replica on $port died:" >&2; tail -20 "$log" >&2; exit 1; }
    ((waited < wait_s)) || { echo "the replica on $port is not ready after $wait_s s" >&2; exit 1; }
    sleep 1
  done
  echo "$port $pid"
done
