"""The grid of ranks over an image: who borrows what, against sets of pixels, and what is drawn of it."""

import numpy as np
import pytest
import torch
from oracles import seeded
from seen import changes, pixels

from dlkit.ui import ArrayGrid
from dlkit.ui.draw.pictures import BLUE
from dlkit.ui.draw.tile_map import LENDERS, tile_map, tinted

IMAGES = torch.rand(3, 20, 24, generator=seeded())


def owners(widget):
    """Whose each pixel is, (20, 24)."""
    found = np.full((20, 24), -1)
    for rank, (rows, columns) in enumerate(widget.tiles):
        found[rows.start : rows.stop, columns.start : columns.stop] = rank
    return found


def borrowed_by(widget, rank):
    """{lender: number of pixels}, one pixel of a window after the other."""
    whose, size = owners(widget), widget.window.value
    before = (size - 1) // 2
    reach = range(-before, size - before)
    seen = {(y + dy, x + dx) for y, x in zip(*np.where(whose == rank), strict=True) for dy in reach for dx in reach}
    inside = [(y, x) for y, x in seen if 0 <= y < 20 and 0 <= x < 24 and whose[y, x] != rank]
    lenders = [int(whose[place]) for place in inside]
    return {lender: lenders.count(lender) for lender in set(lenders)}


@pytest.mark.parametrize("window", [1, 2, 5, 9, 20])
@pytest.mark.parametrize("grid", [(2, 2), (1, 4), (3, 3)])
def test_it_says_what_is_borrowed_of_whom(grid, window):
    widget = ArrayGrid(IMAGES, maps=2, batch_size=10)
    widget.grid.value, widget.window.value = grid, window
    widget.picture.rows = [place - 1 for place in widget.picture.rows]
    total = 0
    for rank in range(len(widget.tiles)):
        widget.rank.value = rank
        wanted = borrowed_by(widget, rank)
        for lender, count in wanted.items():
            assert f" of rank {lender}" in widget.picture.alt
            assert f"<td>{4 * 2 * 10 * count / 1000:.3g} kB</td>" in widget.table.value or count < 13
        assert widget.picture.alt.count(" of rank ") == len(wanted)
        total += 80 * sum(wanted.values())
    said = f"{total / 1000:.3g} kB" if total >= 1000 else f"{total} B"
    assert f"<b>{said}</b> forward" in widget.caption.value


def test_a_window_wider_than_a_tile_is_said_to_reach_beyond_the_neighbours():
    widget = ArrayGrid(IMAGES)
    widget.grid.value, widget.window.value = (1, 4), 13  # six pixels to each side, and tiles of six
    assert "beyond" not in widget.caption.value
    widget.window.value = 15
    assert "beyond its neighbours: rank 2 is none of them" in widget.caption.value
    widget.picture.columns, widget.rank.value = [3, 6, 9], 3
    widget.window.value = 24
    assert "ranks 0, 1 are none of them" in widget.caption.value


def test_each_control_changes_what_is_shown():
    widget = ArrayGrid(IMAGES)
    names = ("picture", "caption", "table")
    assert changes(widget, names, lambda: setattr(widget.window, "value", 7)) == set(names)
    assert changes(widget, names, lambda: setattr(widget.rank, "value", 2)) == {"picture", "caption"}
    assert changes(widget, names, lambda: setattr(widget.picture, "columns", [3])) == set(names)
    assert changes(widget, names, lambda: setattr(widget.image, "value", 1)) == {"picture"}
    assert changes(widget, names, lambda: setattr(widget.grid, "value", (2, 1))) == set(names)
    assert (widget.rank.max, widget.picture.rows, widget.picture.columns) == (1, [10], [])


def test_a_click_looks_at_the_rank_of_the_tile():
    widget = ArrayGrid(IMAGES)
    widget.picture.rows, widget.picture.columns = [15], [4]
    for place, rank in (((0.2, 3.9), 0), ((14.9, 4.1), 1), ((15.1, 0.0), 2), ((20.0, 24.0), 3)):
        widget.picture.clicked = list(place)
        assert widget.rank.value == rank


def test_own_pixels_are_blue_and_borrowed_ones_have_their_lender_s_colour():
    widget = ArrayGrid(torch.zeros(1, 8, 8))
    picture = tile_map(torch.zeros(8, 8), widget.tiles, 0, {1: widget.tiles.of(1)}, 10)
    for place, colour in (((25, 5), BLUE), ((25, 75), LENDERS[1])):
        wanted = np.zeros((8, 8, 3))
        tinted(wanted, widget.tiles.of(0), colour)
        assert picture[place].tolist() == wanted[0, 0].round().astype(int).tolist()
    assert picture[75, 45].tolist() == [0, 0, 0]
    assert pixels(widget.picture).shape == (336, 336, 3)


@pytest.mark.parametrize(
    ("images", "said"),
    [(torch.zeros(0, 8, 8), "no images"), (torch.zeros(2, 2, 2), "images of 2x2 pixels are too small to be divided")],
)
def test_what_cannot_be_divided_is_refused(images, said):
    with pytest.raises(ValueError, match=said):
        ArrayGrid(images)


def test_images_that_are_just_large_enough_mend_it():
    assert ArrayGrid(torch.zeros(1, 3, 5)).grid.value == (1, 2)
    assert str(ArrayGrid(IMAGES)) == "ArrayGrid(3 images of 20x24)"
