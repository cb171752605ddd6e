"""The timeline of notebook 10, in JupyterLab: exchanges of both kinds of groups, on all four ranks."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, keys, move_slider, press, select

pytestmark = pytest.mark.parametrize("notebook", ["10_hybrid.ipynb"], indirect=True)


def said_along(timeline, rank, down):
    """What is said under the pointer, from left to right, along the bar of this rank."""
    bars = timeline.locator("img").first
    box = bars.bounding_box()
    bars.hover(position={"x": box["width"] / 2, "y": box["height"] * down})
    expect(timeline).to_contain_text(f"Rank {rank}")
    texts = set()
    for across in range(12, 96, 2):
        bars.hover(position={"x": box["width"] * across / 100, "y": box["height"] * down})
        timeline.page.wait_for_timeout(50)
        texts.add(timeline.inner_text())
    return texts


@pytest.mark.parametrize(("rank", "down", "row", "column"), [(0, 0.2, 0, 0), (3, 0.75, 1, 1)])
def test_a_rank_exchanges_in_its_row_and_in_its_column(timeline, rank, down, row, column):
    texts = said_along(timeline, rank, down)
    assert {found[1] for text in texts if (found := re.search(r"Rank (\d)", text))} == {str(rank)}
    found = {match for text in texts for match in re.findall(r"of group (\w+ \d)", text)}
    assert {f"model {row}", f"data {column}"} <= found <= {f"model {row}", f"data {column}", "all"}


def test_keys_go_from_rank_to_rank_and_zoom(timeline):
    bars = timeline.locator("img").first
    bars.click()
    keys(bars, *["ArrowUp"] * 3)
    expect(timeline).to_contain_text("Rank 0")
    keys(bars, *["ArrowDown"] * 3)
    expect(timeline).to_contain_text("Rank 3")
    with change(lambda: image_of(bars)):
        keys(bars, "+")
    with change(lambda: image_of(bars)):
        press(timeline, "All of it")


def test_the_splitter_draws_the_mesh_and_the_trick(notebook):
    splitter = notebook.cell_output("Splitter(")
    splitter.scroll_into_view_if_needed()
    picture = splitter.get_by_role("img")
    select(splitter, "Net", "LeNet-5")
    for how, parts in (("weird trick", ("images 0–24", "all, 25 images", "units 0–20")), ("hybrid", ("images 50–99",))):
        press(splitter, how)
        for part in parts:
            expect(picture).to_contain_text(part)
    move_slider(splitter, "Ranks", -1)
    expect(splitter.get_by_role("status")).to_contain_text("need 4, 6, 8, ... ranks, and there are 3")
    move_slider(splitter, "Ranks", +1)
    expect(picture).to_contain_text("rank 3")
