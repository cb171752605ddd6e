"""What gives an array of other rows and columns: up-sampling, padding, adaptive pooling, transposed convolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from dlkit.distributed.arrays.bill import largest as largest_bill
from dlkit.distributed.arrays.core import Call, DistributedArray, is_view_of, rule
from dlkit.distributed.arrays.tiles import Ranges, Tiles, overlap
from dlkit.distributed.arrays.windows import nothing
from dlkit.distributed.autograd import gather_from_ranks

Index = Sequence[int]


def indexed(x: DistributedArray, rows: Index, columns: Index, fill: float = 0.0) -> DistributedArray:
    """Place (i, j) of the output is place (rows[i], columns[j]) of the input; `fill` where one of them is below 0."""
    indices = rows, columns
    own = x.grid.tiles([len(index) for index in indices])
    need = Tiles(*(hulls(parts, index) for parts, index in zip((own.rows, own.columns), indices, strict=True)))
    seen = x.needed(need)
    rank = x.grid.group.rank
    for dim, outputs, inputs, index in zip(x.dims, own.of(rank), need.of(rank), indices, strict=True):
        places = [place - inputs.start if place >= 0 else len(inputs) for place in index[outputs.start : outputs.stop]]
        if len(inputs) in places:
            shape = list(seen.shape)
            shape[dim] = 1
            seen = torch.cat([seen, seen.new_full(shape, fill)], dim)
        if places != list(range(seen.shape[dim])):
            seen = seen.index_select(dim, torch.tensor(places, dtype=torch.long, device=seen.device))
    return x.with_local(seen, own)


def hulls(outputs: Ranges, index: Index) -> Ranges:
    """All inputs from the lowest to the highest of those that each rank's outputs are."""
    found = [[place for place in index[own.start : own.stop] if place >= 0] for own in outputs]
    return tuple(range(min(each), max(each) + 1) if each else range(0) for each in found)


def resampled(x: DistributedArray, rows: Tensor, columns: Tensor) -> DistributedArray:
    """Rows of the output are sums of rows of the input, with weights `rows` (of output, of input), in float64; columns
    likewise.
    """
    if is_selection(rows) and is_selection(columns):
        return indexed(x, rows.argmax(1).tolist(), columns.argmax(1).tolist())
    own = x.grid.tiles([len(rows), len(columns)])
    seen_rows, seen_columns = ([line.nonzero().flatten().tolist() for line in matrix] for matrix in (rows, columns))
    need = Tiles(spans(own.rows, seen_rows), spans(own.columns, seen_columns))
    seen, rank = x.needed(need), x.grid.group.rank
    (high, wide), (top, left) = own.of(rank), need.of(rank)
    if not own.of(rank).area:
        return x.with_local(nothing(seen, (*x.shape[:2], len(high), len(wide))), own)
    above = rows[high.start : high.stop, top.start : top.stop].to(seen)
    beside = columns[wide.start : wide.stop, left.start : left.stop].to(seen)
    return x.with_local(above @ seen @ beside.T, own)


def is_selection(matrix: Tensor) -> bool:
    return bool(((matrix == 0) | (matrix == 1)).all() and (matrix.sum(1) == 1).all())


def spans(outputs: Ranges, seen: Sequence[Index]) -> Ranges:
    places = [[place for each in seen[own.start : own.stop] for place in each] for own in outputs]
    return tuple(range(min(each), max(each) + 1) if each else range(0) for each in places)


def matrix_of(function: Callable[[Tensor], Tensor], length: int) -> Tensor:
    """(outputs, inputs) of a linear function of one column, (1, inputs, rows, 1) -> (1, inputs, outputs, 1)."""
    return function(torch.eye(length, dtype=torch.float64)[None, :, :, None])[0, :, :, 0].T


@rule("interpolate", "upsample")
def interpolate(call: Call) -> Any:
    x = call.maps()
    names = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    size, scale, mode, corners, recompute, antialias = (
        call.argument(place, name) for place, name in enumerate(names, 1)
    )
    if x is None or antialias:
        return NotImplemented
    size = None if size is None else _pair(size)
    scale = None if scale is None else tuple(map(float, _pair(scale)))

    def along(dim: int) -> Tensor:
        settings = {
            "size": None if size is None else (size[dim], 1),
            "scale_factor": None if scale is None else (scale[dim], 1.0),
            "mode": mode or "nearest",
            "align_corners": corners,
            "recompute_scale_factor": recompute,
        }
        return matrix_of(lambda each: F.interpolate(each, **settings), x.size_of_maps[dim])

    return resampled(x, along(0), along(1))


