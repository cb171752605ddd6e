"""Which rule is for which function of torch, and for which method of tensors; what is in no table gathers."""

import operator
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from dlkit.models.graph import Node
from dlkit.strategies.graph.elementwise import draws_elements, is_elementwise
from dlkit.strategies.graph.plan import Walk
from dlkit.strategies.tensor import shapes
from dlkit.strategies.tensor.elementwise import split_elements


def function_step(walk: Walk, node: Node) -> bool:
    """Make the step for a function or method that is known, and of whose inputs one is split; else say False."""
    if all(walk.layout(taken) is None for taken in node.inputs) or not isinstance(node.target, Hashable):
        return False
    if draws_elements(node):
        return split_elements(walk, node, draws=True)
    if is_elementwise(node):
        return split_elements(walk, node)
    rules: dict[Any, Callable[[Walk, Node], bool]] = BY_NAME if node.op == "method" else FUNCTIONS
    rule = rules.get(node.target)
    return rule is not None and rule(walk, node)


def _named(names: str, *owners: Any) -> list[Any]:
    return [getattr(owner, name) for name in names.split() for owner in owners if hasattr(owner, name)]


RESHAPES = "view reshape flatten unflatten squeeze unsqueeze"
PERMUTES = "permute transpose swapaxes swapdims movedim moveaxis"
REDUCES = "mean sum amax amin std var prod logsumexp max min argmax argmin any all median nanmean"
ALONG = "softmax log_softmax softmin cumsum cumprod"
POOLS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d interpolate
    upsample
"""
BY_NAME: dict[str, Callable[[Walk, Node], bool]] = {
    **dict.fromkeys(RESHAPES.split(), shapes.reshape),
    **dict.fromkeys(PERMUTES.split(), shapes.permute),
    **dict.fromkeys(REDUCES.split(), shapes.reduce),
    **dict.fromkeys(ALONG.split(), shapes.along),
    **dict.fromkeys(("chunk", "split", "unbind"), shapes.divide),
    "norm": partial(shapes.reduce, position=2),
    "expand": shapes.expand,
    **dict.fromkeys(("matmul", "bmm"), shapes.multiply),
}
FUNCTIONS: dict[Any, Callable[[Walk, Node], bool]] = {
    **{function: rule for name, rule in BY_NAME.items() for function in _named(name, torch, F)},
    **dict.fromkeys(_named(POOLS, torch, F), shapes.by_maps),
    **dict.fromkeys(_named("cat concat concatenate stack", torch), shapes.concatenate),
    F.normalize: partial(shapes.along, position=2, default=1),
    F.pad: shapes.pad,
    F.scaled_dot_product_attention: shapes.multiply,
    operator.getitem: shapes.index,
    operator.matmul: shapes.multiply,
}
