"""What a pass of a net's graph shows, node by node: the sizes of values, what shares memory, what changes in place."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dlkit.models.graph import NetGraph, Node
from dlkit.models.program import program

SOURCES = ("attribute", "constant")  # which every stage takes from the net itself


@dataclass
class Seen:
    """What passes of two and of three images show of each node.

    sizes: of a tensor, for two images and for three. memory: where its tensors lie. changed: what memory the node
    changes. state: of parameters, buffers and constants, the memory. makes: how many numbers it makes for two images,
    if it is more than a view of others; where no gradient goes back, a third of them. renewed: the names of buffers and
    parameters that a pass changes.
    """

    sizes: dict[Node, tuple[torch.Size, torch.Size]] = field(default_factory=dict)
    memory: dict[Node, set[int]] = field(default_factory=dict)
    changed: dict[Node, set[int]] = field(default_factory=dict)
    state: set[int] = field(default_factory=set)
    makes: dict[Node, float] = field(default_factory=dict)
    renewed: set[str] = field(default_factory=set)

    def shape(self, node: Node, images: int) -> tuple[int, ...]:
        """The shape of the node's tensor for so many images."""
        return tuple(two + (three - two) * (images - 2) for two, three in zip(*self.sizes[node], strict=True))


def see(graph: NetGraph, net: nn.Module, images: Tensor) -> Seen:
    """Passes of the first two and three of these images. `net`: a copy of the graph's, which is changed."""
    seen = Seen()
    before = {name: value.clone() for name, value in state_of(net)}
    kept = []  # memory that is not freed is not given to others
    for values, node, given, versions in _steps(graph, net, images[:2].clone()):
        kept.append(values[node])
        seen.memory[node] = {memory_of(tensor) for tensor in tensors_in(values[node])}
        tensors = [tensor for taken in given for tensor in tensors_in(values[taken])]
        pairs = zip(tensors, versions, strict=True)
        seen.changed[node] = {memory_of(tensor) for tensor, version in pairs if tensor._version != version}
        if node.op in SOURCES:
            seen.state |= seen.memory[node]
        if node.op in (*SOURCES, "images"):
            continue
        old = {place for taken in given for place in seen.memory[taken]}
        makes = node.op == "module" or seen.changed[node] or not seen.memory[node] <= old
        made = tensors_in(values[node]) if makes else []
        seen.makes[node] = sum(x.numel() if x.requires_grad else x.numel() / 3 for x in made)
    two = {node: value.shape for node, value in values.items() if isinstance(value, Tensor)}
    seen.renewed = {name for name, value in state_of(net) if not torch.equal(value, before[name])}
    for values, node, _, _ in _steps(graph, net, images[:3].clone()):
        if node in two:
            seen.sizes[node] = two[node], values[node].shape
    return seen


def _steps(
    graph: NetGraph, net: nn.Module, images: Tensor
) -> Iterator[tuple[dict[Node, Any], Node, list[Node], list[int]]]:
    """All values so far, the node just made, what it took, and the versions that the tensors there had before."""
    values: dict[Node, Any] = {}
    for node in graph.nodes[:-1]:
        given = node.inputs
        versions = [tensor._version for taken in given for tensor in tensors_in(values[taken])]
        if node.op == "images":
            values[node] = images
        else:
            call = program([node, Node("output", "output", "output", (node,))], given)
            values[node] = call(net, len(images), *(values[taken] for taken in given))
        yield values, node, given, versions


def state_of(net: nn.Module) -> list[tuple[str, Tensor]]:
    """The net's parameters and buffers, by all names that they have."""
    return [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]


def tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
