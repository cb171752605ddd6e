"""How one cell of a map is computed: the window that it sees, and what a convolution or sub-sampling makes of it."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.features import Region
from dlkit.models.convolution import Subsample


class CellWindows(NamedTuple):
    """The windows of the map below, of `shape`, that the cells of a map see. All pairs are (rows, columns).

    Each window has `size`; it moves by `stride` from one cell to the next. There are `cells` of them; the last window
    may reach beyond the map.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    cells: tuple[int, int]

    def field(self, row: int, column: int) -> Region:
        """The part of the map below that is in the window of the cell (row, column)."""
        rows, columns = (
            slice(index * stride, min(index * stride + size, length))
            for index, length, size, stride in zip((row, column), self.shape, self.size, self.stride, strict=True)
        )
        return Region(rows, columns)

    def sticks_out(self, row: int, column: int) -> bool:
        """Whether that window reaches beyond the map."""
        field = self.field(row, column)
        return (field.rows.stop - field.rows.start, field.columns.stop - field.columns.start) != self.size

    def centres(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """First and last row, first and last column, in pixels of the map below, of a box around all windows' centres.

        `cells` equal parts of the box have one centre in the middle of each.
        """
        (top, bottom), (left, right) = (
            ((size - stride) / 2, (size - stride) / 2 + stride * count)
            for size, stride, count in zip(self.size, self.stride, self.cells, strict=True)
        )
        return (top, bottom), (left, right)


class ConvolvedCell(NamedTuple):
    """A cell of a convolution: `products` = `patch` * `kernel`, their sum `total`, and the cell's `value`.

    `value` is the activation function of `total` + `bias`; `bias` is None if the convolution has none.
    """

    patch: Float[Tensor, "high wide"]
    kernel: Float[Tensor, "high wide"]
    products: Float[Tensor, "high wide"]
    total: float
    bias: float | None
    value: float


class PooledCell(NamedTuple):
    """A cell of sub-sampling: the values in its `window`, their sum `total`, and the cell's `value`.

    `chosen` is the row and column in the window of the value that was taken; None if the value comes from all of them.
    """

    window: Float[Tensor, "high wide"]
    total: float
    value: float
    chosen: tuple[int, int] | None


def check_parts(images: Tensor, convolution: nn.Module, activation: object, sub_sampling: nn.Module) -> None:
    """Check that these can be shown cell by cell. ValueError if not."""
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


def padded(
    images: Float[Tensor, "images height width"], convolution: nn.Conv2d
) -> Float[Tensor, "images padded_height padded_width"]:
    """The images with the zeros around them that the convolution adds."""
    high, wide = (int(zeros) for zeros in convolution.padding)
    return F.pad(images, (wide, wide, high, high))


def convolution_windows(shape: tuple[int, int], convolution: nn.Conv2d) -> CellWindows:
    """The windows of a convolution on a `padded` image of this shape."""
    (high, wide), (down, across) = convolution.kernel_size, convolution.stride
    cells = (shape[0] - high) // down + 1, (shape[1] - wide) // across + 1
    return CellWindows(shape, (high, wide), (down, across), cells)


def sub_sampling_windows(shape: tuple[int, int], sub_sampling: Subsample) -> CellWindows:
    """The windows of sub-sampling on a map of this shape."""
    size, stride = sub_sampling.size, sub_sampling.stride
    return CellWindows(shape, (size, size), (stride, stride), (shape[0] // stride, shape[1] // stride))


@torch.no_grad()
def convolve_cell(
    image: Float[Tensor, "height width"],
    convolution: nn.Conv2d,
    activation: nn.Module,
    number: int,
    row: int,
    column: int,
) -> ConvolvedCell:
    """Compute the cell (row, column) of map `number` from a `padded` image."""
    field = convolution_windows((image.shape[0], image.shape[1]), convolution).field(row, column)
    kernel = convolution.weight[number, 0]
    patch = image[field].to(kernel.device)
    products = patch * kernel
    total = products.sum()
    bias = None if convolution.bias is None else float(convolution.bias[number])
    value = activation((total + (bias or 0)).view(1, 1, 1, 1))
    return ConvolvedCell(patch, kernel, products, float(total), bias, float(value))


@torch.no_grad()
def pool_cell(
    values: Float[Tensor, "height width"], sub_sampling: Subsample, number: int, row: int, column: int
) -> PooledCell:
    """Compute the cell (row, column) of the sub-sampled map `number` from the `values` of the map of that number."""
    field = sub_sampling_windows((values.shape[0], values.shape[1]), sub_sampling).field(row, column)
    window = values[field]
    total = float(window.sum())
    if sub_sampling.kind in ("max", "strided"):
        index = int(window.argmax()) if sub_sampling.kind == "max" else 0
        chosen = divmod(index, window.shape[1])
        return PooledCell(window, total, float(window[chosen]), chosen)
    if sub_sampling.kind == "average":
        return PooledCell(window, total, total / window.numel(), None)
    value = float(sub_sampling.weight[number]) * total + float(sub_sampling.bias[number])
    return PooledCell(window, total, value, None)
