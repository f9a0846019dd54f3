#!/usr/bin/env bash
# Checks the shipped dashboard, prometheus.yml, rules and alerts with two emulated replicas, a router, a Prometheus and 40 s of load.
# Every panel must have values under its legend's labels. The sum of Prometheus's tokens/s must match the replicas'
# counts.
# Takes about 70 s. Installs prometheus by apt if missing.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! command -v prometheus > /dev/null; then
  as=()
  [ "$(id -u)" = 0 ] || as=(sudo)
  ${as[@]+"${as[@]}"} apt-get update -qq
  ${as[@]+"${as[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus \
    > /dev/null
fi
tokenweir=$(binary)
engines=$(free_run 2)
read -r port admin scraper <<< "$(free_ports 3)"
replicas=("http://127.0.0.1:$engines" "http://127.0.0.1:$((engines + 1))")

start engines.log "$tokenweir" emulate --port "$engines" --count 2 --model alpha --model beta
TOKENWEIR__LISTEN=127.0.0.1:$port TOKENWEIR__ADMIN=127.0.0.1:$admin TOKENWEIR__LOG__ACCESS=off \
  start serve.log "$tokenweir" serve "${replicas[@]}"
wait_for 20 "http://127.0.0.1:$port/readyz" || { cat "$scratch"/*.log >&2; exit 1; }

# The shipped file with another port and a shorter scrape interval.
sed -e "s/127\.0\.0\.1:9464/127.0.0.1:$admin/" -e 's/scrape_interval: .*/scrape_interval: 1s/' \
  "$root/config/prometheus/prometheus.yml" > "$scratch/prometheus.yml"
grep -q "127.0.0.1:$admin" "$scratch/prometheus.yml"
cp "$root/config/prometheus/rules.yml" "$scratch"
promtool check config "$scratch/prometheus.yml"
promtool test rules "$root/config/prometheus/rules.test.yml"
start prometheus.log prometheus --config.file="$scratch/prometheus.yml" --storage.tsdb.path="$scratch/data" \
  --web.listen-address="127.0.0.1:$scraper" --log.level=warn
wait_for 20 "http://127.0.0.1:$scraper/-/ready" || { cat "$scratch/prometheus.log" >&2; exit 1; }

timeout 80 python3 "$root/tests/e2e/panels.py" "$root/config/grafana/tokenweir.json" "http://127.0.0.1:$scraper" \
  "http://127.0.0.1:$port" "${replicas[@]}"
