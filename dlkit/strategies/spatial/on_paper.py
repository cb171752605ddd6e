"""A net over a grid of ranks on paper: its graph is walked over without numbers, and each exchange noted."""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlkit.distributed.array import DistributedArray, Grid
from dlkit.distributed.arrays.bill import Bill
from dlkit.distributed.arrays.core import found, functions_of_the_whole, replaced
from dlkit.distributed.arrays.tiles import Tiles
from dlkit.distributed.group import Group
from dlkit.models.graph import ByMode, ImageRows, NetGraph, Node, map_nodes
from dlkit.strategies.graph.exchanges import Noted
from dlkit.strategies.graph.on_rank import skeleton
from dlkit.strategies.graph.plan import Made, Plan, Step
from dlkit.strategies.graph.tile_layout import TileLayout
from dlkit.strategies.spatial.array_forward import slots_of, with_arrays

WHY = {
    **dict.fromkeys(("flatten", "view", "reshape"), "it makes one row of units of all places"),
    **dict.fromkeys(("cat", "concat", "concatenate"), "it joins what is split"),
}
WINDOWS = {"conv2d", "locally_connected", "boolean_dispatch", "max_pool2d", "avg_pool2d"}
IMAGES = (2, 3)  # of two passes: what depends on them is a line through both


class PaperGroup(Group):
    """A rank of a group of so many, which exchange nothing: what would come from others is 0."""

    def __init__(self, world_size: int, rank: int = 0):
        self.rank, self.world_size = rank, world_size

    def __repr__(self) -> str:
        return f"PaperGroup(rank {self.rank} of {self.world_size})"

    def all_reduce(self, tensor: Tensor) -> None:
        pass

    def all_gather(self, part: Tensor, counts: Sequence[int], dim: int = 0) -> Tensor:
        shape = list(part.shape)
        shape[dim] = sum(counts)
        return part.new_zeros(shape)

    def start_exchange(self, sends: Any, receives: Any, name: str = "") -> Callable[[], None]:
        for tensor in receives.values():
            tensor.zero_()
        return lambda: None


@dataclass
class Visit:
    """A node, as the ranks compute it for so many images."""

    node: Node
    layout: TileLayout | None = None
    bills: list[Bill] = field(default_factory=list)
    gathered: list[str] = field(default_factory=list)


class Walked(NamedTuple):
    visits: list[Visit]
    uses: dict[str, set[Any]]


def walk(graph: NetGraph, shape: tuple[int, int], images: int) -> Walked:
    """Of rank 0, where no gradients are added up after the backward pass."""
    grid = Grid(PaperGroup(shape[0] * shape[1]), shape)
    net = skeleton(graph.net)
    for module in net.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.ndim == 0:  # a count, perhaps, which the forward divides by
                setattr(module, name, torch.ones_like(buffer, device="cpu"))
    visits: list[Visit] = []

    def forward() -> None:
        values: dict[Node, Any] = {}
        for node in graph.nodes:
            grid.bill, grid.gathered = [], {}
            values[node] = _value(net, grid, node, values, images)
            visits.append(Visit(node, _layout(values[node]), grid.bill, list(grid.gathered)))

    with torch.enable_grad(), functions_of_the_whole():
        with_arrays(slots_of(net), grid, forward)
    return Walked(visits, dict(grid.uses))


def _value(net: nn.Module, grid: Grid, node: Node, values: dict[Node, Any], images: int) -> Any:
    """What the node gives, as arrays without numbers."""
    if node.op == "images":
        return grid.everywhere(_for(node, images))
    if node.op == "constant":
        return replaced(node.target, lambda value: value.to("meta"))
    if node.op == "attribute":
        return operator.attrgetter(node.target)(net)
    args, kwargs = _arguments(node, values, net.training, images)
    if node.op == "output":
        for array in found(DistributedArray, args):
            array.whole()
        return None
    with suppress(NotImplementedError, RuntimeError):  # what looks at numbers cannot be computed without them
        if node.op == "method":
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return (net.get_submodule(node.target) if node.op == "module" else node.target)(*args, **kwargs)
    grid.bill = []
    split = [array for array in found(DistributedArray, (args, kwargs)) if array.tiles is not None]
    for array in split:
        array.whole()
    if split:
        grid.gathered[node.called] = 1
    for array in found(DistributedArray, (args, kwargs)):
        grid.use_whole(array.of_parameters)
    return replaced(_for(node, images), grid.everywhere)


