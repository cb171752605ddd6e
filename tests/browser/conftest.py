"""One JupyterLab and one browser for all the tests here, and one run of each notebook."""

import os
from collections import Counter
from pathlib import Path

import pytest
from playwright.sync_api import expect

from dlkit.browser import find_browser

from .lab import Lab, press
from .server import server_and_browser
from .stored import TAGS

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
SECONDS = pytest.StashKey[dict[str, float]]()
CELLS = pytest.StashKey[dict[str, Counter[str]]]()


@pytest.hookimpl(tryfirst=True)  # tests/conftest.py sorts by the mark
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("browser")


# Not of the session: Playwright keeps an asyncio loop running, in which other tests could not run theirs.
@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    """JupyterLab on a copy of notebooks/, in a browser."""
    program = find_browser()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "there is no Chromium or Chrome to open the notebooks in: install one (Debian: `apt-get install chromium`)."
        )
    with server_and_browser(NOTEBOOKS, tmp_path_factory.mktemp("lab"), program) as (url, token, browser):
        yield Lab(url, token, browser)


@pytest.fixture(scope="package")
def notebook(lab, request):
    """The notebook that the test's parameter names, open and run from top to bottom."""
    with lab.open_notebook(request.param) as opened:
        opened.run_all()
        opened.known_errors = Counter(opened.outputs_with_errors())
        request.config.stash.setdefault(SECONDS, {})[opened.name] = opened.seconds
        yield opened


@pytest.fixture
def timeline(notebook):
    """The timeline in a notebook's cell that is tagged so, all of it shown."""
    area = notebook.cell_output("timeline")
    area.locator("img").first.scroll_into_view_if_needed()
    press(area, "All of it")
    notebook.settle()
    return area


@pytest.fixture
def live(notebook):
    """The live cluster in a notebook's cell that is tagged so, with its engines up: the last cell has stopped them."""
    area = notebook.cell_output("live")
    area.scroll_into_view_if_needed()
    if "No engine is up" in area.inner_text():
        press(area, "Recover")
        expect(area.locator("[role=status]")).to_have_text("All engines are ready: press Run.", timeout=60_000)
    return area


@pytest.fixture(autouse=True)
def no_error_after_the_test(request):
    """Fails a test that made an output, a widget's callback or the page raise."""
    if "notebook" not in request.fixturenames:
        yield
        return
    opened = request.getfixturevalue("notebook")
    yield
    before, opened.known_errors = opened.known_errors, Counter(opened.outputs_with_errors())
    assert not (new := opened.known_errors - before), "\n".join(new)


def pytest_terminal_summary(terminalreporter, config):
    if seconds := config.stash.get(SECONDS, {}):
        terminalreporter.section("notebooks run in JupyterLab")
        for name, taken in seconds.items():
            terminalreporter.write_line(f"{name}: {taken:.0f} s")
    if cells := config.stash.get(CELLS, {}):
        terminalreporter.section("notebook cells")
        width = max(len(Path(name).stem) for name in cells)
        for name, count in [*cells.items(), ("all", sum(cells.values(), Counter()))]:
            strict = f"cells compared strictly: {count['strict']} of {count['cells']} ({count['empty']} with no output)"
            tagged = [f"{count[tag]} tagged {tag}" for tag in ("nbval-ignore-output", *TAGS.values()) if count[tag]]
            terminalreporter.write_line("; ".join([f"{Path(name).stem:{width}}  {strict}", *tagged]))
