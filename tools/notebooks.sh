#!/bin/sh
# Runs every notebook again, in place, with the two threads that the tests use; keeps tags, drops timings.
set -eu
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=2
for notebook in notebooks/*.ipynb; do
    echo "== $notebook"
    .venv/bin/jupyter-nbconvert --to notebook --execute --inplace --log-level=ERROR \
        --ExecutePreprocessor.record_timing=False --ClearMetadataPreprocessor.enabled=True \
        --ClearMetadataPreprocessor.clear_notebook_metadata=False \
        --ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags "$notebook"
done
