#!/usr/bin/env bash
# Runs real coding agents, Codex and OpenCode, by `tokenweir launch` against the router in front of three emulated
# replicas. Each calls a tool that writes a file, answers, and is resumed for a second turn; every request of a
# conversation must reach the same replica.
# Needs node with npm; installs the agents once.
#
#   TOKENWEIR           the binary            (default target/release/tokenweir, built if missing)
#   TOKENWEIR_E2E_HOME  package directory     (default ~/.cache/tokenweir-e2e)
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tokenweir=$(realpath "$(binary)")
agents=$(agents_home)
first=$(free_run 3)
read -r port admin <<< "$(free_ports 2)"
url=http://127.0.0.1:$port
key=sk-agents-e2e
work=$scratch/work
mkdir -p "$work" "$scratch/home/.codex"

start emulate.log "$tokenweir" emulate --port "$first" --count 3 --stop-after 20
replicas=()
for ((i = first; i < first + 3; i++)); do
  wait_for 20 "http://127.0.0.1:$i/health"
  replicas+=("\"http://127.0.0.1:$i\"")
done
cat > "$scratch/router.toml" <<TOML
listen = "127.0.0.1:$port"
admin = "127.0.0.1:$admin"
replicas = [$(IFS=,; echo "${replicas[*]}")]

[[key]]
name = "agents"
hash = "sha256:$(printf %s "$key" | sha256sum | cut -d ' ' -f 1)"
TOML
start serve.log "$tokenweir" serve -c "$scratch/router.toml"
wait_for 20 "http://127.0.0.1:$admin/readyz" || { cat "$scratch/serve.log" >&2; exit 1; }

failed=0
# check FACT COMMAND...: prints whether the command succeeds.
check() {
  local fact=$1
  shift
  if "$@"; then echo "ok $fact"; else echo "FAIL $fact"; failed=1; fi
}

# agent NAME ARGUMENT...: runs an agent, its prompt on standard input, with a home of its own.
agent() {
  local name=$1
  shift
  (cd "$work" && env -i PATH="$agents/node_modules/.bin:$PATH" HOME="$scratch/home" TERM=dumb \
    OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_MODELS_FETCH=1 TOKENWEIR_API_KEY="$key" \
    timeout 60 "$tokenweir" launch "$name" --url "$url" -- "$@") > "$scratch/$name.out" 2>&1 ||
    { echo "FAIL $name $1 ended with $?"; cat "$scratch/$name.out"; failed=1; }
}

# log_of PATH: prints the access-log lines of a path with a prompt of at least 2000 tokens, which are those of the
# conversation: titles are shorter.
log_of() { grep -F "\"POST $1\"" "$scratch/serve.log" | grep -E ' prompt=[0-9]{4,} ' | grep -vE ' prompt=1[0-9]{3} ' || true; }
# replicas_of PATH: prints the replicas that served a conversation.
replicas_of() { log_of "$1" | sed -E 's/.*" ([0-9]+) ([^ ]+) model=.*/\1 \2/' | sort -u; }
served() { [ "$(log_of "$1" | grep -c ' completed ')" = "$2" ]; }
same_replica() { [ "$(replicas_of "$1" | wc -l)" = 1 ] && replicas_of "$1" | grep -q '^200 127\.0\.0\.1:'; }
wrote() { [ "$(cat "$work/$1" 2> /dev/null)" = "$2" ]; }
answered() { grep -q 'water flows over the weir' "$scratch/$1.out"; }

git init -q "$work"
codex_flags=(--skip-git-repo-check --dangerously-bypass-approvals-and-sandbox)
echo "# Codex"
agent codex exec "${codex_flags[@]}" - <<< 'emulate-tool-call: exec_command {"cmd":"echo by codex > codex.txt"}'
check "codex: the tool ran" wrote codex.txt "by codex"
check "codex: the answer arrived" answered codex
check "codex: two requests of the first turn were served" served /v1/responses 2
agent codex exec resume --last "${codex_flags[@]}" - <<< 'and now a second turn'
check "codex: the answer of the second turn arrived" answered codex
check "codex: three requests were served" served /v1/responses 3
check "codex: all by one replica" same_replica /v1/responses

echo "# OpenCode"
agent opencode run <<< 'emulate-tool-call: bash {"command":"echo by opencode > opencode.txt","description":"writes"}'
check "opencode: the tool ran" wrote opencode.txt "by opencode"
check "opencode: the answer arrived" answered opencode
check "opencode: two requests of the first turn were served" served /v1/chat/completions 2
agent opencode run --continue <<< 'and now a second turn'
check "opencode: the answer of the second turn arrived" answered opencode
check "opencode: three requests were served" served /v1/chat/completions 3
check "opencode: all by one replica" same_replica /v1/chat/completions

# Nothing was written to their configuration files.
check "no configuration file of an agent was written" \
  test -z "$(find "$scratch/home" -name 'config.toml' -o -name 'opencode.json*' | xargs -r grep -l tokenweir)"
check "no panic in the logs" sh -c "! grep -n panicked '$scratch'/*.log"
check "no request failed" sh -c "! grep -E '\" [45][0-9][0-9] ' '$scratch/serve.log'"
if [ "$failed" != 0 ]; then cat "$scratch/serve.log" >&2; fi
exit "$failed"