@rule("adaptive_avg_pool2d")
def adaptive_avg_pool2d(call: Call) -> Any:
    x, size = call.maps(), _pair(call.argument(1, "output_size"))
    if x is None:
        return NotImplemented
    if tuple(size) == (1, 1):
        return x.mean((2, 3), keepdim=True)
    lengths = [length if wanted is None else wanted for length, wanted in zip(x.size_of_maps, size, strict=True)]
    if any(length < count for length, count in zip(lengths, x.grid.shape, strict=True)):
        return NotImplemented
    matrices = (
        matrix_of(lambda each, length=length: F.adaptive_avg_pool2d(each, (length, 1)), inputs)
        for length, inputs in zip(lengths, x.size_of_maps, strict=True)
    )
    return resampled(x, *matrices)


@rule("pad")
def padded(call: Call) -> Any:
    x, edges = call.maps(), tuple(call.argument(1, "pad"))
    mode, fill = call.argument(2, "mode", "constant"), call.argument(3, "value", 0.0) or 0.0
    if x is None or len(edges) > 4:
        return NotImplemented
    edges += (0,) * (4 - len(edges))

    def along(length: int, before: int, after: int) -> list[int]:
        places = torch.arange(length, dtype=torch.float64)[None, None]
        beyond = {"value": -1.0} if mode == "constant" else {}
        return F.pad(places, (before, after), mode, **beyond)[0, 0].long().tolist()

    return indexed(x, along(x.shape[2], *edges[2:]), along(x.shape[3], *edges[:2]), fill)


@rule("flip")
def flipped(call: Call) -> Any:
    x, dims = call.array, call.args[1:] if len(call.args) > 2 else call.argument(1, "dims")
    dims = [dim % x.ndim for dim in ([dims] if isinstance(dims, int) else dims)]
    rows, columns = (
        list(range(length))[:: -1 if dim in dims else 1] for dim, length in zip(x.dims, x.size_of_maps, strict=True)
    )
    others = [dim for dim in dims if dim not in x.dims]
    turned = x.with_local(x.local.flip(others)) if others else x
    return indexed(turned, rows, columns)


@rule("getitem")
def taken(call: Call) -> Any:
    """By numbers and slices; of rows and columns, by slices that leave each rank some."""
    x, index = call.args
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(x, DistributedArray) or len(call.arrays) > 1:
        return NotImplemented
    if not all(each is None or each is Ellipsis or isinstance(each, int | slice) for each in index):
        return NotImplemented
    if any(isinstance(each, bool) for each in index):
        return NotImplemented
    left = x.ndim - sum(each is not None and each is not Ellipsis for each in index)
    at = index.index(Ellipsis) if Ellipsis in index else len(index)
    index = (*index[:at], *[slice(None)] * left, *index[at + 1 :])
    places = [place for place, each in enumerate(index) if each is not None]  # in the index, of each dimension
    if any(isinstance(index[places[dim]], int) for dim in x.split_dims):
        return NotImplemented
    cut = [dim for dim in x.dims if not isinstance(index[places[dim]], int)]
    lines = [
        range(length)[index[places[dim]]] if dim in cut else range(length)
        for dim, length in zip(x.dims, x.size_of_maps, strict=True)
    ]
    if lines != [range(length) for length in x.size_of_maps]:
        if any(len(line) < count for line, count in zip(lines, x.grid.shape, strict=True)):
            return NotImplemented
        base, x = x, indexed(x, lines[0], lines[1])
        cropped = tuple(index[place] if dim in cut else slice(None) for dim, place in enumerate(places))
        if not is_view_of(x.local, base.local):
            x._part_of = base.copied_part(x.local, partial(base.__setitem__, cropped, x))
    whole_lines = [places[dim] for dim in cut]
    others = tuple(slice(None) if place in whole_lines else each for place, each in enumerate(index))

    def place(dim: int) -> int | None:
        return sum(not isinstance(each, int) for each in index[: places[dim]]) if dim in cut else None

    return x.moved(x.local[others], place)


