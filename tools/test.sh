#!/bin/sh
# Every check, the quick ones first; ends at the first that fails.
set -eu
cd "$(dirname "$0")/.."

echo "== style"
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
echo "== types"
.venv/bin/pyrefly check --summary=none
echo "== notebooks in a browser"
.venv/bin/python -m pytest tests/browser
echo "== tests; beside them, what notebooks give against what they are kept with"
log=$(mktemp)
.venv/bin/python -m pytest --nbval --nbval-current-env --nbval-cell-timeout 300 \
    --nbval-sanitize-with notebooks/nbval-sanitize.cfg notebooks >"$log" 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null || true; rm -f "$log"' EXIT
trap 'exit 130' INT TERM
.venv/bin/python -m pytest --ignore=tests/browser
echo "== notebooks against what they are kept with"
wait "$beside" || { cat "$log"; exit 1; }
tail -n 1 "$log"
