"""Layers whose outputs see windows of their input, over arrays: convolutions, pooling, what has no shared weights."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from dlkit.distributed.arrays.bill import borrowed, returned
from dlkit.distributed.arrays.core import Call, DistributedArray, rule
from dlkit.distributed.arrays.tile_exchange import Borrowing, Tied, Trade, return_tiles
from dlkit.distributed.arrays.tiles import Tile, Tiles, Window, is_local, overlap, seen_by

Pair = tuple[int, int]


class Layer(NamedTuple):
    """A layer over maps (batch, maps, rows, columns). windows: of its rows, and of its columns. size: of its output.

    compute(x, outputs): these outputs, a Tile, of all that they see, with `fill` beside the image.
    """

    windows: Sequence[Window]
    size: Sequence[int]
    maps: int
    compute: Callable[[Tensor, Tile], Tensor]
    fill: float = 0.0
    weights: tuple[Tensor, ...] = ()


def apply(x: DistributedArray, layer: Layer) -> Any:
    """The layer's output, of which each rank computes its tile."""
    lengths = list(zip(layer.size, x.grid.shape, strict=True))
    if min(layer.size) < 1 or (len(x.tiles) > 1 and all(n == 1 or count == 1 for n, count in lengths)):
        return NotImplemented  # one rank would have all of it
    if x.source is not None and any(n < count for n, count in lengths):
        return NotImplemented  # so few are not worth splitting
    outputs = x.grid.tiles(layer.size)
    need, own = seen_by(layer.windows, outputs, x.size_of_maps), outputs.of(x.grid.group.rank)
    if x.grid.overlaps and (inner := inner_tiles(x, layer, outputs)) is not None:
        return x.with_local(overlapped(x, layer, need, own, inner.of(x.grid.group.rank)), outputs)
    seen = x.needed(need)
    if not own.area:
        return x.with_local(nothing(seen, (len(seen), layer.maps, *own.size), *layer.weights), outputs)
    return x.with_local(computed(seen, layer, own, x.size_of_maps), outputs)


def computed(seen: Tensor, layer: Layer, outputs: Tile, size: Sequence[int]) -> Tensor:
    """These outputs, of all that they see of an image of this size."""
    edges = beside(layer.windows, outputs, size)
    if any(edges):
        seen = F.pad(seen, edges, value=layer.fill)
    return layer.compute(seen, outputs)[:, :, : outputs.size[0], : outputs.size[1]]


def inner_tiles(x: DistributedArray, layer: Layer, outputs: Tiles) -> Tiles | None:
    """The outputs that see nothing of other ranks'; None unless each rank has some, and some rank lacks something."""
    if x.source is not None or is_local(x.tiles, seen_by(layer.windows, outputs, x.size_of_maps)):
        return None
    lines = [
        tuple(inner_part(layer.windows[dim], own, has, x.size_of_maps[dim]) for own, has in zip(*parts, strict=True))
        for dim, parts in enumerate(((outputs.rows, x.tiles.rows), (outputs.columns, x.tiles.columns)))
    ]
    return Tiles(*lines) if all(map(len, (*lines[0], *lines[1]))) else None


def inner_part(window: Window, outputs: range, has: range, length: int) -> range:
    """Those whose windows, within the image, lie in what a rank has."""
    seen = ((output, overlap(window.seen(range(output, output + 1)), range(length))) for output in outputs)
    inner = [output for output, each in seen if not each or (each.start >= has.start and each.stop <= has.stop)]
    return range(inner[0], inner[-1] + 1) if inner else range(0)


def overlapped(x: DistributedArray, layer: Layer, need: Tiles, own: Tile, inner: Tile) -> Tensor:
    """The inner outputs are computed while what the others need is on its way, forward and back."""
    trade = Trade(x.grid.group, x.tiles, need, x.dims)
    x.grid.note(borrowed, x.local, trade)
    mine, halo = Borrowing.begin(x.local, trade)

    def part(values: Tensor, has: Tile, outputs: Tile) -> Tensor:
        seen = seen_by(layer.windows, Tiles((outputs.rows,), (outputs.columns,)), x.size_of_maps).of(0)
        return computed(trade.select(values, seen, has), layer, outputs, x.size_of_maps)

    middle = part(mine, trade.own, inner)
    seen = halo()
    (high, wide), (rows, columns) = own, inner
    sides = [range(wide.start, columns.start), range(columns.stop, wide.stop)]
    row = [part(seen, trade.wanted, Tile(rows, side)) if side else None for side in sides]
    middle = joined([row[0], middle, row[1]], 3)
    ends = [range(high.start, rows.start), range(rows.stop, high.stop)]
    above, below = (part(seen, trade.wanted, Tile(end, wide)) if end else None for end in ends)
    found = joined([above, middle, below], 2)
    return Tied.apply(found, seen) if inner == own else found


