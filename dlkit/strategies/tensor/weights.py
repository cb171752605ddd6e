"""Layers with weights, split by outputs ("columns") or, where a rank has some of their inputs, by these ("rows").

By outputs a layer needs all inputs, whose gradients are summed over the ranks; by inputs its products are. So one sum
forward and one backward serve two layers. Source: Shoeybi et al. 2019, Megatron-LM, §3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit.models.graph import Node
from dlkit.models.layer_kinds import LayerKind
from dlkit.strategies.graph.exchanges import Layout, Sum, even_layout
from dlkit.strategies.graph.plan import Narrow, Walk
from dlkit.strategies.tensor.shapes import has_maps

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Weights:
    """Of a layer: how many outputs it has, the dimensions that count these and its inputs, and their parameters.

    columns(layout of the outputs): how each parameter is cut by outputs. rows: the dimension of the weight that counts
    inputs; None if it cannot be split by them.
    """

    outputs: int
    output_dim: int
    input_dim: int
    columns: Callable[[Layout], dict[str, Layout]]
    narrow: Callable[[Any, int, int], None]
    rows: int | None = None


def weights_of(node: Node, module: Any, kind: LayerKind) -> Weights | None:
    """None for a layer that cannot be split by outputs."""
    last = -1 if node.shape is None else len(node.shape) - 1
    if type(module) is nn.Embedding:
        return None if module.max_norm is not None or module.sparse else _embedding(module, last)
    if isinstance(module, nn.Linear):
        narrow, columns = _narrow("out_features"), partial(_first_dims, module)
        return Weights(module.out_features, last, len(node.args[0].shape) - 1, columns, narrow, 1)
    if isinstance(module, CONVOLUTIONS + TRANSPOSED):
        if module.groups > 1 or not has_maps(node.args[0]):
            return None
        dim = int(isinstance(module, TRANSPOSED))  # of the weight's, that counts outputs
        columns = partial(_first_dims, module, weight_dim=dim)
        return Weights(module.out_channels, 1, 1, columns, _narrow("out_channels"), 1 - dim)
    if kind.outputs(module):
        columns = partial(_by_kind, module, kind)
        return Weights(kind.outputs(module), kind.output_dim % len(node.shape or (1,)), 1, columns, kind.narrow)
    return None


def _embedding(module: nn.Embedding, last: int) -> Weights:
    columns = partial(_first_dims, module, weight_dim=1)
    return Weights(module.embedding_dim, last, -1, columns, _narrow("embedding_dim"))


def split_weights(walk: Walk, node: Node, module: nn.Module, weights: Weights, *, by_rows: bool) -> bool:
    """by_rows: whether it is split by inputs where a rank has some of them."""
    layout = walk.layout(node.args[0])
    if len(node.inputs) != 1 or node.shape is None or not isinstance(node.args[0], Node):
        return False
    if by_rows and weights.rows is not None and isinstance(layout, Layout) and layout.dim == weights.input_dim:
        _split_inputs(walk, node, module, layout, weights.rows)
        return True
    if weights.outputs < walk.world_size:
        return False
    output = even_layout(weights.output_dim, weights.outputs, walk.world_size)
    cut = {f"{node.target}.{name}": part for name, part in weights.columns(output).items()}
    walk.step(node, walk.copied, layout=output, along="units", parameters=cut, narrow=narrow_to(output, weights.narrow))
    return True


def _split_inputs(walk: Walk, node: Node, module: nn.Module, layout: Layout, dim: int) -> None:
    def narrow(module: Any, rank: int) -> None:
        setattr(module, "in_features" if isinstance(module, nn.Linear) else "in_channels", layout.counts[rank])

    walk.step(
        node,
        along="inputs",
        parameters={f"{node.target}.weight": Layout(dim, layout.parts)},
        narrow=narrow,
        call=lambda net, group: _products,
        then=Sum(),
        finish=lambda net, group: _with_bias,
    )


def _products(module: Any, x: Tensor, *args: Any) -> Tensor:
    """What a rank's inputs add to all outputs; biases are added behind the sum over ranks."""
    if isinstance(module, nn.Linear):
        if module.bias is None:
            return F.linear(x, module.weight)
        return F.linear(x, module.weight, torch.zeros_like(module.bias))  # `fast_linear` takes products with a bias
    if isinstance(module, CONVOLUTIONS):
        return module._conv_forward(x, module.weight, None)
    with _without_bias(module):
        return module(x, *args)


