"""Where a net is cut into stages: between layers with weights, so that the slowest stage is as fast as possible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.models.graph import NetGraph, Node
from dlkit.strategies.checks import class_name
from dlkit.strategies.pipeline.measuring import Seen, see, state_of, tensors_in
from dlkit.strategies.pipeline.stage_program import StageProgram, alive

VALUE = 100  # multiplications that cost as much as making a value: with this LeNet-5 is cut as by measured times


@dataclass
class Partition:
    """The blocks of a net, which cannot be parted: `begins[k]`, the node with which block k begins, by its index, and
    `names[k]`, the layer with weights that it is. costs: of both passes of each. crossing: the values that are sent to
    each. shared: of parameters that several layers use, which are then in one block, the first, in words. trained: the
    paths of all layers with weights, in their order."""

    graph: NetGraph
    seen: Seen
    begins: list[int]
    names: list[str]
    costs: list[int]
    crossing: list[list[Node]]
    shared: str
    trained: list[str]

    def check_enough(self, world_size: int) -> None:
        """ValueError if there is not a block for each rank."""
        if len(self.begins) >= world_size:
            return
        net = class_name(self.graph.net)
        if self.shared:
            raise ValueError(
                f"{self.shared}, which would be on two ranks: {world_size} ranks need a layer with weights each, and "
                f"this {net} can be cut into {len(self.begins)}; give each layer its own, or use fewer ranks."
            )
        raise ValueError(
            f"{world_size} ranks need a layer with weights each, and this {net} has {len(self.begins)}: use fewer "
            "ranks."
        )

    def best(self, stages: int) -> tuple[int, ...]:
        """The blocks with which the second and later stages begin."""
        sent = []
        for values in self.crossing:
            sizes = [prod(self.seen.shape(node, 2)) for node in values]
            sent.append(VALUE * (sum(sizes) - max(sizes, default=0)))  # one crosses wherever a chain is cut
        return best_cut(self.costs, stages, sent)

    def beginning_with(self, path: str) -> int:
        """The block that begins with the first layer with weights in the module of this path; 0 if none does."""
        first = next((name for name in self.trained if f"{name}.".startswith(f"{path}.")), None)
        return self.names.index(first) if first in self.names else 0

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The indices of the nodes in these blocks, `last` left out."""
        ends = [*self.begins, len(self.graph.nodes)]
        return ends[first], ends[last]


def partition(graph: NetGraph, images: Tensor, copied: Callable[[nn.Module], nn.Module]) -> Partition:
    """The blocks of the graph's net. images: three or more for its input. copied: makes a copy of a net."""
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []), torch.enable_grad():
        seen = see(graph, copied(graph.net), images)
        trained = _trained(graph)
        begins, names, shared = [0], [], ""
        together = _used_together(graph, seen)
        for index in trained:
            if not names:
                names.append(trained[index])
                continue
            same = next((path for path, (first, last) in together.items() if first < index <= last), None)
            if same is not None:
                shared = shared or _of_several(graph.net, same)
            elif _can_be_cut(graph, seen, index):
                begins.append(index)
                names.append(trained[index])
        crossing = [[], *(alive(graph, index) for index in begins[1:])]
        costs = measure_blocks(graph, seen, copied(graph.net), begins, images[:2])
    return Partition(graph, seen, begins, names, costs, crossing, shared, list(trained.values()))


def _trained(graph: NetGraph) -> dict[int, str]:
    """The nodes that use something to be trained, by their index: the path of that layer, or of the parameter."""
    found: dict[int, str] = {}
    for index, node in enumerate(graph.nodes):
        module = graph.module_of(node)
        if module is not None and any(parameter.requires_grad for parameter in module.parameters()):
            found[index] = node.target
        for taken in node.inputs:
            if taken.op == "attribute" and getattr(graph.attribute(taken), "requires_grad", False):
                found.setdefault(index, taken.target)
    return found


