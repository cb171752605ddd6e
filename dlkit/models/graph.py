"""A net as the graph of what it calls: what strategies, costs and counts walk over.

What depends on the number of images, or on the mode, is known as such (`joined_traces`).
"""

import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dlkit.core.arguments import argument
from dlkit.models.layer_kinds import UNKNOWN, LayerKind, kind_of


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
        return argument(self.args, self.kwargs, position, name, default)

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