@rule("narrow", "select")
def narrowed(call: Call) -> Any:
    x, dim = call.array, call.argument(1, "dim") % call.array.ndim
    if len(call.arrays) > 1 or not isinstance(call.argument(2, "start" if call.name == "narrow" else "index"), int):
        return NotImplemented
    if call.name == "select":
        return x[(slice(None),) * dim + (call.argument(2, "index"),)]
    start, length = call.argument(2, "start") % x.shape[dim], call.argument(3, "length")
    return x[(slice(None),) * dim + (slice(start, start + length),)]


@rule("adaptive_max_pool2d")
def largest(call: Call) -> Any:
    """The largest value of each map; of several the first, as of a whole one."""
    x = call.maps()
    if x is None or tuple(_pair(call.argument(1, "output_size"))) != (1, 1) or call.argument(2, "return_indices"):
        return NotImplemented
    if len(x.tiles.columns) > 1:
        return NotImplemented  # the first in the order of places may lie on any rank
    counts = [int(tile.area > 0) for tile in x.tiles]
    shape = (*x.shape[:2], counts[x.grid.group.rank], 1)
    own = F.adaptive_max_pool2d(x.local, 1) if x.local.numel() else nothing(x.local, shape)
    x.grid.note(largest_bill, own, len(counts))
    return F.adaptive_max_pool2d(gather_from_ranks(own, counts, 2, x.grid.group), 1)


@rule("conv_transpose2d")
def conv_transpose2d(call: Call) -> Any:
    """Input i adds to outputs i * stride - padding to i * stride - padding + size."""
    x = call.maps()
    if x is None:
        return NotImplemented
    weight, bias = call.copied(call.argument(1, "weight")), call.copied(call.argument(2, "bias"))
    stride, padding = _pair(call.argument(3, "stride", 1)), _pair(call.argument(4, "padding", 0))
    beyond, dilation = _pair(call.argument(5, "output_padding", 0)), _pair(call.argument(7, "dilation", 1))
    groups = call.argument(6, "groups", 1)
    sizes = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:], strict=True)]
    lengths = [
        (length - 1) * step - 2 * pad + size + more
        for length, step, pad, size, more in zip(x.size_of_maps, stride, padding, sizes, beyond, strict=True)
    ]
    maps = weight.shape[1] * groups
    own = x.grid.tiles(lengths)
    settings = zip((own.rows, own.columns), x.size_of_maps, stride, padding, sizes, strict=True)
    need = Tiles(*(tuple(adding_to(each, *rest) for each in parts) for parts, *rest in settings))
    seen, rank = x.needed(need), x.grid.group.rank
    outputs, inputs = own.of(rank), need.of(rank)
    shape = (len(seen), maps, *outputs.size)
    of_maps = 0.0 if bias is None else bias.view(1, -1, 1, 1)
    if not outputs.area or not inputs.area:
        return x.with_local(nothing(seen, shape, weight) + of_maps, own)
    found = F.conv_transpose2d(seen, weight, None, stride, 0, 0, groups, dilation)
    edges: list[int] = []
    for dim, (places, taken) in enumerate(zip(outputs, inputs, strict=True)):
        first = places.start + padding[dim] - taken.start * stride[dim]  # of what the convolution gives
        edges = [-first, first + len(places) - found.shape[dim + 2], *edges]
    return x.with_local(F.pad(found, edges) + of_maps, own)


def adding_to(outputs: range, length: int, stride: int, padding: int, size: int) -> range:
    if not outputs:
        return range(0)
    first = -(-(outputs.start + padding - size + 1) // stride)
    return overlap(range(first, (outputs.stop - 1 + padding) // stride + 1), range(length))


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Any:
    x, times = call.maps(), call.argument(1, "upscale_factor")
    if x is None:
        return NotImplemented
    scaled = (
        tuple(range(times * own.start, times * own.stop) for own in parts) for parts in (x.tiles.rows, x.tiles.columns)
    )
    return x.with_local(F.pixel_shuffle(x.local, times), Tiles(*scaled))
