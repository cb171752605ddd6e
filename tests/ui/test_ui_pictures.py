"""Images in a grid, as a picture that a notebook shows."""

import io

import numpy as np
import torch
from PIL import Image

from dlkit.ui import grid


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)))


def test_the_labels_of_rows_stand_at_the_left_of_the_same_grid():
    images = torch.rand(6, 20, 20)
    plain, labelled = (
        pixels(grid(images, "six", columns=3, labels=labels)) for labels in ((), ("seven", "map 1:\n0.25"))
    )
    left = labelled.shape[1] - plain.shape[1]
    assert (labelled[:, left:] == plain).all()
    for half in np.split(labelled[:, :left], [plain.shape[0] // 2]):
        assert half.min() == 0
        assert (half[0] == 255).all()


def test_a_grid_is_as_wide_as_it_says():
    picture = grid(torch.rand(2, 5, 7), "two", columns=2, zoom=3, labels=["both"])
    assert pixels(picture).shape[1] == picture.width
    assert picture.width > 3 * 15
