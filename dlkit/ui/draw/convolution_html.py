"""How one cell of a map comes about: what it sees, and what a convolution or sub-sampling makes of it, and as HTML."""

from html import escape
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.features import Region
from dlkit.models.convolution import Subsample
from dlkit.ui.draw.pictures import ORANGE

POSITIVE, NEGATIVE = "0, 114, 178", "213, 94, 0"  # Okabe and Ito's blue and vermilion
TEXT = "color: var(--jp-ui-font-color1, currentColor); font: 11px/1.3 sans-serif; font-variant-numeric: tabular-nums; "
CELL = "border: 1px solid var(--jp-border-color1, #9e9e9e); min-width: 37px; height: 21px; padding: 0; "
LABEL, AMOUNT = "text-align: right; padding: 2px 6px; ", "text-align: right; padding: 2px 0; "


class Windows(NamedTuple):
    """What the cells of one map see of another, of `shape`: windows of `size` at steps of `stride`, as (rows, columns).

    There are `cells` of them; the last may stick out.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    cells: tuple[int, int]

    def field(self, row: int, column: int) -> Region:
        """What is there of the window of the cell (row, column)."""
        rows, columns = (
            slice(place * step, min(place * step + size, length))
            for place, length, size, step in zip((row, column), self.shape, self.size, self.stride, strict=True)
        )
        return Region(rows, columns)

    def sticks_out(self, row: int, column: int) -> bool:
        """Is a part of that window not there?"""
        field = self.field(row, column)
        return (field.rows.stop - field.rows.start, field.columns.stop - field.columns.start) != self.size

    def centres(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Rows and columns, from and to, in pixels, of a box that `cells` equal parts fill, one around each centre."""
        (top, bottom), (left, right) = (
            ((size - step) / 2, (size - step) / 2 + step * count)
            for size, step, count in zip(self.size, self.stride, self.cells, strict=True)
        )
        return (top, bottom), (left, right)


class Convolved(NamedTuple):
    """`patch` * `kernel` is `products`, their sum `total`; `value` is the activation of `total` + `bias`, if any."""

    patch: Float[Tensor, "high wide"]
    kernel: Float[Tensor, "high wide"]
    products: Float[Tensor, "high wide"]
    total: float
    bias: float | None
    value: float


class Pooled(NamedTuple):
    """The values of a `window`, their sum `total`, and what is made of them, `value`.

    `chosen` is the row and column in the window of the one that was taken, if it was one of them.
    """

    window: Float[Tensor, "high wide"]
    total: float
    value: float
    chosen: tuple[int, int] | None


def check_parts(images: Tensor, convolution: nn.Module, activation: object, sub_sampling: nn.Module) -> None:
    """Raise ValueError, with the mend, for what a ConvolutionStepper cannot show."""
    if images.ndim != 3 or not len(images):
        raise ValueError(
            f"images of shape {tuple(images.shape)}: give (images, height, width), as net.pad(images)[:, 0]."
        )
    if not isinstance(convolution, nn.Conv2d) or convolution.in_channels != 1:
        maps = f" of {convolution.in_channels} maps" if isinstance(convolution, nn.Conv2d) else ""
        raise ValueError(f"a {type(convolution).__name__}{maps}: give an nn.Conv2d that takes one map, as net.c1[0].")
    zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    if not zeros or set(convolution.dilation) != {1}:
        raise ValueError(
            f"a convolution with padding={convolution.padding!r}, padding_mode={convolution.padding_mode!r} and "
            f"dilation={convolution.dilation}: give one with a number of zeros around the image, and dilation 1."
        )
    if not isinstance(activation, nn.Module):
        name = getattr(activation, "__name__", type(activation).__name__)
        raise ValueError(f"{name} as the activation: give a module, such as nn.Tanh() or net.c1[1].")
    if not isinstance(sub_sampling, Subsample):
        raise ValueError(f"sub-sampling by a {type(sub_sampling).__name__}: give a Subsample, as net.s1[0].")
    if sub_sampling.maps != convolution.out_channels:
        raise ValueError(
            f"a convolution that gives {convolution.out_channels} maps and sub-sampling of {sub_sampling.maps}: "
            "give the two of one net."
        )


def padded(images: Float[Tensor, "images height width"], convolution: nn.Conv2d) -> Tensor:
    """The images with the zeros around them that the convolution sees, (images, high, wide)."""
    high, wide = (int(zeros) for zeros in convolution.padding)
    return F.pad(images, (wide, wide, high, high))


def convolution_windows(shape: tuple[int, int], convolution: nn.Conv2d) -> Windows:
    """What each cell sees of a `padded` image of this shape."""
    (high, wide), (down, across) = convolution.kernel_size, convolution.stride
    cells = (shape[0] - high) // down + 1, (shape[1] - wide) // across + 1
    return Windows(shape, (high, wide), (down, across), cells)


