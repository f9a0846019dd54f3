#!/usr/bin/env bash
# Drives the live page in a real Chromium, over a router with three emulated replicas under load: figures, actions, a
# restart of the router, accessibility by axe-core in both schemes and at three widths, and 256 replicas.
# Takes about 60 s. Installs chromium by apt if missing, playwright-core and axe-core by npm.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   SCREENSHOTS         a folder for screenshots at 390, 1440 and 2560 px in both schemes; none unless set
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if ! command -v chromium > /dev/null; then
  as=()
  [ "$(id -u)" = 0 ] || as=(sudo)
  ${as[@]+"${as[@]}"} apt-get update -qq
  ${as[@]+"${as[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium > /dev/null
fi
tokenweir=$(binary)
home=$(page_home)
engines=$(free_run 3)
read -r port admin port_many admin_many <<< "$(free_ports 4)"

start engines.log "$tokenweir" emulate --port "$engines" --count 3 --speed 0.5
for index in 0 1 2; do names+=("http://127.0.0.1:$((engines + index)) name=gpu$index"); done
{
  printf 'listen = "127.0.0.1:%s"\nadmin = "127.0.0.1:%s"\nshadow = "least_conn"\nlog.access = "off"\nreplicas = [' "$port" "$admin"
  printf '"%s", ' "${names[@]}"
  echo ']'
} > "$scratch/router.toml"
{
  printf 'listen = "127.0.0.1:%s"\nadmin = "127.0.0.1:%s"\npaths = "any"\nlog.access = "off"\nreplicas = [' "$port_many" "$admin_many"
  for index in $(seq 256); do printf '"http://127.0.0.1:%s name=replica-%s", ' "$index" "$index"; done
  echo ']'
} > "$scratch/many.toml"

# serve: starts the router; sets $pid.
serve() {
  start "serve-$1.log" "$tokenweir" serve -c "$scratch/$1.toml"
  wait_for 20 "http://127.0.0.1:$2/livez" || { cat "$scratch"/*.log >&2; exit 1; }
}
serve many "$admin_many"
serve router "$admin"
router=$pid
wait_for 20 "http://127.0.0.1:$port/readyz" || { cat "$scratch"/*.log >&2; exit 1; }
# The page's test stops the router and starts it again by these files.
mkfifo "$scratch/control"
exec 3<> "$scratch/control"
timeout 150 node "$root/tests/e2e/page.mjs" "$home" "http://127.0.0.1:$admin/" "http://127.0.0.1:$port" \
  "http://127.0.0.1:$admin_many/" "$scratch/control" "${SCREENSHOTS:-}" || echo failed > "$scratch/control" &
test=$!
wait_for_word() { read -r -t 120 -u 3 word && [ "$word" != failed ] || { echo "the page's test has failed" >&2; exit 1; }; }
wait_for_word
kill -TERM "$router"
wait_for_word
serve router "$admin"
wait "$test"
