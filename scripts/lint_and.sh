#!/usr/bin/env bash
# Ruff and mypy beside a command that waits more than it computes: scripts/lint_and.sh pytest -n 2
# Exit code 0 only if all pass; what mypy says comes last.
set -uo pipefail

said=$(mktemp)
trap 'kill "${types:-}" 2>/dev/null; rm -f "$said"' EXIT
failed=0
ruff check . || failed=1
{ mypy && mypy --config-file tests/mypy.ini; } >"$said" 2>&1 &
types=$!
"$@" || failed=1
wait "$types" || failed=1
cat "$said"
exit "$failed"
