"""Functions of each element, by name: what a rank has of their inputs gives what it has of their output."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from dlkit.models.graph import Node
from dlkit.models.tracing import detached
from dlkit.strategies.graph.exchanges import Layout
from dlkit.strategies.graph.plan import Walk
from dlkit.strategies.tensor.layouts import broadcast, for_broadcast

NAMES = """
    abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan
    atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip clone
    contiguous copysign cos cosh deg2rad detach div divide double elu eq erf erfc erfinv exp exp2 expm1 fix
    float floor floor_divide fmod frac ge gelu greater greater_equal gt half hardshrink hardsigmoid hardswish
    hardtanh hypot isfinite isinf isnan le leaky_relu lerp less less_equal lgamma log log10 log1p log2 logaddexp
    logical_and logical_not logical_or logical_xor logit logsigmoid lt masked_fill maximum minimum mish mul
    multiply nan_to_num ne neg negative not_equal ones_like positive pow rad2deg reciprocal relu relu6 remainder
    round rsqrt rsub selu sigmoid sign sgn silu sin sinc sinh softplus softshrink softsign sqrt square sub
    subtract tan tanh tanhshrink threshold to true_divide trunc type_as where xlogy zeros_like full_like
    bfloat16 int long bool
"""
OPERATORS = """
    add sub mul truediv floordiv mod pow neg pos abs invert and_ or_ xor eq ne lt le gt ge iadd isub imul
    itruediv ifloordiv ipow
"""
DRAWING = "dropout alpha_dropout rrelu rand_like randn_like bernoulli"  # one number for each element
DRAWING_BY_MAPS = "dropout1d dropout2d dropout3d feature_dropout feature_alpha_dropout"


def _functions(names: str) -> Iterator[Any]:
    """Those of torch that have these names, and those that do the same in place."""
    for owner in (torch, F):
        for name in names.split():
            for each in (name, f"{name}_"):
                if hasattr(owner, each):
                    yield getattr(owner, each)


FUNCTIONS = {*_functions(NAMES), *(getattr(operator, name) for name in OPERATORS.split()), detached}
METHODS = {*NAMES.split(), *(f"{name}_" for name in NAMES.split())}
DRAWING_FUNCTIONS = {*_functions(DRAWING), *_functions(DRAWING_BY_MAPS)}
DRAWING_METHODS = {"bernoulli"}
BY_IMAGE = {("torchvision.ops.stochastic_depth", "stochastic_depth")}  # its draws are one number an image


def is_elementwise(node: Node) -> bool:
    """A function, or a method, of each element?"""
    if node.op == "method":
        return node.target in METHODS
    own = (getattr(node.target, "__module__", ""), node.called)
    return node.op == "function" and (node.target in FUNCTIONS or own in BY_IMAGE)


def draws_elements(node: Node) -> bool:
    """Does it also draw a number for each element, or for each map?"""
    if "generator" in node.kwargs:
        return False
    return node.target in (DRAWING_METHODS if node.op == "method" else DRAWING_FUNCTIONS)


def split_elements(walk: Walk, node: Node, *, draws: bool = False) -> bool:
    """Compute each rank's part of a function of each element, or say False: all inputs must be split alike.

    An input that is whole is cut, or, where it is broadcast, copied. draws: whether it draws for each element, for
    which a rank's part must lie in one piece.
    """
    split = [taken for taken in node.inputs if walk.layout(taken) is not None]
    if not split or node.shape is None:
        return False
    first, shape = split[0], node.shape
    layout = walk.layout(first)
    if not isinstance(layout, Layout) or any(taken.shape is None for taken in node.inputs):
        return False
    wanted = broadcast(layout, first.shape or (), shape)
    if wanted is None or (draws and not wanted.in_order):
        return False

    def choose(taken: Node) -> Node:
        assert wanted is not None
        own = for_broadcast(wanted, taken.shape or (), shape)
        return walk.copied(taken) if own is None else walk.part(taken, own)

    walk.step(node, choose, layout=wanted, along="units")
    return True
