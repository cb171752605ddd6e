#!/bin/sh
# Every check, the quick ones first; ends at the first that fails. With a commit, only the tests of what changed since.
set -eu
unset PYTHONDONTWRITEBYTECODE # where it is set, every process of the tests would compile the package anew
cd "$(dirname "$0")/.."
# As engines have it: memory that a step lets go of is kept for the next, which halves the time spent in the kernel.
# shellcheck disable=SC2046  # the settings are words
export $(.venv/bin/python -c "from dlkit.cluster.placement import KEEPS_MEMORY as kept
print(*(f'{name}={value}' for name, value in kept.items()))")

echo "== style"
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/oxlint --quiet dlkit
echo "== order of the packages"
.venv/bin/lint-imports --no-cache --no-logo >/dev/null || .venv/bin/lint-imports --no-cache --no-logo
echo "== types"
.venv/bin/pyrefly check --summary=none
# tests/conftest.py says what stays on one worker.
workers="-n 3 --dist loadscope --no-loadscope-reorder"
if [ $# -gt 0 ]; then
    echo "== tests of what has changed since $1"
    # shellcheck disable=SC2086  # the options are words
    exec .venv/bin/python tools/test_changed.py "$1" $workers
fi
echo "== tests, and notebooks in a browser"
# shellcheck disable=SC2086
.venv/bin/python -m pytest $workers --durations=15
