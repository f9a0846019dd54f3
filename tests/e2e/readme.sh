#!/usr/bin/env bash
# readme.sh [FILE]
# Runs the commands in README.md and docs/*.md (or FILE), so that they stay correct. A fenced block counts if the line
# before it is one of these HTML comments, which are not rendered:
#
#   <!-- run -->               runs a ```sh block to its end; a failing line fails the script
#   <!-- run: serve [URL] -->  starts the block in the background and waits until URL answers 2xx (without one:
#                              http://127.0.0.1:8080/readyz); it runs until the next heading
#   <!-- file: NAME -->        writes the block, of any language, to NAME, for the commands below it
#
# All blocks run in an empty scratch directory with tokenweir on the PATH. Blocks without a comment are not run.
#
#   TOKENWEIR      the binary   (default target/release/tokenweir, built if missing)
#   NODE_MODULES   a folder that is linked into the scratch directory, for scripts of node
set -euo pipefail
# shellcheck source=tests/e2e/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

if [ $# = 0 ]; then
  TOKENWEIR=$(realpath "$(binary)")
  export TOKENWEIR
  for file in "$root/README.md" $(grep -lE '^<!-- (run|file)' "$root"/docs/*.md); do "$0" "$file"; done
  exit 0
fi
file=$1
[ -e "$file" ] || { echo "$file does not exist" >&2; exit 1; }
mkdir -p "$scratch/bin" "$scratch/work"
ln -s "$(realpath "$(binary)")" "$scratch/bin/tokenweir"
export PATH="$scratch/bin:$PATH"
if [ -n "${NODE_MODULES:-}" ]; then ln -s "$NODE_MODULES" "$scratch/work/node_modules"; fi
servers=() # process groups, so that a block may start several

stop_servers() {
  local group
  for group in ${servers[@]+"${servers[@]}"}; do
    kill -TERM -- "-$group" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 -- "-$group" 2>/dev/null || break; sleep 0.1; done
    kill -KILL -- "-$group" 2>/dev/null || true
  done
  servers=()
}
trap 'stop_servers; finish' EXIT

# handle LINE ACTION BLOCK: performs the action of the comment above a block.
handle() {
  local at="${file##*/}:$1" action=$2 block=$3 url log="$scratch/serve-$1.log"
  cd "$scratch/work"
  case $action in
    "run")
      if ! timeout 120 bash -euo pipefail "$block" < /dev/null > "$scratch/out" 2>&1; then
        echo "FAIL $at"; cat "$block" "$scratch/out" "$scratch"/serve-*.log 2>/dev/null; return 1
      fi
      ;;
    "run: serve"*)
      url=${action#run: serve}
      url=${url# }
      setsid bash -euo pipefail "$block" < /dev/null > "$log" 2>&1 &
      servers+=("$!")
      wait_for 30 "${url:-http://127.0.0.1:8080/readyz}" || { echo "FAIL $at"; cat "$block" "$log"; return 1; }
      ;;
    "file: "*) cp "$block" "./${action#file: }" ;;
    *) echo "FAIL $at: <!-- $action --> is not known"; return 1 ;;
  esac
  echo "ok $at ($action)"
}

action="" # the action of the previous line
inside="" # the fence of the block being read
doing=""
count=0
number=0
block=$scratch/block.sh
while IFS= read -r line || [ -n "$line" ]; do
  number=$((number + 1))
  if [ -n "$inside" ]; then
    if [ "$line" != "$inside" ]; then
      printf '%s\n' "$line" >> "$block"
      continue
    fi
    inside=""
    if [ -n "$doing" ]; then
      handle "$number" "$doing" "$block"
      count=$((count + 1))
    fi
  elif [[ $line == '```'* ]]; then
    inside='```'
    doing=$action
    : > "$block"
    if [[ $doing == run* && $line != '```sh' ]]; then
      echo "FAIL ${file##*/}:$number: <!-- $doing --> precedes a block that is not sh"
      exit 1
    fi
  elif [[ $line == '#'* ]]; then
    stop_servers
  fi
  if [[ $line =~ ^'<!-- '((run|file).*)' -->'$ ]]; then action=${BASH_REMATCH[1]}; else action=""; fi
done < "$file"
((count > 0)) || { echo "FAIL no block of ${file##*/} is marked to be run"; exit 1; }
echo "$count blocks of ${file##*/} pass"
