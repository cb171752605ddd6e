"""Views of arrays, and functions along other dimensions than those of rows and columns."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.distributed.arrays.core import Call, DistributedArray, rule


def moved(call: Call, tile: Any, order: list[int]) -> Any:
    """`order`: of the input's dimensions, in the output."""
    x = call.array
    return x.with_local(tile, dims=(order.index(x.dims[0]), order.index(x.dims[1])))


def on_tile(call: Call) -> Any:
    return call.on(lambda value: value.local if isinstance(value, DistributedArray) else call.copied(value))


@rule("permute", "movedim", "transpose", "swapaxes", "moveaxis")
def permuted(call: Call) -> Any:
    """Which dimension goes where is seen on a tensor without numbers, whose dimensions all have other lengths."""
    x = call.array
    marked = torch.empty(tuple(range(2, 2 + x.ndim)), device="meta")
    found = call.on(lambda value: marked)
    return moved(call, on_tile(call), [length - 2 for length in found.shape])


@rule("unsqueeze")
def unsqueezed(call: Call) -> Any:
    x, dim = call.array, call.argument(1, "dim")
    dim %= x.ndim + 1
    return x.with_local(on_tile(call), dims=tuple(each + (dim <= each) for each in x.dims))


@rule("squeeze")
def squeezed(call: Call) -> Any:
    x, dims = call.array, call.argument(1, "dim")
    dims = range(x.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = sorted({dim % x.ndim for dim in dims if x.shape[dim] == 1})
    if any(dim in x.dims for dim in gone):
        return NotImplemented
    tile = x.local
    for dim in reversed(gone):
        tile = tile.squeeze(dim)
    return x.with_local(tile, dims=tuple(dim - sum(other < dim for other in gone) for dim in x.dims))


@rule("amax", "amin", "prod", "std", "var", "logsumexp")
def reduced(call: Call) -> Any:
    x, dims = call.array, call.argument(1, "dim")
    if len(call.arrays) > 1 or dims is None or isinstance(dims, bool) or call.kwargs.get("out") is not None:
        return NotImplemented
    dims = sorted({dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)})
    if any(dim in x.dims for dim in dims):
        return NotImplemented
    found = on_tile(call)
    kept = found.ndim == x.ndim
    return x.with_local(found, dims=tuple(dim - (0 if kept else sum(other < dim for other in dims)) for dim in x.dims))


@rule("softmax", "log_softmax", "cumsum", "normalize")
def along(call: Call) -> Any:
    """Of values along a dimension that is not split."""
    x = call.array
    place, default = (2, 1) if call.name == "normalize" else (1, None)
    dim = call.argument(place, "dim", default)
    if len(call.arrays) > 1 or not isinstance(dim, int) or dim % x.ndim in x.dims:
        return NotImplemented
    return x.with_local(on_tile(call))


@rule("linear", "matmul")
def product(call: Call) -> Any:
    """With a matrix, over the last dimension."""
    x, weight = call.args[:2]
    if not isinstance(x, DistributedArray) or len(call.arrays) > 1 or weight.ndim != 2 or x.ndim - 1 in x.dims:
        return NotImplemented
    return x.with_local(on_tile(call))


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
    if dim in x.dims:
        return NotImplemented
    gone = [dim] if call.name == "unbind" else []
    dims = tuple(each - sum(other < each for other in gone) for each in x.dims)
    return tuple(x.with_local(part, dims=dims) for part in on_tile(call))


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


@rule("view", "reshape")
def viewed(call: Call) -> Any:
    """Other dimensions, where those of rows and columns stay as they are."""
    x = call.array
    shape = call.args[1:] if len(call.args) > 2 else call.argument(1, "shape")
    if len(call.arrays) > 1 or isinstance(shape, torch.dtype):
        return NotImplemented
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    known = prod(length for length in shape if length != -1)
    shape = tuple(x.numel() // known if length == -1 else length for length in shape)
    places = places_of(x, shape)
    if places is None:
        return NotImplemented
    own = list(shape)
    for place, length in zip(places, x.own.size, strict=True):
        own[place] = length
    return x.with_local(x.local.reshape(own), dims=places)


def places_of(x: DistributedArray, shape: Sequence[int]) -> list[int] | None:
    """Where the dimensions of rows and columns are in another shape of these values; None if one is cut or joined."""
    found: dict[int, int] = {}
    for dim in sorted(x.dims):
        first = max(found.values(), default=-1) + 1
        places = (
            place
            for place in range(first, len(shape))
            if shape[place] == x.shape[dim] and prod(shape[:place]) == prod(x.shape[:dim])
        )
        place = next(places, None)
        if place is None:
            return None
        found[dim] = place
    return [found[dim] for dim in x.dims]


@rule("flatten")
def flattened(call: Call) -> Any:
    """Of dimensions behind those of rows and columns; what mixes those is gathered."""
    x = call.array
    start, end = (
        call.argument(place, name, default) % x.ndim
        for place, name, default in ((1, "start_dim", 0), (2, "end_dim", -1))
    )
    if any(start <= dim <= end for dim in x.dims):
        return NotImplemented
    gone = end - start
    return x.with_local(on_tile(call), dims=tuple(dim - gone if dim > end else dim for dim in x.dims))