def sub_sampling_windows(shape: tuple[int, int], sub_sampling: Subsample) -> Windows:
    """What each cell sees of a map of this shape."""
    size, stride = sub_sampling.size, sub_sampling.stride
    return Windows(shape, (size, size), (stride, stride), (shape[0] // stride, shape[1] // stride))


@torch.no_grad()
def convolved(
    image: Float[Tensor, "height width"],
    convolution: nn.Conv2d,
    activation: nn.Module,
    number: int,
    row: int,
    column: int,
) -> Convolved:
    """How the cell (row, column) of map `number` comes about, from a `padded` image."""
    field = convolution_windows((image.shape[0], image.shape[1]), convolution).field(row, column)
    patch, kernel = image[field], convolution.weight[number, 0]
    products = patch * kernel
    total = products.sum()
    bias = None if convolution.bias is None else float(convolution.bias[number])
    value = activation((total + (bias or 0)).view(1, 1, 1, 1))
    return Convolved(patch, kernel, products, float(total), bias, float(value))


@torch.no_grad()
def pooled(maps: Float[Tensor, "height width"], sub_sampling: Subsample, number: int, row: int, column: int) -> Pooled:
    """How the cell (row, column) of the smaller map comes about, from map `number` of the larger ones."""
    field = sub_sampling_windows((maps.shape[0], maps.shape[1]), sub_sampling).field(row, column)
    window = maps[field]
    total = float(window.sum())
    if sub_sampling.kind in ("max", "strided"):
        place = int(window.argmax()) if sub_sampling.kind == "max" else 0
        chosen = divmod(place, window.shape[1])
        return Pooled(window, total, float(window[chosen]), chosen)
    if sub_sampling.kind == "average":
        return Pooled(window, total, total / window.numel(), None)
    value = float(sub_sampling.weight[number]) * total + float(sub_sampling.bias[number])
    return Pooled(window, total, value, None)


def number(value: float) -> str:
    """Two decimals, with a minus sign, and none before 0."""
    return f"{value:z.2f}".replace("-", "−")


def table(values: Float[Tensor, "high wide"], title: str, most: float, chosen: tuple[int, int] | None = None) -> str:
    """The values as HTML: blue above 0 and red below, as much as they are near ±`most`; `chosen` has a frame."""
    rows = []
    for row, line in enumerate(values.tolist()):
        cells = []
        for column, value in enumerate(line):
            tint = f"rgba({POSITIVE if value > 0 else NEGATIVE}, {0.6 * min(abs(value) / most, 1):.2f})"
            frame = f"outline: 3px solid {ORANGE}; outline-offset: -3px; " if (row, column) == chosen else ""
            cells.append(f'<td style="{CELL}{frame}text-align: center; background: {tint}">{number(value)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = f'<caption style="{TEXT}text-align: center; padding: 2px; caption-side: top">{escape(title)}</caption>'
    return f'<table style="{TEXT}border-collapse: collapse">{caption}{"".join(rows)}</table>'


def sums(lines: list[tuple[str, float]], shade: int) -> str:
    """A calculation as HTML, line by line; its last number is the pixel, in its shade of grey."""
    *before, (text, value) = lines
    rows = [
        f'<tr><td style="{LABEL}">{escape(text)}</td><td style="{AMOUNT}">{number(value)}</td></tr>'
        for text, value in before
    ]
    pixel = f"display: block; width: 16px; height: 16px; border: 3px solid {ORANGE}; background: rgb{(shade,) * 3}"
    rows.append(
        f'<tr style="font-weight: bold"><td style="{LABEL}">{escape(text)}</td><td style="{AMOUNT}">{number(value)}'
        f'</td><td style="{LABEL}"><span style="{pixel}"></span></td></tr>'
    )
    return f'<table style="{TEXT}font-size: 12px; border-collapse: collapse">{"".join(rows)}</table>'


def convolution_html(step: Convolved, activation: str, most: float, shade: int) -> str:
    """Patch × kernel = products, and what becomes of them; `most` is the largest magnitude of a pixel."""
    count, weight = step.patch.numel(), max(float(step.kernel.abs().max()), 1e-12)
    total = step.total + (step.bias or 0)
    lines = [(f"sum of {count} products", step.total)]
    if step.bias is not None:
        lines += [("+ bias", step.bias), ("=", total)]
    lines.append((f"{activation}({number(total)}) =", step.value))
    times, equal = (f'<div style="{TEXT}font-size: 18px; padding: 16px 4px 0">{sign}</div>' for sign in "×=")
    parts = [
        *("<div></div>", table(step.patch, "what it sees", most), times, table(step.kernel, "kernel", weight)),
        *(equal, table(step.products, "products", most * weight), "<div></div>", sums(lines, shade)),
    ]
    style = "display: grid; grid-template-columns: repeat(4, auto); align-items: center; justify-items: start"
    return f'<div style="{style}; row-gap: 4px">{"".join(parts)}</div>'


def sub_sampling_html(step: Pooled, sub_sampling: Subsample, of: int, most: float, shade: int) -> str:
    """The window of map `of`, and what is made of it; `most` is the largest magnitude in the map."""
    count = step.window.numel()
    lines = [(f"sum of {count} values", step.total)]
    if sub_sampling.kind == "average":
        lines.append((f"÷ {count} =", step.value))
    elif sub_sampling.kind == "max":
        lines = [("the largest =", step.value)]
    elif sub_sampling.kind == "strided":
        lines = [("the first =", step.value)]
    else:
        weight, bias = float(sub_sampling.weight[of]), float(sub_sampling.bias[of])
        lines += [(f"× weight, {number(weight)}, =", weight * step.total), ("+ bias", bias), ("=", step.value)]
    window = table(step.window, "what it sees", most, step.chosen)
    return f'<div style="display: grid; justify-items: center; gap: 8px">{window}{sums(lines, shade)}</div>'
