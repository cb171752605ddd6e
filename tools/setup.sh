#!/bin/sh
# Makes .venv and installs dlkit in it, pinned, with the extra named in $1: lab or test.
# Under a second when nothing has changed. PYTHON=... names the Python to use.
set -eu
cd "$(dirname "$0")/.."
extra=$1
python=.venv/bin/python
log=.venv/setup.log
needed_mb=3072

say() { echo "== $*"; }
stop() { echo "set-up: $*" >&2; exit 1; }

# Will $1 do? Sets `version`; if not, sets `why` to the sentence that says what is missing.
suits() {
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || {
        why="$1 does not run: name a Python 3.11, 3.12 or 3.13 with \`make setup PYTHON=/path/to/python3\`."
        return 1
    }
    case $version in
    3.11 | 3.12 | 3.13) ;;
    *)
        why="$1 is Python $version and dlkit needs 3.11, 3.12 or 3.13: install one of them, or name it with"
        why="$why \`make setup PYTHON=/path/to/python3.12\`."
        return 1
        ;;
    esac
    "$1" -c 'import ensurepip, venv' 2>/dev/null || {
        why="$1 (Python $version) lacks its venv module: \`apt-get install python$version-venv\` adds it on Debian"
        why="$why and Ubuntu."
        return 1
    }
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        suits "$PYTHON" || stop "$why"
        chosen=$PYTHON
        return
    fi
    first=
    for chosen in python3 python3.13 python3.12 python3.11; do
        command -v "$chosen" >/dev/null || continue
        if suits "$chosen"; then return; fi
        first=${first:-$why}
    done
    stop "${first:-there is no Python on PATH: install Python 3.11, 3.12 or 3.13.}"
}

check_disk() {
    free_mb=$("$chosen" -c 'import shutil; print(shutil.disk_usage(".").free >> 20)')
    [ "$free_mb" -ge "$needed_mb" ] ||
        stop "$here has $free_mb MB free and the set-up needs $needed_mb MB: free some, or move the project to a larger disk."
}

# Ends with one sentence made from what pip said.
explain() {
    if grep -q 'Errno 28' "$log"; then
        stop "the disk was full while pip installed: free some (torch with its CUDA libraries takes 8 GB) and run it again."
    fi
    if grep -q -E 'NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError' "$log"; then
        stop "pip cannot reach the package index: check the network (or the proxy) and run it again."
    fi
    missing=$(sed -n 's/^ERROR: No matching distribution found for //p' "$log" | head -n 1)
    if [ -n "$missing" ]; then
        stop "there is no $missing for Python $version on $(uname -s) $(uname -m): try another Python with \`make setup PYTHON=...\`."
    fi
    tail -n 15 "$log" >&2
    stop "pip failed: its last lines are above and the rest is in $log."
}

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input -c constraints.txt "$@" >>"$log" 2>&1 || explain
}

# The stamp holds a sum of what was installed; the place, because a venv survives neither a move nor a copy.
wanted=$(cat pyproject.toml constraints.txt | cksum)
here=$(pwd -P)
place=$(cat .venv/place 2>/dev/null || echo "$here")
if [ "$place" != "$here" ]; then
    say ".venv was made in $place: making it anew here"
    rm -rf .venv
elif [ -d .venv ] && ! "$python" -c 'import pip' 2>/dev/null; then
    say ".venv is incomplete or its Python is gone: making it anew"
    rm -rf .venv
fi
if [ -d .venv ]; then
    suits "$python" || stop "$why"
    made_with=$version
    [ -z "${PYTHON:-}" ] || choose_python
    [ "$version" = "$made_with" ] ||
        stop "PYTHON=$PYTHON is Python $version but .venv holds Python $made_with: delete .venv and run it again."
    for stamp in ".venv/installed-$extra" .venv/installed-test; do
        if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
    done
else
    choose_python
    check_disk
    mkdir .venv 2>/dev/null || stop "$here cannot be written to: copy the project to a folder of yours."
    say "making .venv with $("$chosen" --version)"
    "$chosen" -m venv .venv >"$log" 2>&1 || explain
    echo "$here" >.venv/place
fi
say "installing the pinned packages (a few minutes the first time)"
: >"$log"
rm -f .venv/installed-*
pip_install hatchling
pip_install --no-build-isolation -e ".[$extra]"
echo "$wanted" >".venv/installed-$extra"
say "ready"
