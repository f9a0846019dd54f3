#!/usr/bin/env bash
# tls.sh
# Tests TLS with other implementations: `openssl s_client` with every version, and a stream of openai-python with a
# custom
# issuer during a certificate change. A second router connects to the first one by https://. Needs openssl.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  package directory     (default ~/.cache/tokenweir-e2e)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tokenweir=$(binary)
home=$(sdk_home)
model=emulated-8b
read -r engine plain secure admin other other_admin <<< "$(free_ports 6)"
cd "$scratch"

# issue NAME SUBJECT: issues a certificate for localhost by ca.pem.
issue() {
  openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -subj "/CN=$2" -out "$1.csr" 2> openssl.log
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile "$1.ext" -out "$1.pem" 2> openssl.log
}

openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -subj "/CN=tokenweir test issuer" -days 2 -out ca.pem 2> openssl.log
issue router first
issue new second

cat > router.toml <<TOML
listen = ["127.0.0.1:$plain", "127.0.0.1:$secure ssl"]
admin = "127.0.0.1:$admin"
replicas = ["http://127.0.0.1:$engine"]
[tls]
certificate = "router.pem"
key = "router.key"
TOML

start emulate.log "$tokenweir" emulate --port "$engine" --count 1
wait_for 20 "http://127.0.0.1:$engine/health"
"$tokenweir" check -c router.toml
start serve.log "$tokenweir" serve -c router.toml
router=$pid
wait_for 20 "http://127.0.0.1:$plain/readyz" || { cat serve.log >&2; exit 1; }

failed=0
# holds WHAT COMMAND...: runs a check; prints ok if the command succeeds.
holds() {
  local what=$1
  shift
  if "$@" > holds.log 2>&1; then echo "ok $what"; else echo "FAIL $what"; tail -20 holds.log; failed=1; fi
}
# s_client OPTIONS...: completes a handshake and prints its result.
s_client() { timeout 10 openssl s_client -connect "127.0.0.1:$secure" -CAfile ca.pem -verify_return_error "$@" < /dev/null 2>&1; }
speaks() { s_client "${@:2}" | grep -q "$1"; }
refuses() { ! s_client "$@" | grep -q "Cipher is [A-Z]*[-_]"; }

echo "# openssl s_client"
holds "TLS 1.3 is spoken" speaks "New, TLSv1.3, Cipher is TLS_" -tls1_3
holds "TLS 1.2 is spoken" speaks "New, TLSv1.2, Cipher is ECDHE-" -tls1_2
holds "TLS 1.1 is refused" refuses -tls1_1 -cipher DEFAULT@SECLEVEL=0
holds "TLS 1.0 is refused" refuses -tls1 -cipher DEFAULT@SECLEVEL=0
holds "a cipher without forward secrecy is refused" refuses -tls1_2 -cipher AES128-SHA
holds "HTTP/2 is negotiated" speaks "ALPN protocol: h2" -alpn h2,http/1.1
holds "HTTP/1.1 is negotiated" speaks "ALPN protocol: http/1.1" -alpn http/1.1
resumes() {
  { printf 'GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n'; sleep 1; } |
    timeout 10 openssl s_client -connect "127.0.0.1:$secure" -CAfile ca.pem -tls1_3 -sess_out session -ign_eof > /dev/null 2>&1
  speaks "Reused, TLSv1.3" -sess_in session
}
holds "a session is resumed" resumes
holds "curl gets a response" curl -sf --cacert ca.pem "https://localhost:$secure/v1/models"
if curl --version | grep -q HTTP2; then
  holds "curl gets a response by HTTP/2" bash -c "curl -sf --http2 --cacert ca.pem -o /dev/null -w '%{http_version}' https://localhost:$secure/v1/models | grep -qx 2"
fi
holds "curl without the issuer refuses the router" bash -c "! curl -sf https://localhost:$secure/v1/models"

echo "# openai for Python, and a new certificate"
SSL_CERT_FILE=$scratch/ca.pem "$home/venv/bin/python" "$root/tests/e2e/sdk/tls.py" \
  "https://localhost:$secure/v1" "$model" "$router" new.pem router.pem new.key router.key || failed=1

echo "# a bad certificate"
cp new.key kept.key
openssl genrsa -out router.key 2048 2> openssl.log
holds "check refuses it and prints the position" bash -c "! '$tokenweir' check -c router.toml 2> errors && grep -q 'router.toml:6:7: cannot use router.key' errors"
kill -HUP "$router"
for _ in $(seq 50); do grep -q "not reloaded" serve.log && break; sleep 0.1; done
holds "the reload changes nothing" grep -q "not reloaded, nothing changed: router.toml:6:7" serve.log
holds "the new certificate is still in use" speaks "CN = second" -showcerts
cp kept.key router.key

echo "# a router in front of a router"
cat > other.toml <<TOML
listen = "127.0.0.1:$other"
admin = "127.0.0.1:$other_admin"
tls_ca = "ca.pem"
replicas = ["https://localhost:$secure"]
TOML
start other.log "$tokenweir" serve -c other.toml
wait_for 20 "http://127.0.0.1:$other/readyz" || { cat other.log >&2; failed=1; }
body='{"model":"'$model'","stream":true,"max_tokens":20,"messages":[{"role":"user","content":"hi"}]}'
holds "a stream passes through both" bash -c \
  "curl -sfN http://127.0.0.1:$other/v1/chat/completions -H 'content-type: application/json' -d '$body' | grep -q 'data: \[DONE\]'"
read -r distrusting distrusting_admin <<< "$(free_ports 2)"
TOKENWEIR__LISTEN=127.0.0.1:$distrusting TOKENWEIR__ADMIN=127.0.0.1:$distrusting_admin \
  start distrusting.log "$tokenweir" serve "https://localhost:$secure"
for _ in $(seq 50); do grep -q "is not ready" distrusting.log && break; sleep 0.2; done
holds "an issuer unknown to the system is not trusted" grep -q "issuer that is not trusted: name the issuer's file" distrusting.log

if grep -n "panicked" ./*.log; then echo "FAIL no panic in the logs"; failed=1; else echo "ok no panic in the logs"; fi
exit "$failed"
