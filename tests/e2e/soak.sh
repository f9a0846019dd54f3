#!/usr/bin/env bash
# soak.sh [MINUTES]
# A router under mixed load for MINUTES (default 30) at about 70 % of the machine's CPU, while its four emulated
# replicas are killed, stopped and given faults, its file is changed and broken, its logs are moved, and clients hang
# up. Fails if any request has an end that nothing explains, if anything is left over, or if memory grows by 1 MiB in
# 10 minutes (judged from the fifth minute, in runs of 10 minutes and more). Needs curl with HTTP/2 and openssl.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   SOAK_SEED           of what is done to it (default 1)
#   SOAK_LOGS           where logs are kept   (default: a new directory, if it fails)
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
