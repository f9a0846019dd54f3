#!/usr/bin/env bash
# soak.sh [MINUTES]
# Runs a router under mixed load for MINUTES (default 30) at about 70 % of the machine's CPU.
# Meanwhile its four emulated replicas are killed, stopped and made faulty, its configuration changes and breaks, its
# logs are rotated, and clients disconnect. The test fails if a request ends without an explanation, if anything is left
# over, or if memory grows by 1 MiB in 10 minutes. Memory is judged from the fifth minute, in runs of at least 10
# minutes. Needs curl with HTTP/2 and openssl.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   SOAK_SEED           the seed of the faults (default 1)
#   SOAK_LOGS           the logs' directory   (default: a new directory, if it fails)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

minutes=${1:-30}
tokenweir=$(realpath "$(binary)")
ulimit -n "$(ulimit -H -n)"
engines=$(free_run 4)
ports=$(free_ports 4)
for name in one two; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=localhost" \
    -keyout "$scratch/$name.key" -out "$scratch/$name.pem" 2> /dev/null
done
code=0
python3 "$root/tests/e2e/soak" "$tokenweir" "$scratch" "$minutes" "$ports" \
  "$engines $((engines + 1)) $((engines + 2)) $((engines + 3))" || code=$?
if ((code)); then
  kept=${SOAK_LOGS:-$(mktemp -d)}
  cp -r "$scratch"/. "$kept"
  echo "logs are kept in $kept"
fi
exit "$code"
