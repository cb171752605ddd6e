"""A net's graph of three traces: on two and on three images, and in evaluation mode, joined where they differ."""

import copy
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from dlkit.models.graph import ByMode, ImageRows, NetGraph, Node, map_nodes, on_meta
from dlkit.models.tracing import record

OPS = {
    "placeholder": "images",
    "get_attr": "attribute",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "output": "output",
}


def trace(net: nn.Module, images: Tensor, copied: Callable[[nn.Module], nn.Module] = copy.deepcopy) -> NetGraph:
    """The graph of `net`, which is left as it is, for batches of images like these: (batch, ...), three or more.

    copied: makes a copy of a net. ValueError, with the line of code, for a forward that looks at values, or that does
    not do the same for another number of images.
    """
    images = images.detach()
    with torch.random.fork_rng(devices=[]):
        two, three = (_recorded(copied(net), net, images[:count].clone()) for count in (2, 3))
        nodes = _joined(two, three, _image_rows)
        if nodes is None:
            raise ValueError(
                f"{type(net).__name__} calls other layers for three images than for two: a split needs a forward that "
                "does the same for any number of images; use DataParallel."
            )
        try:
            evaluated = _joined(nodes, _recorded(copied(net).eval(), net, images[:2].clone()), _by_mode)
        except ValueError:  # it looks at values there
            evaluated = None
    return NetGraph(net, evaluated or nodes, tuple(images.shape[1:]), evaluated is not None)


def _recorded(net: nn.Module, original: nn.Module, images: Tensor) -> list[Node]:
    graph, values = record(net, images)
    made: dict[fx.Node, Node] = {}
    for own in graph.nodes:
        args, kwargs = (_own_nodes(part, made) for part in (own.args, own.kwargs))
        value = values.get(own)
        node = Node(own.name, OPS[own.op], own.target, args, kwargs, on_meta(value), storage=_storage(value))
        made[own] = node
        if node.op == "attribute" and not _has(original, node.target):  # a tensor of no parameter or buffer
            node.op, node.target = "constant", operator.attrgetter(node.target)(net)
    taken = {node for user in made.values() for node in user.inputs}
    return [node for node in made.values() if node in taken or node.op not in ("attribute", "constant")]


def _storage(value: Any) -> frozenset[int]:
    tensors = (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel())


def _own_nodes(value: Any, made: dict[fx.Node, Node]) -> Any:
    """Arguments as the reader's code gave them, with our nodes in them."""
    if isinstance(value, fx.Node):
        return made[value]
    if isinstance(value, tuple | list):
        items = [_own_nodes(item, made) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {key: _own_nodes(item, made) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(_own_nodes(item, made) for item in (value.start, value.stop, value.step)))
    return value


def _has(net: nn.Module, path: str) -> bool:
    try:
        operator.attrgetter(path)(net)
    except AttributeError:
        return False
    return True


class _Differs(Exception):
    pass


def _joined(first: list[Node], second: list[Node], join: Callable[[Any, Any], Any]) -> list[Node] | None:
    """The first's nodes, where values that differ are joined; None where the nodes themselves do."""
    if len(first) != len(second):
        return None
    same = dict(zip(second, first, strict=True))
    nodes: dict[Node, Node] = {}
    try:
        for one, other in zip(first, second, strict=True):
            if one.op != other.op or not _same_target(one, other):
                return None
            pair = ((one.args, one.kwargs), (other.args, other.kwargs))
            args, kwargs = _join_values(*pair, join, same)
            args, kwargs = map_nodes((args, kwargs), lambda node: nodes[node])
            dim = _growing_dim(one.value, other.value) if one.images_dim is None else one.images_dim
            nodes[one] = replace(one, args=args, kwargs=kwargs, images_dim=dim)
    except _Differs:
        return None
    return list(nodes.values())


def _growing_dim(two: Any, three: Any) -> int | None:
    """The first dimension in which a tensor, or the first of several, is larger for three images."""
    pairs = zip(pytree.tree_leaves(two), pytree.tree_leaves(three), strict=False)
    for one, other in pairs:
        if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape != other.shape:
            return next(
                (dim for dim, sizes in enumerate(zip(one.shape, other.shape, strict=False)) if sizes[0] != sizes[1]),
                None,
            )
    return None


def _same_target(one: Node, other: Node) -> bool:
    if one.op == "constant":
        return one.target.shape == other.target.shape and torch.equal(one.target, other.target)
    return one.target == other.target


def _join_values(one: Any, other: Any, join: Callable[[Any, Any], Any], same: dict[Node, Node]) -> Any:
    if isinstance(one, Node) or isinstance(other, Node):
        if not isinstance(other, Node) or same[other] is not one:
            raise _Differs
        return one
    if type(one) is not type(other):
        return join(one, other)
    if isinstance(one, tuple | list):
        if len(one) != len(other):
            raise _Differs
        items = [_join_values(a, b, join, same) for a, b in zip(one, other, strict=True)]
        return type(one)(*items) if hasattr(one, "_fields") else type(one)(items)
    if isinstance(one, dict):
        if one.keys() != other.keys():
            raise _Differs
        return {key: _join_values(one[key], other[key], join, same) for key in one}
    if isinstance(one, slice):
        ends = zip((one.start, one.stop, one.step), (other.start, other.stop, other.step), strict=True)
        return slice(*(_join_values(a, b, join, same) for a, b in ends))
    if one is other or one == other or (one != one and other != other):
        return one
    return join(one, other)


def _image_rows(two: Any, three: Any) -> Any:
    if type(two) is not int or type(three) is not int:
        raise _Differs
    return ImageRows(three - two, 3 * two - 2 * three)


def _by_mode(training: Any, evaluating: Any) -> Any:
    if isinstance(training, Node) or isinstance(evaluating, Node):
        raise _Differs
    if isinstance(training, ImageRows):
        if training.per_image * 2 + training.more == evaluating:
            return training
        raise _Differs
    return ByMode(training, evaluating)
