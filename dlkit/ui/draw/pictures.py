"""Arrays and figures as pictures, with a text for readers who cannot see them; all functions are pure."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dlkit.analysis.features import Region

# Okabe and Ito's colours, which people with any colour vision tell apart. https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip
GREY = 89  # the colour between the images of a tile
EDGE = (GREY, GREY, GREY)  # the colour around a picture that may be as white as the page
GAP, LINE = 6, 17  # pixels: the space between captioned images, the height of the text under each


class Picture:
    """A PNG that a notebook shows at `width` pixels, with its alt text."""

    def __init__(self, png: bytes, alt: str, width: int | None = None):
        self.png, self.alt, self.width = png, alt, width

    def html(self) -> str:
        width = f' width="{self.width}"' if self.width else ""
        source = base64.b64encode(self.png).decode()
        return f'<img src="data:image/png;base64,{source}" alt="{escape(self.alt, quote=True)}"{width}>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": f"[picture: {self.alt}]"}

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"


def figure(width: float = 7.0, height: float = 3.0, columns: int = 1, rows: int = 1, **options):
    """A matplotlib figure and its axes, in inches, in dlkit's style; pyplot does not keep it in memory."""
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots(rows, columns, **options)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def show(fig: Figure, alt: str) -> Picture:
    """The figure as a Picture, sharp on screens of high density. `alt` says in words what it shows."""
    full = io.BytesIO()
    fig.savefig(full, format="png", dpi=144)
    small = io.BytesIO()  # 256 colours take a quarter of the space, and notebooks store their pictures
    image = Image.open(full).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(small, "png", optimize=True)
    return Picture(small.getvalue(), alt, width=round(fig.get_figwidth() * 96))


def tile(
    images: Float[Tensor, "images height width"], columns: int | None = None, gap: int = 1, symmetric: bool = False
) -> UInt8[np.ndarray, "rows columns"]:
    """All images in one grey array, `gap` pixels apart; 0 is black and 1 is white.

    `symmetric` is for filters: each is scaled by its own largest magnitude, and grey is 0.
    """
    x = torch.from_numpy(grey(images, symmetric))
    n, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = torch.full((rows, columns, height + gap, width + gap), GREY, dtype=torch.uint8)
    canvas.view(rows * columns, height + gap, width + gap)[:n, :height, :width] = x
    grid = canvas.permute(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return grid[: rows * (height + gap) - gap, : columns * (width + gap) - gap].numpy()


def enlarged(images: Float[Tensor, "images height width"], zoom: int) -> Float[Tensor, "images rows columns"]:
    """Each pixel repeated zoom x zoom times: enlarged before they are tiled, small images have thin gaps."""
    return images.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)


def grey(
    images: Float[Tensor, "images height width"], symmetric: bool = False
) -> UInt8[np.ndarray, "images height width"]:
    """The images in grey; 0 is black and 1 is white.

    `symmetric` is for filters: each is scaled by its own largest magnitude, and grey is 0.
    """
    x = images.detach().float().cpu()
    if symmetric:
        x = 0.5 + 0.5 * x / x.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)
    return (x.clamp(0, 1) * 255).round().byte().numpy()


def photo(image: Float[Tensor, "*maps height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """The image in colour: three maps are red, green and blue; of any other number the mean is shown in grey."""
    x = image[None] if image.ndim == 2 else image
    x = x if len(x) == 3 else x.mean(0, keepdim=True).expand(3, -1, -1)
    return np.ascontiguousarray(grey(x).transpose(1, 2, 0))


def fitted(
    pixels: UInt8[np.ndarray, "height width 3"], side: int, *frames: Region, colour: str = ORANGE
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture, scaled until its longer side has `side` pixels, with a frame around each field."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    wide, tall = max(round(width * scale), 1), max(round(height * scale), 1)
    picture = Image.fromarray(pixels).resize(
        (wide, tall), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    )
    pen = ImageDraw.Draw(picture)
    pen.rectangle([0, 0, wide - 1, tall - 1], outline=EDGE)  # a white image has no other edge on a white page
    for rows, columns in frames:
        left, top = (max(round(end * scale) - 2, 0) for end in (columns.start, rows.start))
        right, bottom = (round(end * scale) + 1 for end in (columns.stop, rows.stop))
        pen.rectangle([left, top, min(right, wide - 1), min(bottom, tall - 1)], outline=colour, width=3)
    return np.array(picture)


def captioned(
    images: UInt8[np.ndarray, "images height width *rgb"],
    captions: Sequence[str],
    columns: int,
    side: int,
    rows: int | None = None,
) -> UInt8[np.ndarray, "rows columns *rgb"]:
    """The images in a grid on white, each `side` pixels wide, GAP apart, with a short text under each, LINE high."""
    count, height, width, *rgb = images.shape
    tall = max(side * height // width, 1)
    rows = rows or math.ceil(count / columns)
    sheet = Image.new("RGB" if rgb else "L", (columns * (side + GAP) - GAP, rows * (tall + LINE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = i % columns * (side + GAP), i // columns * (tall + LINE)
        sheet.paste(Image.fromarray(image).resize((side, tall), Image.Resampling.NEAREST), (x, y))
        draw.text((x + side / 2, y + tall + 2), caption, fill="black", font=font, anchor="mt")
    return np.array(sheet)


def png(pixels: UInt8[np.ndarray, "height width *rgb"], zoom: int = 1) -> bytes:
    """A PNG of the pixels, each repeated zoom x zoom times; takes a few milliseconds for a page of digits."""
    image = Image.fromarray(pixels)
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def caption_html(text: str) -> str:
    """A caption as HTML, from text in HTML; screen readers read it out when it changes."""
    return f'<div role="status" style="line-height: 1.5">{text}</div>'


def text_html(text: str) -> str:
    """Text below a picture, as HTML, from text in HTML."""
    return f'<div style="line-height: 1.5">{text}</div>'


def named(
    pixels: UInt8[np.ndarray, "height width"], rows: Sequence[str] = (), heads: Sequence[str] = ()
) -> UInt8[np.ndarray, "rows columns"]:
    """A tile on white, the names of its rows on the left, and those of its columns above.

    Fewer names than rows are of blocks of equally many rows; so for columns. The name of rows may have several lines.
    """
    font = ImageFont.load_default(13)
    lines = [line for name in rows for line in name.splitlines()]
    left = math.ceil(max((font.getlength(line) + 2 * GAP for line in lines), default=0))
    top, (height, width) = LINE * bool(heads), pixels.shape
    sheet = Image.new("L", (left + width, top + height), "white")
    sheet.paste(Image.fromarray(pixels), (left, top))
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(rows):
        middle = top + (i + 0.5) * height / len(rows)
        pen.text((left - GAP, middle), name, fill="black", font=font, anchor="rm", align="right")
    for i, name in enumerate(heads):
        pen.text((left + (i + 0.5) * width / len(heads), 1), name, fill="black", font=font, anchor="mt")
    return np.array(sheet)


def grid(
    images: Float[Tensor, "images height width"],
    alt: str,
    columns: int | None = None,
    zoom: int = 2,
    symmetric: bool = False,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
) -> Picture:
    """The images in a grid, as a Picture; `zoom` and `symmetric` as for `png` and `tile`, `rows` and `heads` as for
    `named`."""
    pixels = tile(images, columns, symmetric=symmetric).repeat(zoom, 0).repeat(zoom, 1)
    if rows or heads:
        pixels = named(pixels, rows, heads)
    return Picture(png(pixels), alt, width=pixels.shape[1])
