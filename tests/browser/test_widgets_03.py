"""The stack explorer of notebook 03, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, press, select

pytestmark = pytest.mark.parametrize("notebook", ["03_dbn_pretraining.ipynb"], indirect=True)


@pytest.fixture
def explorer(notebook):
    """At unit 0 of layer 1."""
    area = notebook.cell_output("stack-explorer")
    press(area, "before")
    select(area, "Sort by", "index")
    for layer in (2, 1):  # a new choice of layer goes to its first unit
        select(area, "Layer", f"{layer}: 256 units")
        expect(area.locator("[role=status]")).to_have_text(re.compile(rf"^Layer {layer}, unit 0 before"))
    return area


def status(area):
    return area.locator("[role=status]")


def pictures(area):
    """The grid of units, the chosen one, and the digits that excite it."""
    return [area.locator("img.widget-image").nth(i) for i in range(3)]


def test_another_layer_has_other_units(explorer):
    grid, one, digits = pictures(explorer)
    with change(lambda: image_of(grid)), change(lambda: image_of(one)), change(lambda: image_of(digits)):
        select(explorer, "Layer", "2: 256 units")
    expect(status(explorer)).to_have_text(re.compile(r"^Layer 2, unit \d+ before fine-tuning\."))


def test_the_next_unit_looks_for_something_else_and_its_bars_differ(explorer):
    _, one, digits = pictures(explorer)
    bars = explorer.get_by_role("img", name=re.compile("^Mean activity by digit"))
    with (
        change(lambda: image_of(one)),
        change(lambda: image_of(digits)),
        change(lambda: bars.get_attribute("aria-label")),
    ):
        press(explorer, "Next unit of the grid", key="Enter")
    expect(status(explorer)).to_have_text(re.compile(r"^Layer 1, unit 1 before"))


def test_sorted_by_a_digit_the_first_unit_prefers_it(explorer):
    grid = pictures(explorer)[0]
    select(explorer, "Layer", "2: 256 units")
    for digit in (0, 1):
        with change(lambda: image_of(grid)):
            select(explorer, "Sort by", f"preference for {digit}")
        expect(status(explorer)).to_have_text(re.compile(rf"most for {digit}s"))


def test_a_unit_can_be_typed(explorer):
    box = explorer.get_by_label("Unit", exact=True)
    with change(lambda: image_of(pictures(explorer)[1])):
        box.fill("17")
        box.press("Enter")
    expect(status(explorer)).to_have_text(re.compile(r"^Layer 1, unit 17 before"))


def test_after_fine_tuning_the_unit_is_the_same_and_its_picture_another(explorer):
    with change(lambda: image_of(pictures(explorer)[1])):
        press(explorer, "after")
    expect(status(explorer)).to_have_text(re.compile(r"^Layer 1, unit 0 after fine-tuning\."))
