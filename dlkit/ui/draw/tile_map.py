"""Whose pixels a rank of a grid has, and whose it hears from others; pure functions."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from dlkit.distributed.arrays.tiles import Tile, Tiles
from dlkit.ui.draw.pictures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW, photo

OWN, LENDERS = BLUE, (ORANGE, GREEN, PURPLE, SKY, YELLOW, VERMILION)
TINT = 0.55  # the share of a colour in a pixel that is tinted


def tile_map(
    image: Float[Tensor, "*maps height width"], tiles: Tiles, rank: int, borrowed: Mapping[int, Tile], zoom: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The image, `zoom` pixels for each of its own, each tile with its rank's number.

    Blue is what `rank` has, and in another colour for each lender what it borrows, {lender: pixels}.
    """
    pixels = photo(image).astype(float)
    tinted(pixels, tiles.of(rank), OWN)
    for lender, part in borrowed.items():
        tinted(pixels, part, LENDERS[lender % len(LENDERS)])
    picture = Image.fromarray(pixels.round().astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1))
    pen = ImageDraw.Draw(picture)
    for number, (rows, columns) in enumerate(tiles):
        left, top, right, bottom = (zoom * end for end in (columns.start, rows.start, columns.stop, rows.stop))
        pen.rectangle([left, top, right - 1, bottom - 1], outline="white")
        size = max(min(18, zoom * min(len(rows), len(columns)) - 6), 8)
        middle = (left + right) / 2, (top + bottom) / 2
        font = ImageFont.load_default(size)
        pen.text(middle, str(number), fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    return np.array(picture)


def tinted(pixels: np.ndarray, part: Tile, colour: str) -> None:
    """Mix the colour into these pixels, in place."""
    place = np.s_[part.rows.start : part.rows.stop, part.columns.start : part.columns.stop]
    pixels[place] = (1 - TINT) * pixels[place] + TINT * np.array(ImageColor.getrgb(colour))
