"""See a notebook as JupyterLab shows it: `python -m tests.browser.look notebooks/00_start_here.ipynb build/look`.

Runs it and writes a PNG for each screenful; prints what went wrong.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from dlkit.browser import find_browser

from .lab import Lab
from .server import server_and_browser


def main() -> int:
    """0 if no output holds an error."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.browser.look")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    chosen = parser.parse_args()
    program = find_browser()
    if program is None:
        parser.error("there is no Chromium or Chrome: install one (Debian: `apt-get install chromium`).")
    if not chosen.notebook.is_file():
        parser.error(f"{chosen.notebook} is not a file.")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as own,
        server_and_browser(chosen.notebook.parent, Path(own), program) as started,
        Lab(*started).open_notebook(chosen.notebook.name) as notebook,
    ):
        try:
            notebook.run_all()
            wrong = notebook.outputs_with_errors()
        except AssertionError as error:
            wrong = [str(error)]
        wrong += [f"no alt text: {image}" for image in notebook.images_without_alt()]
        pictures = notebook.screens(chosen.folder)
        print(f"{notebook.name}: run in {notebook.seconds:.0f} s; {len(pictures)} pictures in {chosen.folder}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
