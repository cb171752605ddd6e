"""Pictures of what the units of a layer look for: many on a sheet, with one framed, and one large."""

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import ImageColor
from torch import Tensor

from dlkit.ui.draw.pictures import GAP, LINE, ORANGE, captioned, grey

COLUMNS, SIDE = 10, 40  # units in a row of the sheet; pixels of each
LARGE = 168  # pixels: a unit alone
FRAME = np.array(ImageColor.getrgb(ORANGE), dtype=np.uint8)


def unit_sheet(
    pictures: Float[Tensor, "units height width"], shown: Int64[Tensor, " shown"], chosen: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The pictures of the units `shown`, with their numbers; the unit `chosen` has a frame, if it is among them."""
    sheet = captioned(grey(pictures[shown], symmetric=True), [str(unit) for unit in shown.tolist()], COLUMNS, SIDE)
    rgb = np.repeat(sheet[..., None], 3, axis=2)
    tall = SIDE * pictures.shape[1] // pictures.shape[2]
    for i in (shown == chosen).nonzero()[:, 0].tolist():
        y, x = i // COLUMNS * (tall + LINE), i % COLUMNS * (SIDE + GAP)
        inside = rgb[y + 3 : y + tall - 3, x + 3 : x + SIDE - 3].copy()
        rgb[y : y + tall, x : x + SIDE] = FRAME
        rgb[y + 3 : y + tall - 3, x + 3 : x + SIDE - 3] = inside
    return rgb


def unit_picture(picture: Float[Tensor, "height width"]) -> UInt8[np.ndarray, "rows columns"]:
    """The picture of one unit, enlarged to about LARGE pixels; grey is 0."""
    pixels = grey(picture[None], symmetric=True)[0]
    zoom = max(1, LARGE // pixels.shape[1])
    return pixels.repeat(zoom, 0).repeat(zoom, 1)
