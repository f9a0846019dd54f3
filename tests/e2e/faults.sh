#!/usr/bin/env bash
# Runs a real nginx and tokenweir with one configuration over the same replicas; prints a table of the faults on each
# side.
# Exits with 1 if tokenweir has any. Takes about 70 s, of which 61 s are one silent prefill. Installs nginx by apt if
# missing.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export PATH="$PATH:/usr/sbin"
if ! command -v nginx > /dev/null; then
  as=()
  [ "$(id -u)" = 0 ] || as=(sudo)
  ${as[@]+"${as[@]}"} apt-get update -qq
  ${as[@]+"${as[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light \
    > /dev/null
fi
ulimit -n "$(ulimit -H -n)"
python3 "$root/tests/e2e/faults.py" "$(realpath "$(binary)")" "$scratch"
