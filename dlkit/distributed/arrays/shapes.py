"""Views of arrays, and functions along other dimensions than those of rows and columns."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.distributed.arrays.core import Call, DistributedArray, rule
from dlkit.distributed.arrays.elements import without
from dlkit.distributed.arrays.tiles import Tiles


def on_tile(call: Call) -> Any:
    return call.on(lambda value: value.local if isinstance(value, DistributedArray) else call.copied(value))


@rule("permute", "movedim", "transpose", "swapaxes", "moveaxis")
def permuted(call: Call) -> Any:
    """Which dimension goes where is seen on a tensor without numbers, whose dimensions all have other lengths."""
    x = call.array
    marked = torch.empty(tuple(range(2, 2 + x.ndim)), device="meta")
    found = call.on(lambda value: marked)
    order = [length - 2 for length in found.shape]
    return x.moved(on_tile(call), order.index)


@rule("unsqueeze")
def unsqueezed(call: Call) -> Any:
    x, dim = call.array, call.argument(1, "dim")
    dim %= x.ndim + 1
    return x.moved(on_tile(call), lambda each: each + (dim <= each))


@rule("squeeze")
def squeezed(call: Call) -> Any:
    x, dims = call.array, call.argument(1, "dim")
    dims = range(x.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = sorted({dim % x.ndim for dim in dims if x.shape[dim] == 1})
    if any(dim in x.split_dims for dim in gone):
        return NotImplemented
    tile = x.local
    for dim in reversed(gone):
        tile = tile.squeeze(dim)
    return x.moved(tile, lambda each: None if each in gone else each - sum(other < each for other in gone))


@rule("amax", "amin", "prod", "std", "var", "logsumexp")
def reduced(call: Call) -> Any:
    x, dims = call.array, call.argument(1, "dim")
    if len(call.arrays) > 1 or dims is None or isinstance(dims, bool) or call.kwargs.get("out") is not None:
        return NotImplemented
    dims = sorted({dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)})
    return NotImplemented if any(dim in x.split_dims for dim in dims) else without(call, dims)


@rule("softmax", "log_softmax", "cumsum", "normalize")
def along(call: Call) -> Any:
    """Of values along a dimension that is not split."""
    x = call.array
    place, default = (2, 1) if call.name == "normalize" else (1, None)
    dim = call.argument(place, "dim", default)
    if len(call.arrays) > 1 or not isinstance(dim, int) or dim % x.ndim in x.split_dims:
        return NotImplemented
    return x.with_local(on_tile(call))


@rule("linear", "matmul")
def product(call: Call) -> Any:
    """With a matrix, over the last dimension."""
    x, weight = call.args[:2]
    if not isinstance(x, DistributedArray) or len(call.arrays) > 1 or weight.ndim != 2 or x.ndim - 1 in x.split_dims:
        return NotImplemented
    return x.moved(on_tile(call), lambda dim: dim)


@rule("prelu", "channel_shuffle")
def by_maps(call: Call) -> Any:
    """Numbers of a map are the same for all its places."""
    x = call.array
    return x.with_local(on_tile(call)) if x is call.args[0] and x.ndim == 4 and x.dims == (2, 3) else NotImplemented


@rule("chunk", "split", "unbind", "tensor_split")
def parted(call: Call) -> Any:
    """Several values, each some of another dimension."""
    x = call.array
    dim = call.argument(1 if call.name == "unbind" else 2, "dim", 0) % x.ndim
    if dim in x.split_dims:
        return NotImplemented
    gone = dim if call.name == "unbind" else None

    def place(each: int) -> int | None:
        return None if each == gone else each - (gone is not None and gone < each)

    return tuple(x.moved(part, place) for part in on_tile(call))


@rule("dropout", "dropout2d", "feature_dropout")
def dropped(call: Call) -> Any:
    """What is drawn is drawn for all places on all ranks, and so is the same however they are split."""
    x, probability, training = call.array, call.argument(1, "p", 0.5), call.argument(2, "training", True)
    in_place = call.argument(3, "inplace", False) or call.func.__name__.endswith("_")
    if not training or probability == 0:
        return x
    places = x.shape if call.name == "dropout" else (*x.shape[:2], 1, 1)
    if probability == 1 or (call.name != "dropout" and (x.ndim != 4 or x.dims != (2, 3))):
        return NotImplemented
    kept = F.dropout(ones_as_of(x.local, places), probability)
    return x.mul_(kept) if in_place else x * kept


@rule("rand_like", "randn_like", "randint_like", "empty_like")
def drawn(call: Call) -> Any:
    """New values for all places, of which each rank keeps its own."""
    x = call.array
    return x.grid.cut(call.on(lambda value: ones_as_of(x.local, x.shape)), x.dims)


@rule("bernoulli", "normal", "uniform", "exponential", "geometric", "cauchy", "log_normal", "random")
def filled(call: Call) -> Any:
    """In place, with values that are drawn for all places."""
    x = call.array
    if not call.func.__name__.endswith("_") or len(call.arrays) > 1:
        return NotImplemented
    whole = call.on(lambda value: ones_as_of(x.local, x.shape) if value is x else value)
    x.local.copy_(x.grid.cut(whole, x.dims).local)
    return x


def ones_as_of(tile: Tensor, shape: Sequence[int]) -> Tensor:
    """Ones of this shape in the order in memory of a tile, in which they are drawn."""
    order = sorted(range(tile.ndim), key=lambda dim: (-tile.stride(dim), dim))
    made = torch.ones([shape[dim] for dim in order], dtype=tile.dtype, device=tile.device)
    return made.permute([order.index(dim) for dim in range(tile.ndim)])


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as")
def reshaped(call: Call) -> Any:
    """Other dimensions, in which those that are split stay, or are the first part of one, or have a part taken off."""
    x = call.array
    if x is not call.args[0] or isinstance(call.argument(1, "dtype"), torch.dtype):
        return NotImplemented
    shape = call.on(lambda value: torch.empty(value.shape, device="meta")).shape
    places: dict[int, int] = {}
    lines, own = [x.tiles.rows, x.tiles.columns], list(shape)
    for number, dim in enumerate(x.dims):
        if dim not in x.split_dims:
            continue
        if (found := place_of(x.shape, dim, shape)) is None or found[0] in places.values():
            return NotImplemented
        places[dim], times, divided = found
        if any(part and (part.start % divided or part.stop % divided) for part in lines[number]):
            return NotImplemented
        lines[number] = tuple(range(times * p.start // divided, times * p.stop // divided) for p in lines[number])
        own[places[dim]] = len(lines[number][x.grid.place[number]])
    for dim in x.dims:  # what is in one part may be anywhere: at its place, if it still has one
        if dim not in x.split_dims and dim < len(shape) and shape[: dim + 1] == x.shape[: dim + 1]:
            places[dim] = dim
    return x.moved(x.local.reshape(own), places.get, Tiles(*lines))


def place_of(shape: Sequence[int], dim: int, other: Sequence[int]) -> tuple[int, int, int] | None:
    """Where a dimension of these values is in another shape, and how many places are one there, or one of them has."""
    length, before = shape[dim], prod(shape[:dim])
    for place, size in enumerate(other):
        if prod(other[:place]) == before and prod(shape) and (size > 1 or length == 1):
            if size % length == 0:
                return place, size // length, 1
            return (place, 1, length // size) if length % size == 0 else None
    return None
