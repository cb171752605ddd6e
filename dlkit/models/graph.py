"""A net as the graph of what it calls: what strategies, costs and counts walk over, and the program that it makes.

The graph is recorded (`tracing`) on two and on three images, and in evaluation mode, so that what depends on the number
of images, or on the mode, is known as such.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from dlkit.models.layer_kinds import UNKNOWN, LayerKind, kind_of
from dlkit.models.tracing import record

NUMPY_NAMES = {"dim": "axis", "keepdim": "keepdims"}  # which functions of torch take too


@dataclass(frozen=True)
class ImageRows:
    """A number in a graph that grows with the images of a batch: `per_image` x images + `more`."""

    per_image: int
    more: int


@dataclass(frozen=True)
class ByMode:
    """What a graph has in training mode, and in evaluation mode."""

    training: Any
    evaluating: Any


@dataclass(eq=False)
class Node:
    """Something that a net calls. `args` and `kwargs` may have other nodes in them, whose values it takes.

    op: "images", the input; "attribute" of the net, such as a parameter; "constant", a tensor that the forward has from
    elsewhere; "module", "function" or "method", which are called; "output". target: the path of the module or
    attribute, the tensor, the function, or the method's name.
    value: what it gives for two images, on torch's meta device: shapes and dtypes; of "output" nothing.
    images_dim: the dimension of a tensor that grows with the images of a batch; None if none does.
    storage: names of the memory that its tensors lie in; a view has its base's.
    """

    name: str
    op: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    value: Any = None
    images_dim: int | None = None
    storage: frozenset[int] = frozenset()

    @property
    def inputs(self) -> list["Node"]:
        """The nodes whose values it takes, each once, in their order."""
        found: dict[Node, None] = {}
        map_nodes((self.args, self.kwargs), lambda node: found.setdefault(node))
        return list(found)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of a tensor for two images; None if it gives none, or several."""
        return tuple(self.value.shape) if isinstance(self.value, Tensor) else None

    @property
    def called(self) -> str:
        """The name of what it calls, as a reader knows it."""
        if self.op == "function":
            return getattr(self.target, "__name__", type(self.target).__name__)
        return str(self.target)

    def numel(self, images: int) -> int:
        """How many numbers its tensors have for so many images."""
        values = pytree.tree_leaves(self.value)
        numel = sum(value.numel() for value in values if isinstance(value, Tensor))
        return numel if self.images_dim is None else numel * images // 2

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of a function, by its position, or by its name, which may be NumPy's."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, self.kwargs.get(NUMPY_NAMES.get(name, name), default))

    def __repr__(self) -> str:
        return f"<{self.name}: {self.op} {self.called}>"


@dataclass
class NetGraph:
    """The nodes that `net` calls, in order. `image_shape`: of one image. `evaluates`: whether they hold in evaluation
    mode too, where `ByMode` says what differs; if not, the net does something else there."""

    net: nn.Module
    nodes: list[Node]
    image_shape: tuple[int, ...]
    evaluates: bool = True

    def __post_init__(self):
        self.users: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for taken in node.inputs:
                self.users[taken].append(node)

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    def module_of(self, node: Node) -> nn.Module | None:
        """The module that the node calls."""
        return self.net.get_submodule(node.target) if node.op == "module" else None

    def kind_of(self, node: Node) -> LayerKind:
        """What is known of the module that the node calls; nothing where hooks change what it does."""
        module = self.module_of(node)
        return UNKNOWN if module is None or has_hooks(module) else kind_of(module)

    def is_alone(self, node: Node) -> bool:
        """Is this the one place that calls the module that the node calls, or takes its parameters or buffers?"""
        return all(self._takers[part] == 1 for part in self._parts_of(node))

    @cached_property
    def _takers(self) -> Counter[int]:
        """By how many nodes each part of the net is called or taken."""
        return Counter(part for node in self.nodes for part in self._parts_of(node))

    def _parts_of(self, node: Node) -> set[int]:
        """Of what it calls or takes: the modules, parameters and buffers."""
        if node.op == "attribute":
            return {id(self.attribute(node))}
        module = self.module_of(node)
        return (
            set() if module is None else {id(o) for o in (*module.modules(), *module.parameters(), *module.buffers())}
        )

    def attribute(self, node: Node) -> Any:
        return operator.attrgetter(node.target)(self.net)


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


def map_nodes(value: Any, change: Callable[[Node], Any]) -> Any:
    """The value, with `change(node)` in place of each node in its tuples, lists, dicts and slices."""
    if isinstance(value, Node):
        return change(value)
    if isinstance(value, tuple | list):
        items = [map_nodes(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: map_nodes(item, change) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_nodes(item, change) for item in (value.start, value.stop, value.step)))
    if isinstance(value, ByMode):
        return ByMode(map_nodes(value.training, change), map_nodes(value.evaluating, change))
    return value


def has_hooks(module: nn.Module) -> bool:
    forward = module._forward_pre_hooks or module._forward_hooks
    return bool(forward or module._backward_pre_hooks or module._backward_hooks)


def on_meta(value: Any) -> Any:
    """Shapes and dtypes of what tensors there are."""
    if isinstance(value, Tensor):
        with torch.no_grad():
            return torch.empty_like(value, device="meta", requires_grad=value.requires_grad)
    if isinstance(value, tuple | list):
        items = [on_meta(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return {key: on_meta(item) for key, item in value.items()} if isinstance(value, dict) else value


# Recording and joining.

OPS = {
    "placeholder": "images",
    "get_attr": "attribute",
    "call_module": "module",
    "call_function": "function",
    "call_method": "method",
    "output": "output",
}


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
