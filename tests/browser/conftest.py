"""One JupyterLab and one browser for all the tests here, and one run of each notebook."""

import os
from pathlib import Path

import pytest

from dlkit.browser import find_browser

from .lab import Lab, Notebook
from .server import server_and_browser

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


# Not of the whole session: while Playwright runs, so does an asyncio loop, in which other tests cannot start theirs.
@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    """JupyterLab on a copy of notebooks/, in a browser."""
    program = find_browser()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "no Chromium or Chrome to open the notebooks in: install one (Debian: `apt-get install chromium`)."
        )
    with server_and_browser(NOTEBOOKS, tmp_path_factory.mktemp("lab"), program) as (url, token, browser):
        yield Lab(url, token, browser)


@pytest.fixture(scope="package")
def opened(lab, request):
    """The notebook that the test's parameter names, open and run from top to bottom."""
    with lab.open_notebook(request.param) as notebook:
        notebook.run_all()
        yield notebook
