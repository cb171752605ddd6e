"""The dreamer and the code map of notebook 04, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, move_slider, pause, play, press, select

pytestmark = pytest.mark.parametrize("notebook", ["04_dbn_fine_tuning.ipynb"], indirect=True)


@pytest.fixture
def dreamer(notebook):
    return notebook.cell_output("dreamer")


@pytest.fixture
def code_map(notebook):
    return notebook.cell_output("code-map")


def picture(area):
    return lambda: image_of(area.locator("img.widget-image").first)


def test_a_step_paints_another_picture(dreamer):
    press(dreamer, "Start from digits")
    with change(picture(dreamer)):
        press(dreamer, "Step")
    expect(dreamer).to_contain_text("16 chains, step 1:")


def test_a_label_is_held_and_let_go_while_the_chains_play(dreamer):
    press(dreamer, "Start from noise")
    select(dreamer, "Label", "4")
    expect(dreamer).to_contain_text("label 4 is held")
    expect(dreamer.get_by_role("img", name=re.compile("Mean label probability.*4: 1.00"))).to_be_visible()
    play(dreamer)
    with change(picture(dreamer)):
        pass
    select(dreamer, "Label", "free")
    expect(dreamer).to_contain_text("labels are free")
    with change(picture(dreamer)):
        pass
    pause(dreamer)


def test_part_of_the_digits_can_be_held(dreamer):
    with change(picture(dreamer)):
        select(dreamer, "Hold", "top half")
    expect(dreamer).to_contain_text("The top half of each image is held (blue).")
    select(dreamer, "Hold", "nothing")


def test_the_keyboard_takes_a_step_too(dreamer):
    with change(picture(dreamer)):
        press(dreamer, "Step", key="Enter")


def test_the_pointer_on_the_map_decodes_where_it_is(code_map):
    where = code_map.locator("img.pointed")
    where.scroll_into_view_if_needed()
    where.hover(position={"x": 100, "y": 100})
    with change(picture(code_map)), change(code_map.inner_text):
        where.hover(position={"x": 400, "y": 380})
    expect(code_map).to_contain_text(re.compile(r"Decoded at the cursor \(-?[\d.]+, -?[\d.]+\)"))


def test_the_sliders_move_the_cursor_by_keyboard(code_map):
    with change(picture(code_map)), change(lambda: image_of(code_map.locator("img.pointed"))):
        for name in ("x", "y"):
            move_slider(code_map, name, +10)


def test_the_walk_goes_from_one_digit_to_another(code_map):
    with change(code_map.inner_text):
        move_slider(code_map, "t", +5)
    strip = code_map.locator("img.widget-image").last
    with change(lambda: image_of(strip)):
        box = code_map.get_by_label("to image", exact=True)
        box.fill("7")
        box.press("Enter")