class _without_bias:
    """Context in which a module has no bias."""

    def __init__(self, module: Any):
        self.module, self.bias = module, module.bias

    def __enter__(self) -> None:
        self.module._parameters["bias"] = None

    def __exit__(self, *_: Any) -> None:
        self.module._parameters["bias"] = self.bias


def _with_bias(module: Any, x: Tensor) -> Tensor:
    if module.bias is None:
        return x
    return x + (module.bias if isinstance(module, nn.Linear) else module.bias.view(-1, *[1] * (x.ndim - 2)))


def fewer_by_inputs(node: Node) -> bool:
    """Does a convolution send less by inputs than by outputs, where a rank has some of its inputs?

    By inputs: its sums, and the gradient's behind it, each twice round a ring. By outputs: its inputs are gathered, and
    their gradients summed, three times round a ring, and so on for its outputs.
    """
    source = node.args[0]
    return 4 * prod(node.shape or ()) <= 3 * prod(source.shape) + 2 * prod(node.shape or ())


def split_groups(walk: Walk, node: Node, conv: Any) -> bool:
    """A convolution of several groups of maps: each rank has whole groups.

    One whose input is whole is cut if its groups are of several maps: a depthwise one, with its few weights, would send
    more than it spares.
    """
    source, layout = node.args[0], walk.layout(node.args[0])
    per_group, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    if not has_maps(source) or (isinstance(layout, Layout) and layout.dim != 1):
        return False
    if layout is None:
        if per_group == 1 or conv.groups < walk.world_size:
            return False
        layout = even_layout(1, conv.groups, walk.world_size).repeated(per_group, 1)
    groups = layout.in_blocks(per_group, 1)
    if groups is None or not all(groups.counts):
        return False
    after = groups.repeated(outputs, 1)

    def narrow(module: Any, rank: int) -> None:
        module.groups = groups.counts[rank]
        module.in_channels, module.out_channels = layout.counts[rank], after.counts[rank]

    cut = {"weight": Layout(0, layout.parts if isinstance(conv, TRANSPOSED) else after.parts)}
    if conv.bias is not None:
        cut["bias"] = Layout(0, after.parts)
    parameters = {f"{node.target}.{name}": part for name, part in cut.items()}
    walk.step(node, lambda x: walk.part(x, layout), layout=after, along="units", parameters=parameters, narrow=narrow)
    return True


def narrow_to(layout: Layout, narrow: Callable[[Any, int, int], None]) -> Narrow:
    """Tells a module that it has a rank's outputs, which lie in one piece."""

    def tell(module: nn.Module, rank: int) -> None:
        start = sum(layout.counts[:rank])
        narrow(module, start, start + layout.counts[rank])

    return tell


def _narrow(attribute: str) -> Callable[[Any, int, int], None]:
    return lambda module, start, stop: setattr(module, attribute, stop - start)


def _first_dims(module: nn.Module, layout: Layout, weight_dim: int = 0) -> dict[str, Layout]:
    """Parameters cut by outputs, which the weight counts in this dimension, and others in their first."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    return {name: Layout(weight_dim if name == "weight" else 0, layout.parts) for name in names}


def _by_kind(module: nn.Module, kind: LayerKind, layout: Layout) -> dict[str, Layout]:
    """The rows of each parameter that the outputs have, which lie in one piece."""
    return {
        name: Layout(0, rows_of_outputs(kind.rows(module, name), layout))
        for name, _ in module.named_parameters(recurse=False)
    }


def rows_of_outputs(rows: list[int] | None, layout: Layout) -> tuple[range, ...]:
    """Which rows of a parameter each rank has, where output k has `rows[k]` of them (None: one each)."""
    starts = [sum(layout.counts[:rank]) for rank in range(len(layout.counts) + 1)]
    ends = starts if rows is None else [sum(rows[:start]) for start in starts]
    return tuple(range(start, stop) for start, stop in pairwise(ends))