def _for(node: Node, images: int) -> Any:
    """The node's value for so many images; its own is for two."""

    def of(value: Tensor) -> Tensor:
        shape = list(value.shape)
        if node.images_dim is not None:
            shape[node.images_dim] = shape[node.images_dim] * images // 2
        made = torch.empty(shape, dtype=value.dtype, device="meta", requires_grad=value.requires_grad)
        return made * 1 if value.requires_grad else made

    return replaced(node.value, of)


def _arguments(node: Node, values: dict[Node, Any], training: bool, images: int) -> tuple[Any, Any]:
    def given(value: Any) -> Any:
        if isinstance(value, ImageRows):
            return value.per_image * images + value.more
        if isinstance(value, ByMode):
            return given(value.training if training else value.evaluating)
        if isinstance(value, tuple | list):
            items = [given(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, dict):
            return {key: given(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*map(given, (value.start, value.stop, value.step)))
        return value

    return given(map_nodes((node.args, node.kwargs), values.__getitem__))


def _layout(value: Any) -> TileLayout | None:
    """Of a value, or of the first of several that is split."""
    array = next((array for array in found(DistributedArray, value) if array.tiles is not None), None)
    return None if array is None else TileLayout(array.tiles, array.dims)


# A plan.


def plan_over_grid(graph: NetGraph, shape: tuple[int, int]) -> Plan:
    """What each rank of the grid computes of each node, and what is exchanged for it."""
    two, three = (walk(graph, shape, images) for images in IMAGES)
    cut, added_up = taken_apart(two.uses)
    own = dict(graph.net.named_parameters())
    names = {id(parameter): name for name, parameter in own.items()}
    steps = []
    for visit, other in zip(two.visits, three.visits, strict=True):
        node, bills = visit.node, zip(visit.bills, other.bills, strict=True)
        taken = [names[id(parameter)] for parameter in _parameters(graph, node)]
        made = [Made(node, Noted(*pair)) for pair in bills if not is_added_up(pair[0], added_up)]
        step = Step(node, visit.layout, "layer" if visit.layout is None else visit.layout.along, made=made)
        step.parameters = {name: cut[name] for name in taken if name in cut}
        step.summed = tuple(name for name in taken if name in added_up - cut.keys() and own[name].requires_grad)
        if visit.gathered:
            step.why = f"{_why(graph, visit)}: it sees all"
        steps.append(step)
    return Plan(graph, shape[0] * shape[1], steps, [])


def taken_apart(uses: Mapping[str, set[Any]]) -> tuple[dict[str, TileLayout], frozenset[str]]:
    """By how ranks use parameters: those of which each needs its places alone, and all whose gradients are added up."""
    layouts = {
        name: TileLayout(tiles, (0, 1))
        for name, how in uses.items()
        if len(how) == 1 and isinstance(tiles := next(iter(how)), Tiles)
    }
    return layouts, frozenset(name for name, how in uses.items() if "whole" not in how)


def is_added_up(bill: Bill, added_up: frozenset[str]) -> bool:
    """Is it of gradients that are added up later, by one message?"""
    return bool(bill.of_parameters) and bill.of_parameters <= added_up


def _why(graph: NetGraph, visit: Visit) -> str:
    """Why something is gathered for a node."""
    node, name = visit.node, visit.gathered[0]
    if name in WINDOWS and node.shape is not None and node.shape[2:] == (1, 1):
        return "its output has one place"
    what = type(graph.module_of(node)).__name__ if node.op == "module" else node.called
    return WHY.get(name, f"no rule splits {what} here")


def _parameters(graph: NetGraph, node: Node) -> list[nn.Parameter]:
    module = graph.module_of(node)
    taken = [graph.attribute(each) for each in node.inputs if each.op == "attribute"]
    own = list(module.parameters()) if module is not None else []
    return own + [value for value in taken if isinstance(value, nn.Parameter)]