def joined(parts: Sequence[Tensor | None], dim: int) -> Tensor:
    there = [part for part in parts if part is not None]
    return there[0] if len(there) == 1 else torch.cat(there, dim)


def beside(windows: Sequence[Window], outputs: Tile, size: Sequence[int]) -> tuple[int, ...]:
    """How much of what outputs see lies beside the image: left, right, above and below."""
    edges: list[int] = []
    for window, own, length in zip(windows, outputs, size, strict=True):
        seen = window.seen(own)
        edges = [min(max(-seen.start, 0), len(seen)), min(max(seen.stop - length, 0), len(seen)), *edges]
    return tuple(edges)


def nothing(x: Tensor, shape: Sequence[int], *others: Tensor) -> Tensor:
    """What a rank gives that has no outputs: nothing, but with all that autograd asks of the other ranks too."""
    return x.new_zeros(tuple(shape)) + sum((other.sum() for other in others), x.sum()) * 0


def length_of(length: int, window: Window, after: int) -> int:
    """How many windows there are, with so many places beside the image at its end."""
    return (length + window.before + after - window.size) // window.stride + 1


@rule("conv2d")
def conv2d(call: Call) -> Any:
    x, weight = call.maps(), call.argument(1, "weight")
    if x is None:
        return NotImplemented
    stride, dilation = (_pair(call.argument(place, name, 1)) for place, name in ((3, "stride"), (5, "dilation")))
    padding, groups = call.argument(4, "padding", 0), call.argument(6, "groups", 1)
    sizes = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:], strict=True)]
    if padding == "same":
        edges = [((size - 1) // 2, size // 2) for size in sizes]
    else:
        edges = [(pad, pad) for pad in _pair(0 if padding == "valid" else padding)]
    windows = tuple(Window(size, step, before) for size, step, (before, _) in zip(sizes, stride, edges, strict=True))
    weight, bias = call.copied(weight), call.copied(call.argument(2, "bias"))
    layer = Layer(
        windows,
        [length_of(n, each, after) for n, each, (_, after) in zip(x.size_of_maps, windows, edges, strict=True)],
        len(weight),
        lambda seen, own: F.conv2d(seen, weight, bias, stride, 0, dilation, groups),
        weights=(weight,) if bias is None else (weight, bias),
    )
    return apply(x, layer)


class Pooling(NamedTuple):
    size: Pair
    stride: Pair
    padding: Pair
    windows: tuple[Window, ...]
    outputs: Pair


def pooling(x: DistributedArray, size: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Pooling:
    size, padding, dilation = _pair(size), _pair(padding), _pair(dilation)
    stride = _pair(stride) if stride not in (None, (), []) else size
    windows = tuple(
        Window(step * (extent - 1) + 1, *others)
        for step, extent, *others in zip(dilation, size, stride, padding, strict=True)
    )
    outputs = []
    for length, window in zip(x.size_of_maps, windows, strict=True):
        count = length_of(length, window, window.before + (window.stride - 1) * ceil)
        if ceil and (count - 1) * window.stride >= length + window.before:
            count -= 1  # a window that begins beyond the image and its edge is none
        outputs.append(count)
    return Pooling(tuple(size), tuple(stride), tuple(padding), windows, (outputs[0], outputs[1]))


@rule("max_pool2d", "boolean_dispatch", "max_pool2d_with_indices")
def max_pool2d(call: Call) -> Any:
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    defaults = (None, None, None, 0, 1, False, False)
    _, size, stride, padding, dilation, ceil, indices = (
        call.argument(*each) for each in zip(range(7), names, defaults, strict=True)
    )
    x = call.maps()
    if x is None or indices or call.name == "max_pool2d_with_indices":
        return NotImplemented
    pool = pooling(x, size, stride, padding, dilation, ceil)
    compute = lambda seen, own: F.max_pool2d(seen, pool.size, pool.stride, 0, dilation)  # noqa: E731
    return apply(x, Layer(pool.windows, pool.outputs, x.shape[1], compute, fill=-torch.inf))


@rule("avg_pool2d")
def avg_pool2d(call: Call) -> Any:
    names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    defaults = (None, None, None, 0, False, True, None)
    _, size, stride, padding, ceil, counts_edges, divisor = (
        call.argument(*each) for each in zip(range(7), names, defaults, strict=True)
    )
    if (x := call.maps()) is None:
        return NotImplemented
    pool = pooling(x, size, stride, padding, 1, ceil)
    areas = None
    if divisor is None:
        areas, divisor = areas_of(pool, x.size_of_maps, bool(counts_edges)), pool.size[0] * pool.size[1]

    def compute(seen: Tensor, own: Tile) -> Tensor:
        if areas is None:
            return F.avg_pool2d(seen, pool.size, pool.stride, divisor_override=divisor)
        sums = F.avg_pool2d(seen, pool.size, pool.stride, divisor_override=1)[:, :, : own.size[0], : own.size[1]]
        return sums / areas[own.rows.start : own.rows.stop, own.columns.start : own.columns.stop].to(sums)

    return apply(x, Layer(pool.windows, pool.outputs, x.shape[1], compute))


@lru_cache(maxsize=256)
def areas_of(pool: Pooling, size: Pair, counts_edges: bool) -> Tensor | None:
    """Over how many places each window averages, (rows, columns); None if over as many as it has."""
    lengths = [
        inside(count, length, window, window.before if counts_edges else 0)
        for count, length, window in zip(pool.outputs, size, pool.windows, strict=True)
    ]
    areas = torch.outer(*lengths)
    return None if (areas == pool.size[0] * pool.size[1]).all() else areas


def inside(count: int, length: int, window: Window, counted: int) -> Tensor:
    """Over how many rows, or columns, each window averages: of the image, and of so many counted beside it."""
    starts = torch.arange(count, dtype=torch.float64) * window.stride - window.before
    return (starts + window.size).clamp(max=length + counted) - starts.clamp(min=-counted)


@rule("locally_connected")
def locally_connected(call: Call) -> Any:
    """Weights of each position: (high, wide, ...)."""
    _, weight, bias, size, stride = call.args
    if (x := call.maps()) is None:
        return NotImplemented
    windows = (Window(size, stride),) * 2
    outputs = [length_of(length, window, 0) for length, window in zip(x.size_of_maps, windows, strict=True)]
    tiles = call.grid.tiles(outputs)
    own = own_tile(call, tiles, weight), None if bias is None else own_tile(call, tiles, bias)
    weights = tuple(each for each in own if each is not None)

    def compute(seen: Tensor, places: Tile) -> Tensor:
        rows, columns = (slice(part.start, part.stop) for part in places.within(tiles.of(call.grid.group.rank)))
        return call.func(seen, *(None if each is None else each[rows, columns] for each in own), size, stride)

    return apply(x, Layer(windows, outputs, weight.shape[2], compute, weights=weights))


@rule("locally_connected_transposed")
def locally_connected_transposed(call: Call) -> Any:
    """What a rank's units give to places of other ranks' goes there, and is added."""
    code, weight, size, stride, whole = call.args
    if not isinstance(code, DistributedArray) or len(call.arrays) > 1 or code.dims != (2, 3):
        return NotImplemented
    have, places, window = code.grid.tiles(whole), code.tiles, Window(size, stride)
    if places != code.grid.tiles(code.size_of_maps) or any(not tile.area for tile in places):
        return NotImplemented
    need = Tiles(*(tuple(map(window.seen, parts)) for parts in (places.rows, places.columns)))
    own, seen = own_tile(call, places, weight), need.of(call.grid.group.rank)
    given = call.func(code.local, own, size, stride, seen.size)
    trade = Trade(code.grid.group, have, need, (2, 3))
    if not is_local(have, need):
        code.grid.note(returned, given, trade)
    return DistributedArray(code.grid, return_tiles(given, trade), have)


def own_tile(call: Call, tiles: Tiles, weight: Tensor) -> Tensor:
    """Of weights of each place, those of this rank's."""
    if isinstance(weight, DistributedArray) and weight.tiles == tiles:
        return weight.local
    return call.take(weight, tiles, (0, 1), is_place=True)
