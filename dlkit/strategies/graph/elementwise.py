"""Functions and methods of each element, by name: a part of their inputs gives the same part of their output."""

import operator
from collections.abc import Hashable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from dlkit.distributed.arrays.elements import NAMES
from dlkit.models.graph import Node
from dlkit.models.tracing import detached

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
    return is_hashable_function(node) and (node.target in FUNCTIONS or own in BY_IMAGE)


def draws_elements(node: Node) -> bool:
    """Does it also draw a number for each element, or for each map?"""
    if "generator" in node.kwargs:
        return False
    if node.op == "method":
        return node.target in DRAWING_METHODS
    return is_hashable_function(node) and node.target in DRAWING_FUNCTIONS


def is_hashable_function(node: Node) -> bool:
    return node.op == "function" and isinstance(node.target, Hashable)
