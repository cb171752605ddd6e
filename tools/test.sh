#!/bin/sh
# Every check, the quick ones first; ends at the first that fails, but for what notebooks give, which is told at the end.
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
beside=
clean_up() {
    [ -z "$beside" ] || { kill "$beside" 2>/dev/null && wait "$beside" || true; }
    rm -f "$log"
}
trap clean_up EXIT
trap 'exit 130' HUP INT TERM
.venv/bin/python -m pytest -p no:cacheprovider --nbval --nbval-current-env --nbval-cell-timeout 300 \
    --nbval-sanitize-with notebooks/nbval-sanitize.cfg notebooks >"$log" 2>&1 &
beside=$!
.venv/bin/python -m pytest --ignore=tests/browser
echo "== what notebooks give"
wait "$beside" || { cat "$log"; exit 1; }
beside=
tail -n 1 "$log"
