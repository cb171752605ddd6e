"""The timeline of notebook 08, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, keys, press

pytestmark = pytest.mark.parametrize("notebook", ["08_data_parallel.ipynb"], indirect=True)


def picture(timeline):
    return timeline.locator("img").first


def test_each_rank_is_told_apart_and_the_early_one_is_said_to_wait_for_the_late_one(timeline):
    bars = picture(timeline)
    box = bars.bounding_box()
    said = set()
    for across in range(20, 95, 3):
        bars.hover(position={"x": box["width"] * across / 100, "y": box["height"] * 0.25})
        timeline.page.wait_for_timeout(50)
        said.add(timeline.inner_text())
    assert any(re.search(r"Rank 0, step \d+: waits .* for rank 1, the last to come", text) for text in said)
    with change(timeline.inner_text):
        bars.hover(position={"x": box["width"] / 2, "y": box["height"] * 0.6})
    expect(timeline).to_contain_text("Rank 1, step")


@pytest.mark.parametrize("pressed", ["Closer", "Further away"])
def test_buttons_zoom(timeline, pressed):
    with change(lambda: image_of(picture(timeline))):
        press(timeline, "Closer")
    with change(lambda: image_of(picture(timeline))):
        press(timeline, pressed)


def test_arrow_keys_move_what_has_been_zoomed_into(timeline):
    bars = picture(timeline)
    bars.click()
    with change(lambda: image_of(bars)):
        keys(bars, "+")
    with change(lambda: image_of(bars)):
        keys(bars, "ArrowRight")
    with change(lambda: image_of(bars)):
        press(timeline, "All of it")
