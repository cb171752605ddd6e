"""Convolutions and pooling over bands of rows: a rank computes its rows of the output of the rows that these see."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from dlkit.distributed.arrays.tiles import overlap
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.layer_kinds import Windows, kind_of
from dlkit.models.locally_connected import L2Pool, LocallyConnected2d
from dlkit.strategies.graph.exchanges import Layout
from dlkit.strategies.graph.plan import requires_grad
from dlkit.strategies.spatial.bands import Bands, needed
from dlkit.strategies.spatial.site import Site, no_rows

MAPS = 4  # dimensions: batch, maps, rows, columns
Edges = tuple[int, int]


class Window(NamedTuple):
    """`windows` over rows. `apply(module, x, *others)`: the layer without padding over rows; module None of a function.

    weights(module): its weights, asked for once; none without a module.
    """

    windows: Windows
    apply: Callable[..., Tensor]
    weights: Callable[[Any], tuple[Tensor, ...]] = lambda module: ()


def step_windows(site: Site, window: Window | None) -> bool:
    """Split the layer by rows of its output, if its maps are split or it has weights of its own."""
    node, source = site.node, site.source
    if window is None or source is None or not len(node.shape or ()) == len(source.shape or ()) == MAPS:
        return False
    layer = site.module
    own_weights = isinstance(layer, LocallyConnected2d)
    if site.bands is None and not starts(site):
        return False
    if site.bands is not None and site.bands.dim != 2:
        return False
    height, high = source.shape[2], site.shape[2]
    if high == 1 and not own_weights:
        return site.step_whole("its output has one row: it sees all")
    if own_weights and not site.is_alone:
        return site.step_whole("its weights are used elsewhere too")
    windows, own = window.windows, site.even(high)
    need = needed(own, lambda rows: overlap(windows.input_rows(rows), range(height)))
    parameters = None
    if isinstance(layer, LocallyConnected2d):
        parameters = {f"{node.target}.{name}": Layout(0, own) for name, _ in layer.named_parameters()}
    has_module, shape = site.module is not None, site.shape

    def work(group: Any) -> Callable[..., Tensor]:
        rows = own[group.rank]

        def run(*args: Any) -> Tensor:
            module, x, *others = args if has_module else (None, *args)
            if not rows:
                return no_rows(x, shape, 2, *window.weights(module), *(o for o in others if isinstance(o, Tensor)))
            return window.apply(module, with_edges(x, rows, windows, height), *others, rows=rows)[:, :, : len(rows)]

        return run

    tensors = [value for value in node.inputs if value is not source]
    inputs = {source: site.rows(source, 2, need)}
    site.step(Bands(2, own), inputs, work, args=(source, *tensors), kwargs={}, parameters=parameters)
    return True


def starts(site: Site) -> bool:
    """May whole maps be split from here on? Where a gradient goes back to them, only for what has weights."""
    assert site.node.shape is not None
    learns = site.kind in (nn.Conv2d, SparseConv2d, LocallyConnected2d, nn.ConvTranspose2d, "conv2d")
    return (learns or not requires_grad(site.source)) and site.node.shape[2] >= site.ranks


def with_edges(x: Tensor, rows: range, windows: Windows, height: int) -> Tensor:
    """The input rows that these rows of the output see, with those outside of the image, and columns beside it."""
    seen = windows.input_rows(rows)
    if windows.fill is None:
        return x
    above, below = (min(max(rows, 0), len(seen)) for rows in (-seen.start, seen.stop - height))
    below += windows.unseen
    edges = (*windows.sides, above, below)
    return F.pad(x, edges, value=windows.fill) if any(edges) else x


# What windows a layer has.


def window_of(site: Site) -> Window | None:
    """Of a module or a function; None if they are not understood."""
    module, kind = site.module, site.kind
    if kind is nn.Conv2d and isinstance(module, nn.Conv2d):
        return conv2d(module.kernel_size, _conv_settings(module), module.padding_mode)
    if kind in (nn.MaxPool2d, nn.AvgPool2d):
        return POOLS[kind](vars(module), site)
    if module is not None and kind in (SparseConv2d, LocallyConnected2d, Subsample, L2Pool):
        windows = kind_of(module).windows(module)
        return None if windows is None else Window(windows, _module, lambda module: tuple(module.parameters()))
    if kind == "conv2d":
        return _functional_conv(site)
    if kind == "max_pool2d":
        return POOLS[nn.MaxPool2d](_arguments(site, MAX_POOL), site)
    if kind == "avg_pool2d":
        return POOLS[nn.AvgPool2d](_arguments(site, AVG_POOL), site)
    return None


def _module(module: nn.Module, x: Tensor, rows: range) -> Tensor:
    return module(x)


def _conv_settings(conv: nn.Conv2d) -> dict[str, Any]:
    return {name: getattr(conv, name) for name in ("stride", "padding", "dilation", "groups")}


def conv2d(kernel: tuple[int, ...], settings: dict[str, Any], mode: str = "zeros") -> Window | None:
    """kernel: its rows and columns."""
    if mode != "zeros":
        return None
    (stride, dilation), padding = (_pair(settings[name]) for name in ("stride", "dilation")), settings["padding"]
    sizes = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    if isinstance(padding, str):
        before, sides = (_same(size) if padding == "same" else (0, 0) for size in sizes)
    else:
        before, sides = ((pad, pad) for pad in _pair(padding))
    columns, pads = (0, sides) if sides[0] != sides[1] else (sides[0], (0, 0))
    rest = (stride, (0, columns), dilation, settings["groups"])

    def apply(module: Any, x: Tensor, *others: Tensor, rows: range) -> Tensor:
        weight, bias = (module.weight, module.bias) if module is not None else (*others, None)[:2]
        return F.conv2d(x, weight, bias, *rest)

    return Window(Windows(sizes[0], stride[0], before[0], pads), apply, _weights)


def _weights(module: Any) -> tuple[Tensor, ...]:
    if module is None:
        return ()
    return (module.weight,) if module.bias is None else (module.weight, module.bias)


def _same(size: int) -> Edges:
    return (size - 1) // 2, size // 2


def _functional_conv(site: Site) -> Window | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    defaults = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    found = defaults | dict(zip(names, site.node.args, strict=False)) | site.node.kwargs
    weight: Any = found.get("weight")
    if found.get("input") is not site.source or getattr(weight, "shape", None) is None or site.walk.layout(weight):
        return None
    if found["bias"] is not None and (site.walk.layout(found["bias"]) or list(site.node.inputs)[1:2] != [weight]):
        return None
    return conv2d(weight.shape[2:], found)


MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _arguments(site: Site, names: tuple[str, ...]) -> dict[str, Any]:
    defaults = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
    defaults |= {"count_include_pad": True, "divisor_override": None}
    return defaults | dict(zip(names, site.node.args, strict=False)) | site.node.kwargs


def _max_pool(found: dict[str, Any], site: Site) -> Window | None:
    if found["return_indices"] or not site.node.shape or not site.source:
        return None
    (high, wide), dilation, padding, stride = _sizes(found)
    sizes = dilation[0] * (high - 1) + 1, dilation[1] * (wide - 1) + 1
    right = _beyond(site, sizes[1], stride[1], padding[1])
    windows = Windows(sizes[0], stride[0], padding[0], (padding[1], right), -torch.inf)

    def apply(module: Any, x: Tensor, rows: range) -> Tensor:
        return F.max_pool2d(x, (high, wide), stride, 0, dilation)

    return Window(windows, apply)


def _avg_pool(found: dict[str, Any], site: Site) -> Window | None:
    if not site.node.shape or not site.source:
        return None
    (high, wide), _, padding, stride = _sizes(found)
    windows = Windows(high, stride[0], padding[0], (padding[1], _beyond(site, wide, stride[1], padding[1])))
    if found["divisor_override"]:
        areas = None
        size = found["divisor_override"]
    else:
        pads = padding if found["count_include_pad"] else (0, 0)
        lengths = [
            _inside(count, whole, *rest)
            for count, whole, *rest in zip(
                site.node.shape[2:], site.source.shape[2:], (high, wide), stride, padding, pads, strict=True
            )
        ]
        areas, size = torch.outer(*lengths), high * wide
        areas = None if (areas == size).all() else areas

    def apply(module: Any, x: Tensor, rows: range) -> Tensor:
        if areas is None:
            return F.avg_pool2d(x, (high, wide), stride, divisor_override=size)
        sums = F.avg_pool2d(x, (high, wide), stride, divisor_override=1)[:, :, : len(rows)]
        return sums / areas[rows.start : rows.stop].to(sums)

    return Window(windows, apply)


POOLS: dict[Any, Callable[[dict[str, Any], Site], Window | None]] = {nn.MaxPool2d: _max_pool, nn.AvgPool2d: _avg_pool}


def _sizes(found: dict[str, Any]) -> tuple[Edges, ...]:
    stride = found["stride"] if found["stride"] not in (None, (), []) else found["kernel_size"]
    values = (found["kernel_size"], found.get("dilation", 1), found["padding"], stride)
    return tuple((value,) * 2 if isinstance(value, int) else tuple(value) * (2 // len(value)) for value in values)


def _beyond(site: Site, size: int, stride: int, padding: int) -> int:
    """The columns to the right of the image that the last window sees."""
    return max((site.shape[3] - 1) * stride + size - site.source.shape[3] - padding, 0)


def _inside(count: int, whole: int, size: int, stride: int, padding: int, counted: int) -> Tensor:
    """How many rows, or columns, each window averages over: of the image, and of so many counted beside it."""
    starts = torch.arange(count, dtype=torch.float64) * stride - padding
    return (starts + size).clamp(max=whole + counted) - starts.clamp(min=-counted)
