"""Grids of images: the names of their rows stand beside them."""

import io

import numpy as np
import torch
from PIL import Image

from dlkit.ui import grid


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)).convert("L"))


def test_names_are_written_left_of_the_rows_and_change_nothing_else():
    images = torch.rand(8, 5, 5, generator=torch.Generator().manual_seed(0))
    plain, named = (pixels(grid(images, "eight", columns=2, labels=labels)) for labels in ((), ("upper", "lower two")))
    margin = named.shape[1] - plain.shape[1]
    assert named.shape[0] == plain.shape[0]
    assert (named[:, margin:] == plain).all()
    half = len(named) // 2
    assert (named[:half, :margin] < 128).any()
    assert (named[half:, :margin] < 128).any()
    assert (named[:, 0] == 255).all()


def test_a_picture_is_as_wide_as_it_says():
    named = grid(torch.rand(4, 5, 5), "four", columns=2, zoom=3, labels=["a", "b"])
    assert named.width == pixels(named).shape[1]
