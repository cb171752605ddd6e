#!/bin/sh
# Every check, the quick ones first; ends at the first that fails. With a commit, only the tests of what changed since.
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
if [ $# -gt 0 ]; then
    echo "== tests of what has changed since $1"
    exec .venv/bin/python tools/test_changed.py "$1"
fi
# Two workers, whose tests are single-threaded; a file's tests, and a notebook's, stay on one of them.
echo "== tests"
.venv/bin/python -m pytest -n 2 --dist loadgroup --durations=15 --ignore=tests/browser
echo "== notebooks, in a browser"
.venv/bin/python -m pytest -n 2 --dist loadgroup --durations=5 tests/browser
