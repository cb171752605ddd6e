"""By which rule each kind of layer or function is split by rows: what has none here sees whole maps."""

from collections.abc import Callable
from typing import Any

from torch import nn

from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.graph import NetGraph, Node
from dlkit.models.layer_kinds import KINDS
from dlkit.models.locally_connected import ContrastNorm, L2Pool, LocallyConnected2d
from dlkit.strategies.graph.elementwise import DRAWING_BY_MAPS, draws_elements, is_elementwise
from dlkit.strategies.graph.plan import Walk
from dlkit.strategies.spatial import elementwise, norms, reshaping, resize
from dlkit.strategies.spatial.site import Site
from dlkit.strategies.spatial.windows import step_windows, window_of

Rule = Callable[[Site], bool]  # whether it has made a step


class RowRules:
    """Rank r has a band of rows of every map; what needs other rows borrows them, or gathers all."""

    def visit(self, walk: Walk, node: Node) -> None:
        site = Site(walk, node)
        rule = rule_of(site)
        is_split = any(walk.layout(taken) is not None for taken in node.inputs)
        may_start = rule is windowed or rule is resize.transposed_conv
        if rule is None or not (is_split or may_start) or not rule(site):
            walk.step_whole(node)


def rule_of(site: Site) -> Rule | None:
    kind = site.kind
    if isinstance(kind, type) and kind in KINDS and KINDS[kind].elementwise:
        return elementwise.alike
    if kind in RULES:
        return RULES[kind]
    return elementwise.broadcast if is_elementwise(site.node) or draws_elements(site.node) else None


def windowed(site: Site) -> bool:
    return step_windows(site, window_of(site))


def linear(site: Site) -> bool:
    """Over the last dimension, for each row."""
    return site.bands is not None and site.bands.dim < len(site.source.shape) - 1 and elementwise.row_by_row(site)


def adaptive_pool(site: Site) -> bool:
    """To one value a map, of which all ranks' are added; or to more rows."""
    if not resize.has_rows_of_maps(site):
        return False
    high, wide = site.shape[2:]
    if (high, wide) == (1, 1):
        return elementwise.summed(site, (2, 3), keepdim=True, is_mean=True)
    return high > 1 and resize.adaptive_average(site, (high, wide))


def adaptive_max(site: Site) -> bool:
    """The largest value of each map."""
    high, wide = site.node.shape[2:] if site.node.shape else (0, 0)
    return resize.has_rows_of_maps(site) and (high, wide) == (1, 1) and elementwise.largest(site)


def softmax(site: Site) -> bool:
    dim = getattr(site.module, "dim", None)
    if dim is None or site.bands is None or dim % len(site.source.shape) == site.bands.dim:
        return False
    return elementwise.alike(site)


def product(site: Site) -> bool:
    """With a matrix, for each row."""
    return len(site.node.args) == 2 and len(getattr(site.node.args[1], "shape", None) or ()) == 2 and linear(site)


def shuffled(site: Site) -> bool:
    times = site.module.upscale_factor if site.module is not None else site.node.argument(1, "upscale_factor")
    return resize.pixel_shuffle(site, times)


def several(site: Site) -> bool:
    return elementwise.users_take_members(site) and elementwise.parts_of_maps(site)


def upside_down(site: Site) -> bool:
    dims = site.node.args[1:] if isinstance(site.node.args[-1], int) else site.node.argument(1, "dims")
    return site.bands is not None and resize.flipped(site, dims)


BY_ROWS = """
    mean sum amax amin prod std var logsumexp softmax log_softmax normalize argmax cumsum
"""
RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        (nn.Conv2d, SparseConv2d, LocallyConnected2d, Subsample, L2Pool, nn.MaxPool2d, nn.AvgPool2d), windowed
    ),
    **dict.fromkeys(("conv2d", "max_pool2d", "avg_pool2d"), windowed),
    nn.ConvTranspose2d: resize.transposed_conv,
    **dict.fromkeys(
        (ContrastNorm, nn.Dropout2d, nn.FeatureAlphaDropout, nn.ChannelShuffle, nn.PReLU, nn.Softmax2d),
        elementwise.of_maps,
    ),
    **dict.fromkeys((*DRAWING_BY_MAPS.split(), "channel_shuffle", "prelu"), elementwise.of_maps),
    **dict.fromkeys(("max", "min"), elementwise.broadcast),  # of two tensors
    **dict.fromkeys(BY_ROWS.split(), elementwise.reduced),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), elementwise.joined),
    **dict.fromkeys(("chunk", "split", "unbind", "tensor_split"), several),
    **dict.fromkeys((nn.GroupNorm, nn.InstanceNorm2d, "group_norm"), norms.group_norm),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), norms.batch_norm),
    **dict.fromkeys((nn.LayerNorm, "layer_norm"), norms.layer_norm),
    **dict.fromkeys((nn.Linear, "linear"), linear),
    **dict.fromkeys(("matmul", "__matmul__"), product),
    **dict.fromkeys((nn.AdaptiveMaxPool2d, "adaptive_max_pool2d"), adaptive_max),
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), softmax),
    **dict.fromkeys(("to", "type_as"), elementwise.converted),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, "adaptive_avg_pool2d"), adaptive_pool),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, "interpolate"), resize.upsample),
    **dict.fromkeys((*resize.PADS, "pad"), resize.padded),
    **dict.fromkeys((nn.PixelShuffle, "pixel_shuffle"), shuffled),
    **dict.fromkeys(reshaping.VIEWS, reshaping.flattens),
    **dict.fromkeys(reshaping.PERMUTES, reshaping.permuted),
    "getitem": reshaping.indexed,
    **dict.fromkeys(("narrow", "select"), reshaping.narrowed),
    "flip": upside_down,
}


def is_over_maps(graph: NetGraph, node: Node) -> bool:
    """Does it go over maps, and has it weights?"""
    module = graph.module_of(node)
    learns = isinstance(module, nn.Conv2d | nn.ConvTranspose2d | SparseConv2d | LocallyConnected2d)
    return (learns or (node.op == "function" and node.called == "conv2d")) and len(node.shape or ()) == 4
