"""Arrays and figures as pictures with a text for who cannot see them; pure functions, no widgets."""

import base64
import io
import math
from html import escape

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

# Okabe and Ito's colours: told apart with any colour vision. https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)  # fmt: skip


class Picture:
    """A PNG that a notebook shows at `width` pixels, with its alt text."""

    def __init__(self, png: bytes, alt: str, width: int | None = None):
        self.png, self.alt, self.width = png, alt, width

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        width = f' width="{self.width}"' if self.width else ""
        source = base64.b64encode(self.png).decode()
        html = f'<img src="data:image/png;base64,{source}" alt="{escape(self.alt, quote=True)}"{width}>'
        return {"text/html": html, "text/plain": f"[picture: {self.alt}]"}

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"


def figure(width: float = 7.0, height: float = 3.0, columns: int = 1, rows: int = 1, **options):
    """A matplotlib figure and its axes, in inches, in the kit's look; it belongs to no global state."""
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = fig.subplots(rows, columns, **options)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def show(fig: Figure, alt: str) -> Picture:
    """The figure as a Picture, sharp on screens of double density. `alt` says what there is to see in it."""
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", dpi=144)
    small = io.BytesIO()  # 256 colours take a quarter of the space, and notebooks carry their pictures
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(small, "png", optimize=True)
    return Picture(small.getvalue(), alt, width=round(fig.get_figwidth() * 96))


def tile(
    images: Float[Tensor, "images height width"], columns: int | None = None, gap: int = 1, symmetric: bool = False
) -> UInt8[np.ndarray, "rows columns"]:
    """All images in one grey array, `gap` pixels apart; 0 is black and 1 is white.

    `symmetric` is for filters: each is scaled by its own largest magnitude, and grey is 0.
    """
    x = images.detach().float().cpu()
    if symmetric:
        x = 0.5 + 0.5 * x / x.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)
    n, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = torch.full((rows, columns, height + gap, width + gap), 0.35)
    canvas.view(rows * columns, height + gap, width + gap)[:n, :height, :width] = x.clamp(0, 1)
    grid = canvas.permute(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return (grid[: rows * (height + gap) - gap, : columns * (width + gap) - gap] * 255).round().byte().numpy()


def enlarged(images: Float[Tensor, "images height width"], zoom: int) -> Float[Tensor, "images rows columns"]:
    """Each pixel as zoom x zoom: for small images, so that the gap between them in a tile stays thin."""
    return images.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)


def png(pixels: UInt8[np.ndarray, "height width"], zoom: int = 1) -> bytes:
    """A PNG of the pixels, each shown as zoom x zoom; a few milliseconds for a page of digits."""
    image = Image.fromarray(pixels)
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def grid(
    images: Float[Tensor, "images height width"],
    alt: str,
    columns: int | None = None,
    zoom: int = 2,
    symmetric: bool = False,
) -> Picture:
    """The images side by side, as a Picture."""
    pixels = tile(images, columns, symmetric=symmetric)
    return Picture(png(pixels, zoom), alt, width=pixels.shape[1] * zoom)
