"""The widgets of notebook 12, in JupyterLab: the grid's lines, filters of places, the best unit, a net on paper."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, move_slider, press, select

pytestmark = pytest.mark.parametrize("notebook", ["12_distributed_array.ipynb"], indirect=True)


def status(area):
    return area.locator("[role=status]").first


@pytest.fixture
def grid(notebook):
    area = notebook.cell_output("ArrayGrid(")
    area.scroll_into_view_if_needed()
    select(area, "Grid (rows x columns)", "1 x 4")
    select(area, "Grid (rows x columns)", "2 x 2")  # even tiles again
    move_slider(area, "Rank", -3)
    expect(status(area)).to_contain_text("Rank 0 has 14x14 pixels")
    return area


def test_a_line_is_dragged_and_what_is_borrowed_follows(grid):
    line = grid.get_by_role("slider", name="Line 1 between columns")
    picture = grid.locator("img.divided")
    box = picture.bounding_box()
    line.hover()
    grid.page.mouse.down()
    grid.page.mouse.move(box["x"] + box["width"] * 6 / 28, box["y"] + 5, steps=5)
    grid.page.mouse.up()
    expect(line).to_have_attribute("aria-valuenow", "6")
    expect(status(grid)).to_contain_text("Rank 0 has 14x6 pixels")
    expect(picture).to_have_attribute("alt", re.compile("Rank 0 has 14x6 pixels"))


def test_a_line_is_moved_by_keys_and_stops_at_its_neighbours(grid):
    line = grid.get_by_role("slider", name="Line 1 between rows")
    line.focus()
    line.press("ArrowUp")
    expect(status(grid)).to_contain_text("Rank 0 has 13x14 pixels")
    line.press("End")
    expect(line).to_have_attribute("aria-valuenow", "27")
    line.press("ArrowDown")
    expect(status(grid)).to_contain_text("Rank 0 has 27x14 pixels")


def test_a_click_chooses_the_rank_and_the_window_grows_past_its_tile(grid):
    picture = grid.locator("img.divided")
    picture.click(position={"x": 250, "y": 250})
    expect(status(grid)).to_contain_text("Rank 3 has 14x14 pixels")
    with change(grid.locator("table").inner_text):
        move_slider(grid, "Window", +4)
    select(grid, "Grid (rows x columns)", "4 x 4")
    move_slider(grid, "Window", +8)
    expect(status(grid)).to_contain_text("reaches beyond its neighbours")
    move_slider(grid, "Window", -12)


def test_the_filters_of_another_place_are_shown(notebook):
    area = notebook.cell_output("PlaceFilters(")
    area.scroll_into_view_if_needed()
    picture = area.locator("img.pointed")
    picture.click(position={"x": 60, "y": 60})
    own = area.get_by_role("img", name=re.compile("^The 8 filters of place"))
    with change(lambda: own.get_attribute("src")):
        picture.press("ArrowRight")
    expect(area).to_contain_text("12,800 parameters, and 512 where all places share them")


def test_a_unit_is_looked_for_by_hand_and_found_by_search(notebook):
    area = notebook.cell_output("UnitFinder(")
    area.scroll_into_view_if_needed()
    before = int(re.search(r"unit (\d+)", status(area).inner_text())[1])
    move_slider(area, "Unit", +3)
    expect(status(area)).to_contain_text(f"unit {before + 3} finds")
    with change(status(area).inner_text):
        move_slider(area, "Threshold", +10)
    press(area, "Show the best")
    expect(status(area)).to_have_text(re.compile(r"^9\d\.\d %: unit "))  # the best for 0
    select(area, "Class to tell", "7")
    expect(area.get_by_role("img", name=re.compile("% of class 7 at or above it"))).to_be_visible()


def test_a_larger_net_is_counted_and_fits_or_not(notebook):
    area = notebook.cell_output("NetOnPaper(")
    area.scroll_into_view_if_needed()
    expect(status(area)).to_contain_text("does not fit into 4 GiB")
    select(area, "Memory a rank", "80 GiB")
    expect(status(area)).to_contain_text("fits into 80 GiB")
    bars = area.get_by_role("img", name=re.compile("^at a corner: weights"))
    with change(lambda: bars.get_attribute("aria-label")):
        move_slider(area, "Ranks a side", +1)
    expect(status(area)).to_contain_text("over 5x5 ranks")