def _used_together(graph: NetGraph, seen: Seen) -> dict[str, tuple[int, int]]:
    """What must be on one rank, a parameter that is trained or what a pass changes: the first and last node with it."""
    paths: dict[int, str] = {}
    for path, value in state_of(graph.net):
        if value.requires_grad or path in seen.renewed:
            paths.setdefault(id(value), path)
    uses: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        module = graph.module_of(node)
        own = [] if module is None else [value for _, value in state_of(module)]
        own += [graph.attribute(taken) for taken in node.inputs if taken.op == "attribute"]
        for value in own:
            if id(value) in paths:
                uses.setdefault(paths[id(value)], []).append(index)
    return {path: (indices[0], indices[-1]) for path, indices in uses.items()}


def _of_several(net: nn.Module, path: str) -> str:
    """That layers share this parameter or buffer, in words."""
    same = dict(state_of(net))[path]
    names = [name for name, value in state_of(net) if value is same]
    return f"{' and '.join(names)} are one parameter" if len(names) > 1 else f"{path} is used in two places"


def _can_be_cut(graph: NetGraph, seen: Seen, index: int) -> bool:
    """Are all values that are alive before this node tensors, none of which another changes from here on?"""
    values = alive(graph, index)
    if any(not isinstance(node.value, Tensor) or not _can_be_sent(node.value) for node in values):
        return False
    changed = {place for node in graph.nodes[index:] for place in seen.changed.get(node, ())} - {0}
    places = [place for node in values for place in seen.memory[node]]
    return not any(place in changed and (places.count(place) > 1 or place in seen.state) for place in places)


def _can_be_sent(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_complex() and not value.is_quantized


def measure_blocks(graph: NetGraph, seen: Seen, net: nn.Module, begins: Sequence[int], images: Tensor) -> list[int]:
    """What both passes of the blocks that begin so cost for these images; of `net`, a copy of the graph's."""
    costs = []
    values: Sequence[Tensor] = [images]
    for begin, end in zip(begins, (*begins[1:], len(graph.nodes)), strict=True):
        stage = StageProgram(graph, begin, end)
        leaves = [
            value.detach().requires_grad_(begin > 0 and node.value.requires_grad)
            for node, value in zip(stage.inputs, values, strict=True)
        ]
        with FlopCounterMode(display=False) as counter:
            output = stage.run(net, len(images), [leaf.clone() for leaf in leaves])
            sums = [value.sum() for value in tensors_in(output) if value.requires_grad]
            if sums:
                torch.autograd.backward(sums)
        made = sum(seen.makes.get(node, 0) for node in graph.nodes[begin:end])
        costs.append(counter.get_total_flops() // 2 + round(VALUE * made))
        values = output if end < len(graph.nodes) else ()
    return costs


def best_cut(costs: Sequence[int], stages: int, sent: Sequence[int] | None = None) -> tuple[int, ...]:
    """The indices with which the second and later stages begin, so that the most costly stage costs least.

    sent: what it costs a stage that what crosses to this block is sent, or received. Of cuts that are as good, one at
    which least is sent.
    """
    crossing = [0] * len(costs) if sent is None else list(sent)
    sums = [0]
    for cost in costs:
        sums.append(sums[-1] + cost)

    @cache
    def best(begin: int, left: int) -> tuple[int, int, tuple[int, ...]]:
        received = crossing[begin] if begin else 0
        if left == 1:
            return sums[-1] - sums[begin] + received, 0, ()
        cuts = []
        for index in range(begin + 1, len(costs) - left + 2):
            worst, bytes_sent, rest = best(index, left - 1)
            own = sums[index] - sums[begin] + received + crossing[index]
            cuts.append((max(own, worst), bytes_sent + crossing[index], (index, *rest)))
        return min(cuts)

    return best(0, stages)[2]


def divisors(n: int) -> list[int]:
    return [divisor for divisor in range(1, n + 1) if n % divisor == 0]
