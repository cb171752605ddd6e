"""The bill of a split net in notebook 09, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, move_slider, press, select

pytestmark = pytest.mark.parametrize("notebook", ["09_model_parallel.ipynb"], indirect=True)


@pytest.fixture
def splitter(notebook):
    area = notebook.cell_output("def deep()")
    area.scroll_into_view_if_needed()
    return area


def test_a_net_is_split_another_way_and_over_more_ranks(splitter):
    picture = splitter.get_by_role("img")
    select(splitter, "Net", "LeNet-5")
    for how, part in (("neurons", "maps 0–2"), ("region", "rows 0–13"), ("layers", "not here"), ("data", "50 images")):
        press(splitter, how)
        expect(picture).to_contain_text(part)
    with change(picture.inner_html):
        move_slider(splitter, "Ranks", +1)
    expect(picture).to_contain_text("rank 2")
    with change(splitter.locator("table").inner_text):
        move_slider(splitter, "Batch", +1)
    move_slider(splitter, "Batch", -1)
    move_slider(splitter, "Ranks", -1)
    expect(picture).not_to_contain_text("rank 2")


def test_a_net_that_cannot_be_split_so_says_why(splitter):
    press(splitter, "region")
    select(splitter, "Net", "perceptron")
    expect(splitter.get_by_role("status")).to_contain_text("has no layer with maps and weights")
    select(splitter, "Net", "local filters")
    expect(splitter.get_by_role("img")).to_contain_text("rows 0–12")


def test_a_net_of_ones_own_is_drawn_with_its_skips(notebook):
    area = notebook.cell_output('"side by side": SideBySide()')
    area.scroll_into_view_if_needed()
    picture = area.get_by_role("img")
    press(area, "neurons")
    expect(picture).to_contain_text("skips")
    expect(picture).to_have_attribute("aria-label", re.compile("split by neurons.*Past other layers: "))
