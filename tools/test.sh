#!/bin/sh
# Every check, the quick ones first; ends at the first that fails.
set -eu
cd "$(dirname "$0")/.."

echo "== style"
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/oxlint --quiet dlkit
echo "== order of the packages"
.venv/bin/lint-imports --no-cache --no-logo >/dev/null || .venv/bin/lint-imports --no-cache --no-logo
echo "== types"
.venv/bin/pyrefly check --summary=none
echo "== tests"
.venv/bin/python -m pytest
if [ -z "$(find notebooks -name '*.ipynb' -not -path '*/.*' | head -n 1)" ]; then
    echo "notebooks/ holds no notebook yet."
    exit 0
fi
echo "== notebooks"
set -- --nbval --nbval-current-env --nbval-cell-timeout 300
[ ! -e notebooks/nbval-sanitize.cfg ] || set -- "$@" --nbval-sanitize-with notebooks/nbval-sanitize.cfg
.venv/bin/python -m pytest "$@" notebooks
