"""Pictures of many images: the names of their rows and columns stand beside them, and the images stay as they were."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from dlkit.ui import grid
from dlkit.ui.draw.pictures import tile


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)).convert("L"))


def test_a_grid_has_the_names_of_its_rows_and_columns_and_the_same_images():
    images = torch.rand(6, 5, 4, generator=torch.Generator().manual_seed(0))
    plain, named = (
        pixels(grid(images, "six", columns=3, zoom=3, **names))
        for names in ({}, {"rows": ["first", "second"], "heads": ["a", "b", "c"]})
    )
    assert np.array_equal(plain, tile(images, 3).repeat(3, 0).repeat(3, 1))
    height, width = plain.shape
    assert np.array_equal(named[-height:, -width:], plain)
    beside, above = named[-height:, :-width], named[:-height, -width:]
    assert [(half < 128).any() for half in np.array_split(beside, 2)] == [True, True]
    assert [(third < 128).any() for third in np.array_split(above, 3, axis=1)] == [True, True, True]


def test_a_picture_is_as_wide_as_it_says():
    picture = grid(torch.zeros(2, 4, 4), "two", columns=1, rows=["upper", "lower"])
    html = picture._repr_mimebundle_()["text/html"]
    source = html.split("base64,")[1].split('"')[0]
    assert f'width="{Image.open(io.BytesIO(base64.b64decode(source))).width}"' in html


def test_fewer_names_than_rows_are_of_blocks():
    images = torch.rand(6, 20, 20, generator=torch.Generator().manual_seed(0))
    plain, named = (pixels(grid(images, "six", columns=2, rows=rows)) for rows in ((), ("seven", "map 1:\n0.25")))
    beside = named[:, : -plain.shape[1]]
    assert np.array_equal(named[:, -plain.shape[1] :], plain)
    assert [(half < 128).any() for half in np.array_split(beside, 2)] == [True, True]
