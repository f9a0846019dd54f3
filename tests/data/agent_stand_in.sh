#!/bin/sh
# Stands for a coding agent: prints its variables and arguments, and its process id, and fails.
env | grep -E '^(ANTHROPIC_|CLAUDE_|OPENCODE_|TOKENWEIR_)' | sort
for word in "$@"; do printf 'arg=%s\n' "$word"; done
echo "pid=$$" >&2
exit 7
