#!/bin/sh
# Tries dlkit on this machine's GPUs, in under 8 minutes: one table, gpu_check.json beside it, and exit code 1 if
# anything failed. Without a GPU it runs the rehearsal. Installs nothing: it takes .venv, or the Python that has torch.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
for python in "$root/.venv/bin/python" python3 python; do
    if "$python" -c 'import torch' 2>/dev/null; then
        export PYTHONPATH="$root:$root/tests:$root/tools${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -m gpu_check "$@"
    fi
done
echo "gpu_check: no Python here has torch: \`make setup\` makes .venv with it, or activate the environment that has it." >&2
exit 1
