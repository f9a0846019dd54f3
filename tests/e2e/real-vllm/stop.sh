#!/usr/bin/env bash
# stop.sh BASE_PORT N
# Stops the replicas that start.sh started: TERM, and after 20 s KILL for the rest of the process group.
set -euo pipefail

base=${1:?usage: stop.sh BASE_PORT N}
count=${2:-1}
home=${REAL_VLLM_HOME:-$HOME/.cache/real-vllm}

for ((i = 0; i < count; i++)); do
  file="$home/$((base + i)).pid"
  [ -e "$file" ] || continue
  kill -TERM "$(cat "$file")" 2>/dev/null || true
done
for ((i = 0; i < count; i++)); do
  file="$home/$((base + i)).pid"
  [ -e "$file" ] || continue
  pid=$(cat "$file")
  for ((tick = 0; tick < 200; tick++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$pid" 2>/dev/null || true
  rm -f "$file"
done
