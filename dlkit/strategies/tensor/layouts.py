"""How what functions of shapes give is split, where their input is: pure arithmetic on layouts.

`node` is a tensor split by `layout`; None is said where what it becomes cannot be made of each rank's part alone.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from dlkit.models.graph import Node
from dlkit.strategies.graph.exchanges import Layout


def reshaped(layout: Layout, node: Node, output: Node) -> Layout | None:
    """Of a tensor of the same numbers in the same order: the split dimension may have joined those behind it, or lost
    some of itself to a new one behind it."""
    before, after = node.shape, output.shape
    if before is None or after is None or not same_images(node.images_dim, output.images_dim, layout.dim):
        return None
    in_front, size = prod(before[: layout.dim]), before[layout.dim]
    for dim, new in enumerate(after):
        if prod(after[:dim]) != in_front or new == 1 or (output.images_dim is not None and output.images_dim >= dim):
            continue
        if new % size == 0:
            return layout.repeated(new // size, dim)
        return layout.in_blocks(size // new, dim) if size % new == 0 else None
    return None


def same_images(before: int | None, after: int | None, dim: int) -> bool:
    """Do both count images in a dimension, the first in one before `dim`, or neither?"""
    return (before is None) == (after is None) and (before is None or before < dim)


def permuted(layout: Layout, dims: Sequence[int]) -> Layout:
    """Where dimension k of the output is dimension dims[k] of the input."""
    return Layout([dim % len(dims) for dim in dims].index(layout.dim), layout.parts)


def reduced(layout: Layout, node: Node, dims: Any, output: Node) -> Layout | None:
    """Over these dimensions, which stay, with length 1, where the output has as many as the input."""
    over = dimensions(dims, node)
    if over is None or layout.dim in over:
        return None
    shape = first_shape(output)
    if shape is None or node.shape is None:
        return None
    gone = 0 if len(shape) == len(node.shape) else sum(dim < layout.dim for dim in over)
    return Layout(layout.dim - gone, layout.parts)


def dimensions(dims: Any, node: Node) -> list[int] | None:
    """Dimensions as a function was given them, counted from the front; None if they are all, or cannot be known."""
    if type(dims) is int:
        dims = [dims]
    if (
        not isinstance(dims, tuple | list)
        or not dims
        or node.shape is None
        or any(type(dim) is not int for dim in dims)
    ):
        return None
    return [dim % len(node.shape) for dim in dims]


def first_shape(node: Node) -> tuple[int, ...] | None:
    """Of a tensor, or of the first of several."""
    value = node.value
    if isinstance(value, tuple | list) and value and isinstance(value[0], Tensor):
        value = value[0]
    return tuple(value.shape) if isinstance(value, Tensor) else None


def indexed(layout: Layout, node: Node, index: Any) -> Layout | None:
    """Of `x[index]`, for numbers, slices, None and an Ellipsis that leave the split dimension alone."""
    items = list(index) if isinstance(index, tuple) else [index]
    if node.shape is None or any(isinstance(item, bool) or not _is_plain(item) for item in items):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    rest = [slice(None)] * (len(node.shape) - taken)
    at = next((number for number, item in enumerate(items) if item is Ellipsis), len(items))
    items[at : at + 1] = rest
    dim = new_dim = 0
    for item in items:
        if item is None:
            new_dim += 1
            continue
        if dim == layout.dim:
            return Layout(new_dim, layout.parts) if item == slice(None) else None
        dim, new_dim = dim + 1, new_dim + (not isinstance(item, int))
    return None


def _is_plain(item: Any) -> bool:
    if isinstance(item, slice):
        return not any(isinstance(end, Node) for end in (item.start, item.stop, item.step))
    return item is None or item is Ellipsis or type(item) is int


def concatenated(layouts: Sequence[Layout], sizes: Sequence[int]) -> Layout:
    """Of tensors, of these lengths along the dimension that all are split along, one after another along it."""
    parts: list[list[int]] = [[] for _ in layouts[0].parts]
    begin = 0
    for layout, size in zip(layouts, sizes, strict=True):
        for own, part in zip(parts, layout.parts, strict=True):
            own.extend(begin + index for index in part)
        begin += size
    return Layout(layouts[0].dim, tuple(parts))


def broadcast(layout: Layout, shape: Sequence[int], output: Sequence[int]) -> Layout | None:
    """Of what a function of each element gives, whose shape is `output`, of a tensor of this shape split so."""
    dim = layout.dim + len(output) - len(shape)
    return Layout(dim, layout.parts) if dim >= 0 and output[dim] == layout.whole else None


def for_broadcast(layout: Layout, shape: Sequence[int], output: Sequence[int]) -> Layout | None:
    """How a tensor of this shape is to be split for an output split so; None if each rank needs all of it."""
    dim = layout.dim - len(output) + len(shape)
    return Layout(dim, layout.parts) if dim >= 0 and shape[dim] == layout.whole else None
