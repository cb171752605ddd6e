"""The occluder and the explorer of notebook 06, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, keys, move_slider, press, select

pytestmark = pytest.mark.parametrize("notebook", ["06_what_a_cnn_sees.ipynb"], indirect=True)


@pytest.fixture
def occluder(notebook):
    area = notebook.cell_output("occluder")
    area.locator("img.pointed").first.scroll_into_view_if_needed()
    return area


def test_the_patch_is_dragged_over_image_and_map(occluder):
    image, heat = occluder.locator("img.pointed").all()
    for picture, x in ((image, 130), (heat, 60)):
        with change(lambda: image_of(image)), change(occluder.inner_text):
            picture.hover(position={"x": 90, "y": 40})
            picture.hover(position={"x": x, "y": 120})
    expect(occluder).to_contain_text(re.compile(r"p\(7\): [\d.]+ without the patch, [\d.]+ with it"))


def test_arrow_keys_move_it_too(occluder):
    image = occluder.locator("img.pointed").first
    with change(occluder.inner_text):
        image.click(position={"x": 100, "y": 100})
    row, column = map(int, re.search(r"around row (\d+), column (\d+)", occluder.inner_text()).groups())
    keys(image, "ArrowDown", "ArrowRight")
    expect(occluder).to_contain_text(f"around row {row + 1}, column {column + 1}")


def test_size_kind_and_class_redraw_the_map(occluder):
    heat = occluder.locator("img.pointed").last
    with change(lambda: image_of(heat)):
        move_slider(occluder, "Patch size", -3)
    with change(lambda: image_of(heat)):
        press(occluder, "grey patch")
    with change(lambda: image_of(heat)):
        select(occluder, "Class to watch", "1")
    expect(occluder).to_contain_text("p(1):")


def test_the_explorer_takes_a_students_net(notebook):
    explorer = notebook.cell_output("explorer")
    select(explorer, "Layer", "second: 8 maps of 14x14")
    with change(explorer.inner_text):
        press(explorer, "Next map")
    expect(explorer).to_contain_text("map 1")
