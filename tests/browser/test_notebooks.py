"""Each notebook, as a student runs it: in JupyterLab, in a browser, without a network."""

import pytest
from playwright.sync_api import expect

from .conftest import CELLS, NOTEBOOKS
from .stored import differences, kinds, stored_cells

NAMES = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
pytestmark = pytest.mark.parametrize("notebook", NAMES, indirect=True)


def test_runs_from_top_to_bottom_without_an_error(notebook):
    errors = notebook.outputs_with_errors()
    assert not errors, "\n".join(errors)


def test_shows_what_is_stored_in_its_file(notebook, request):
    stored = stored_cells(request.session, NOTEBOOKS / notebook.name)
    request.config.stash.setdefault(CELLS, {})[notebook.name] = kinds(stored)
    differ = differences(stored, notebook.ran)
    assert not differ, "\n\n".join(differ)


def test_every_picture_has_an_alt_text(notebook):
    images = notebook.images_without_alt()
    assert not images, "\n".join(images)


def test_every_cell_tagged_widget_shows_one(notebook):
    tagged = [i for i, cell in enumerate(notebook.cells()) if "widget" in cell["metadata"].get("tags", [])]
    assert tagged
    for index in tagged:
        expect(notebook.cell_at(index).locator(".jupyter-widgets").first).to_be_visible()
