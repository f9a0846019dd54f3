#!/usr/bin/env bash
# Runs the usual steps of an nginx article with tokenweir: import, check, run, curl, ab, reload. Checks every step and
# exits with 1 at the first that fails. Takes about 30 s. Installs `ab` by apt if missing.
#
#   PORT, ADMIN            where the router listens  (8080, 9464)
#   SERVER1, SERVER2       the servers' ports        (8001, 8002)
#   TOKENWEIR              the binary                (target/release/tokenweir, built if missing)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

port=${PORT:-8080} admin=${ADMIN:-9464} one=${SERVER1:-8001} two=${SERVER2:-8002}
tokenweir=${TOKENWEIR:-../../target/release/tokenweir}
[ -x "$tokenweir" ] || cargo build --release --quiet
tokenweir=$(realpath "$tokenweir")
here=$PWD
scratch=$(mktemp -d)
started=()
trap 'for pid in ${started[@]+"${started[@]}"}; do kill "$pid" 2> /dev/null || true; done; rm -rf "$scratch"' EXIT

fail() { echo "FAIL $*"; tail -n 5 "$scratch"/*.log "$scratch"/ab.out 2> /dev/null; exit 1; }
# holds FACT COMMAND...: prints the fact if the command succeeds.
holds() { local fact=$1; shift; if "$@" > "$scratch/out" 2>&1; then echo "ok $fact"; else cat "$scratch/out"; fail "$fact"; fi; }
same() { [ "$1" = "$2" ] || { echo "$1, not $2"; return 1; }; }
# until_true COMMAND...: waits until the command succeeds, up to 10 s.
until_true() { for _ in $(seq 200); do if "$@" > /dev/null 2>&1; then return 0; fi; sleep 0.05; done; "$@"; }

if ! command -v ab > /dev/null; then
  as=()
  [ "$(id -u)" = 0 ] || as=(sudo)
  ${as[@]+"${as[@]}"} apt-get update -qq
  ${as[@]+"${as[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq apache2-utils > /dev/null
fi

# bench FACT KEPT OPTIONS... PATH: checks that all responses are good; KEPT is the number on a kept connection.
bench() {
  local fact=$1 kept=$2
  shift 2
  ab -q -n 1000 -c 10 "${@:1:$#-1}" "http://127.0.0.1:$port${*: -1}" > "$scratch/ab.out" 2>&1 || fail "$fact: ab ends"
  holds "$fact: 1000 complete" grep -Eq '^Complete requests: +1000$' "$scratch/ab.out"
  holds "$fact: 0 failed" grep -Eq '^Failed requests: +0$' "$scratch/ab.out"
  holds "$fact: all answers 200" same "$(grep -c Non-2xx "$scratch/ab.out")" 0
  if [ -n "$kept" ]; then holds "$fact: $kept on kept connections" grep -Eq "^Keep-Alive requests: +$kept\$" "$scratch/ab.out"; fi
}

# spread PATH: prints the number of requests per server from the access log.
spread() { echo "$(grep -cF " $1 HTTP/1.0\" 200 to: 127.0.0.1:$one" access.log || true)/$(grep -cF " $1 HTTP/1.0\" 200 to: 127.0.0.1:$two" access.log || true)"; }
logged() { until_true same "$(spread "$1")" "$2" || same "$(spread "$1")" "$2"; }
policy_is() { curl -sf "http://127.0.0.1:$admin/pools/backend" | grep -q "$1"; }
weight_is() { curl -sf "http://127.0.0.1:$admin/pools/backend" | grep -q "\"weight\": *$1[,}]"; }

# Replaces the ports in the files.
ports() { sed -e "s/127.0.0.1:8080/127.0.0.1:$port/; s/127.0.0.1:8001/127.0.0.1:$one/; s/127.0.0.1:8002/127.0.0.1:$two/" "$1"; }

round() { # round [--threads]
  local kind=${1:-"one thread"}
  echo "# servers: $kind"
  rm -rf "$scratch/work"
  mkdir "$scratch/work"
  cd "$scratch/work"
  ports "$here/nginx.conf" > nginx.conf
  if command -v nginx > /dev/null || [ -x /usr/sbin/nginx ]; then
    holds "nginx -t takes the same file" env PATH="$PATH:/usr/sbin" nginx -t -q -p "$PWD/" -e stderr -c nginx.conf
  fi
  for each in "$one" "$two"; do
    python3 "$here/server.py" "$each" "$@" > "$scratch/server-$each.log" 2>&1 &
    started+=("$!")
    until_true curl -sf -o /dev/null "http://127.0.0.1:$each/" || fail "server $each is up"
  done

  "$tokenweir" import nginx.conf -o router.toml 2> "$scratch/import.log"
  holds "import gives router.toml" diff router.toml <(ports "$here/router.toml")
  holds "check takes it" "$tokenweir" check -c router.toml
  TOKENWEIR__ADMIN=127.0.0.1:$admin "$tokenweir" serve -c router.toml > "$scratch/serve.log" 2>&1 &
  router=$!
  started+=("$router")
  until_true curl -sf -o /dev/null "http://127.0.0.1:$port/" || fail "the router is up"

  local base=http://127.0.0.1:$port
  holds "GET is answered by a server" grep -Eq "^GET 0 bytes answered by ($one|$two)\$" <(curl -sf "$base/any/path")
  holds "POST brings its body" grep -q '^POST 5 bytes' <(curl -sf -d hello "$base/")
  holds "a POST in chunks does" grep -q '^POST 5 bytes' <(curl -sf -H 'Transfer-Encoding: chunked' -d hello "$base/")
  holds "an empty POST is one" grep -q '^POST 0 bytes' <(curl -sf -X POST "$base/")
  holds "X-Upstream names the server" grep -Eiq "^x-upstream: 127.0.0.1:($one|$two)" <(curl -si "$base/")

  bench "ab" "" "/?first"
  holds "3:2 gives exactly 600/400" logged "/?first" 600/400
  bench "ab -k" 0 -k "/?kept"
  holds "3:2 gives exactly 600/400" logged "/?kept" 600/400
  bench "ab -k, length given" 1000 -k "/?sized"
  printf '%s' '{"messages": []}' > body.json
  bench "ab POST" "" -p body.json -T application/json "/?post"

  # The weights change while ab runs.
  ab -q -n 3000 -c 10 "$base/?during" > "$scratch/ab.out" 2>&1 &
  local load=$!
  sed -i 's/weight=3/weight=2/' router.toml
  kill -HUP "$router"
  until_true not weight_is 3 || fail "the new weights are there"
  wait "$load" || fail "ab ends"
  holds "a reload under load: 0 failed" grep -Eq '^Failed requests: +0$' "$scratch/ab.out"
  bench "ab after it" "" "/?second"
  holds "2:2 gives exactly 500/500" logged "/?second" 500/500
  sed -i 's/round_robin/least_con/' router.toml
  holds "check refuses a slip" not "$tokenweir" check -c router.toml
  kill -HUP "$router"
  until_true grep -q 'unknown policy' error.log || fail "the error log says why nothing was changed"
  holds "a bad reload changes nothing" curl -sf "$base/"
  sed -i 's/least_con/least_conn/' router.toml
  kill -HUP "$router"
  until_true policy_is least_conn || fail "least_conn is there"
  bench "ab, least_conn" "" "/?least"
  bench "ab -k, least_conn" 1000 -k "/?sized&least"

  kill -TERM "$router"
  wait "$router" || fail "it ends with 0"
  echo "ok it ends on SIGTERM"
  for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; wait "$pid" 2> /dev/null || true; done
  started=()
  cd "$here"
}
not() { ! "$@"; }

round
round --threads
echo "all good"
