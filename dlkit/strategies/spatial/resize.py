"""What gives maps of other rows: up-sampling, padding, slices, adaptive pooling, transposed convolutions."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from dlkit.strategies.spatial.bands import Bands, hull, needed, scaled
from dlkit.strategies.spatial.site import Site, no_rows
from dlkit.strategies.spatial.windows import MAPS, _weights, starts

Columns = Callable[[Tensor], Tensor]


def step_indexed(site: Site, index: Sequence[int], dim: int, columns: Columns, fill: float = 0.0) -> bool:
    """Output row o is input row `index[o]`, or `fill` where that is below 0. columns: what is done besides."""
    node, own = site.node, site.even(len(index))
    need = needed(own, lambda rows: hull(index[rows.start : rows.stop]))

    def work(group: Any) -> Callable[..., Tensor]:
        rows, seen = own[group.rank], need[group.rank]
        wanted = [row - seen.start if row >= 0 else len(seen) for row in index[rows.start : rows.stop]]
        in_order = wanted == list(range(len(seen)))

        def run(*args: Any) -> Tensor:
            x = args[-1]
            if len(seen) in wanted:
                shape = (*x.shape[:dim], 1, *x.shape[dim + 1 :])
                x = torch.cat([x, x.new_full(shape, fill)], dim)
            places = torch.tensor(wanted, dtype=torch.long, device=x.device)
            return columns(x if in_order else x.index_select(dim, places))

        return run

    out_dim = dim if node.shape is None or site.source is None else dim + len(node.shape) - len(site.source.shape)
    site.step(
        Bands(out_dim, own), {site.source: site.rows(site.source, dim, need)}, work, args=(site.source,), kwargs={}
    )
    return True


def step_linear(site: Site, matrix: Tensor, columns: Columns) -> bool:
    """Rows of the output are sums of rows of the input, with weights `matrix` (output rows, input rows), in float64."""
    shape = site.node.shape
    assert shape is not None
    seen = [row.nonzero().flatten().tolist() for row in matrix]
    if all(len(row) == 1 for row in seen) and ((matrix == 0) | (matrix == 1)).all():
        return step_indexed(site, [row[0] for row in seen], 2, columns)
    own = site.even(shape[2])
    need = needed(own, lambda rows: hull([row for each in seen[rows.start : rows.stop] for row in each]))

    def work(group: Any) -> Callable[..., Tensor]:
        rows, inputs = own[group.rank], need[group.rank]
        weights = matrix[rows.start : rows.stop, inputs.start : inputs.stop]

        def run(*args: Any) -> Tensor:
            x = args[-1]
            return columns(weights.to(x) @ x) if rows else no_rows(x, shape, 2)

        return run

    site.step(Bands(2, own), {site.source: site.rows(site.source, 2, need)}, work, args=(site.source,), kwargs={})
    return True


# Up-sampling, and pooling to a size.

INTERPOLATE = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")


def upsample(site: Site) -> bool:
    module, node = site.module, site.node
    if not has_rows_of_maps(site):
        return False
    if module is not None:
        found = {name: getattr(module, name, None) for name in INTERPOLATE[1:]}
    else:
        found = dict(zip(INTERPOLATE, node.args, strict=False)) | node.kwargs
    mode, corners = found.get("mode") or "nearest", found.get("align_corners")
    scale = found.get("scale_factor")
    if found.get("antialias"):
        return site.step_whole("antialias sees other rows: it sees all")
    if scale is None or found.get("recompute_scale_factor") or mode == "area":
        high, wide = site.shape[2:]
        kinds = {"size": (high, 1)}, {"size": (None, wide)}
    else:
        scales = tuple(map(float, _pair(scale)))
        kinds = {"scale_factor": (scales[0], 1.0)}, {"scale_factor": (1.0, scales[1])}
    sampled: Any = partial(F.interpolate, mode=mode, align_corners=corners)
    rows = sampled(_each_row(site.source.shape[2]), **kinds[0])

    def columns(x: Tensor) -> Tensor:
        if not x.shape[2]:
            return no_rows(x, site.shape, 2)
        given = {key: tuple(x.shape[2] if value is None else value for value in pair) for key, pair in kinds[1].items()}
        return sampled(x, **given)

    return step_linear(site, rows[0, :, :, 0].T, columns)


def adaptive_average(site: Site, size: Any) -> bool:
    """Average pooling to more than one row."""
    high, wide = site.shape[2:]
    rows = F.adaptive_avg_pool2d(_each_row(site.source.shape[2]), (high, 1))[0, :, :, 0].T

    def columns(x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, (None, wide)) if x.shape[2] else no_rows(x, site.shape, 2)

    return step_linear(site, rows, columns)


def _each_row(height: int) -> Tensor:
    """(1, height, height, 1): image r has 1 in row r."""
    return torch.eye(height, dtype=torch.float64)[None, :, :, None]


def has_rows_of_maps(site: Site) -> bool:
    """Are rows of (batch, maps, rows, columns) split, and has the output such too?"""
    is_split = site.bands is not None and site.bands.dim == 2
    return is_split and len(site.source.shape) == len(site.node.shape or ()) == MAPS


# Padding and slices.

PADS = {
    nn.ZeroPad2d: "constant",
    nn.ConstantPad2d: "constant",
    nn.ReflectionPad2d: "reflect",
    nn.ReplicationPad2d: "replicate",
    nn.CircularPad2d: "circular",
}


def padded(site: Site) -> bool:
    if not has_rows_of_maps(site):
        return False
    module, node = site.module, site.node
    if module is not None:
        edges, mode, fill = module.padding, PADS[site.kind], getattr(module, "value", 0.0)
    else:
        edges = node.argument(1, "pad")
        mode, fill = node.argument(2, "mode", "constant"), node.argument(3, "value", 0.0) or 0.0
    edges = tuple(edges) + (0,) * (4 - len(edges))
    if len(edges) > 4 or not all(isinstance(edge, int) for edge in edges):
        return False
    image = torch.arange(site.source.shape[2], dtype=torch.float64)[None, None]
    beyond = {"value": -1.0} if mode == "constant" else {}
    index = F.pad(image, edges[2:], mode, **beyond)[0, 0].long().tolist()

    def columns(x: Tensor) -> Tensor:
        if not x.shape[2]:
            return no_rows(x, site.shape, 2)
        return F.pad(x, (*edges[:2], 0, 0), mode, **({"value": fill} if mode == "constant" else {}))

    return step_indexed(site, index, 2, columns, fill)


def flipped(site: Site, dims: Sequence[int]) -> bool:
    """Rows upside down, and perhaps other dimensions too."""
    assert site.bands is not None
    dim, ndim = site.bands.dim, len(site.source.shape)
    others = [each for each in (one % ndim for one in dims) if each != dim]
    index = list(range(site.source.shape[dim]))
    if len(others) < len(dims):
        index.reverse()
    return step_indexed(site, index, dim, lambda x: x.flip(others) if others else x)


# Transposed convolutions.


def transposed_conv(site: Site) -> bool:
    module, node = site.module, site.node
    if site.source is None or not node.shape or len(node.shape) != MAPS or module is None or len(node.args) > 1:
        return False
    if module.padding_mode != "zeros" or node.kwargs or (site.bands is not None and site.bands.dim != 2):
        return False
    if node.shape[2] < 2 or (site.bands is None and not starts(site)):
        return False
    height, own, shape = site.source.shape[2], site.even(node.shape[2]), node.shape
    stride, dilation, padding = module.stride[0], module.dilation[0], module.padding[0]
    size = dilation * (module.kernel_size[0] - 1) + 1
    settings = module.stride, (0, module.padding[1]), (0, module.output_padding[1]), module.groups, module.dilation

    def sees(rows: range) -> range:
        """Input row i adds to output rows i * stride - padding to i * stride - padding + size."""
        first = max(-(-(rows.start + padding - size + 1) // stride), 0)
        return range(first, max(first, min((rows.stop - 1 + padding) // stride + 1, height)))

    need = needed(own, sees)

    def work(group: Any) -> Callable[..., Tensor]:
        rows, seen = own[group.rank], need[group.rank]
        first = rows.start + padding - seen.start * stride  # of what the convolution gives

        def run(module: Any, x: Tensor) -> Tensor:
            weight, *bias = _weights(module)
            if not rows or not seen:
                empty = no_rows(x, shape, 2, weight, *bias)
                return F.pad(empty, (0, 0, 0, len(rows))) + _of_maps(bias, x)
            found = F.conv_transpose2d(x, weight, None, *settings)
            below = first + len(rows) - found.shape[2]
            return F.pad(found, (0, 0, -first, below)) + _of_maps(bias, x)

        return run

    site.step(Bands(2, own), {site.source: site.rows(site.source, 2, need)}, work)
    return True


def _of_maps(bias: list[Tensor], x: Tensor) -> Any:
    return bias[0].view(1, -1, 1, 1) if bias else 0.0


# Rows in place of maps.


def pixel_shuffle(site: Site, times: int) -> bool:
    if not has_rows_of_maps(site):
        return False
    bands = Bands(2, scaled(site.split.parts, times))
    site.step(bands, {site.source: site.walk.as_it_is(site.source)})
    return True
