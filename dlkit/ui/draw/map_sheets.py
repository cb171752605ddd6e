"""The maps of layers as pictures: sheets of maps, the part of an image that a unit sees, the table of connections."""

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from dlkit.analysis.features import Region
from dlkit.ui.draw.pictures import EDGE, GAP, GREY, LINE, ORANGE, captioned, fitted, grey, photo

PITCH = 20  # pixels: a row or column of the connection table
MARGIN = 3  # pixels: around a picture with a frame


def scaled(maps: Float[Tensor, "maps high wide"], largest: float) -> UInt8[np.ndarray, "maps high wide"]:
    """The maps in grey: 0 is grey, `largest` white, and -`largest` black."""
    return grey(0.5 + 0.5 * maps / max(largest, 1e-12))


def map_sheet(
    maps: UInt8[np.ndarray, "maps high wide"], first: int, columns: int, side: int, framed: Collection[int], colour: str
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The maps in a grid, each with its number, which count from `first`; those in `framed` have a frame."""
    numbers = range(first, first + len(maps))
    pixels = captioned(maps, [str(number) for number in numbers], columns, side)
    picture = Image.fromarray(pixels).convert("RGB")
    pen, tall = ImageDraw.Draw(picture), max(side * maps.shape[1] // maps.shape[2], 1)
    for i, number in enumerate(numbers):
        y, x = i // columns * (tall + LINE), i % columns * (side + GAP)
        outline, width = (colour, 3) if number in framed else (EDGE, 1)
        pen.rectangle([x, y, x + side - 1, y + tall - 1], outline=outline, width=width)
    return np.array(picture)


def columns_for(count: int) -> int:
    """How many maps to put in a row: few enough to read their numbers, and enough that the sheet is not too high."""
    few = count if count <= 4 else -(-count // 2)
    return few if count <= 16 else 8 if count <= 32 else 12 if count <= 72 else 15


def framed(pixels: UInt8[np.ndarray, "height width"], field: Region, zoom: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """The pixels, each repeated zoom x zoom times, with an orange frame around `field`, and MARGIN pixels around."""
    sheet = np.pad(pixels.repeat(zoom, 0).repeat(zoom, 1), MARGIN, constant_values=GREY)
    picture = Image.fromarray(sheet).convert("RGB")
    (top, bottom), (left, right) = ((part.start * zoom, part.stop * zoom + 2 * MARGIN - 1) for part in field)
    ImageDraw.Draw(picture).rectangle([left, top, right, bottom], outline=ORANGE, width=MARGIN)
    return np.array(picture)


def patches(
    images: Float[Tensor, "images *maps height width"], fields: list[Region], side: int
) -> UInt8[np.ndarray, "images side side 3"]:
    """The field of each image, all enlarged by one factor: the longest becomes `side` pixels long."""
    cut = np.full((len(fields), side, side, 3), GREY, dtype=np.uint8)
    longest = max(part.stop - part.start for field in fields for part in field)
    for canvas, image, (rows, columns) in zip(cut, images, fields, strict=True):
        crop = photo(image[..., rows, columns])
        if crop.size:
            small = fitted(crop, max(round(side * max(crop.shape[:2]) / longest), 1))
            y, x = ((side - length) // 2 for length in small.shape[:2])
            canvas[y : y + len(small), x : x + small.shape[1]] = small
    return cut


def connection_table(sees: Bool[Tensor, "maps below"], chosen: int) -> str:
    """An SVG with a dot for each connection: a column for each map, a row for each map below; `chosen` is highlighted.

    Source: LeCun, Bottou, Bengio, Haffner 1998, table I.
    """
    maps, below = sees.shape
    width, height = (maps + 1) * PITCH, (below + 1) * PITCH
    highlighted = (chosen + 1) * PITCH
    shapes = [f'<rect x="{highlighted}" width="{PITCH}" height="{height}" rx="4" fill="{ORANGE}" fill-opacity="0.45"/>']
    for o in range(maps):
        weight = ' font-weight="bold"' * (o == chosen)
        shapes.append(f'<text x="{(o + 1.5) * PITCH}" y="{0.7 * PITCH}"{weight}>{o}</text>')
    for i in range(below):
        weight = ' font-weight="bold"' * bool(sees[chosen, i])
        shapes.append(f'<text x="{0.5 * PITCH}" y="{(i + 1.7) * PITCH}"{weight}>{i}</text>')
    for o, i in sees.nonzero().tolist():
        size = 'r="6"' if o == chosen else 'r="4" fill-opacity="0.5"'
        shapes.append(f'<circle cx="{(o + 1.5) * PITCH}" cy="{(i + 1.5) * PITCH}" {size}/>')
    fed = listed(sees[chosen].nonzero()[:, 0].tolist())
    return (
        f'<div style="overflow-x: auto"><svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="Connection table: map {chosen} sees {fed} below" font-family="sans-serif" '
        f'font-size="11" fill="currentColor" text-anchor="middle">{"".join(shapes)}</svg></div>'
    )


def listed(numbers: list[int]) -> str:
    """The numbers of maps in words: maps 1, 2 and 5."""
    if len(numbers) < 2:
        return f"map {numbers[0]}" if numbers else "no map"
    return f"maps {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
