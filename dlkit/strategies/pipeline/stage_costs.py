"""What a pipeline costs, on paper: the layers that each rank has, and the bytes that cross from stage to stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from dlkit.core.slices import Slice
from dlkit.distributed.group import Group
from dlkit.models.graph import Node
from dlkit.strategies.graph.plan import Made, Step
from dlkit.strategies.layer_cost import FLOAT, LayerCost
from dlkit.strategies.pipeline.measuring import tensors_in
from dlkit.strategies.pipeline.partition import Partition


def stage_costs(blocks: Partition, begins: Sequence[int], batch_size: int, microbatches: int) -> list[list[LayerCost]]:
    """Of each rank, all layers, which it has or has not. begins: the blocks with which later stages begin."""
    graph = blocks.graph
    firsts = {blocks.begins[block]: blocks.crossing[block] for block in begins}
    ranks: list[list[LayerCost]] = [[] for _ in range(len(firsts) + 1)]
    counted: set[int] = set()  # of a layer that is called again, or of parameters that two share, once
    stage, backward = 0, 0
    for index, node in enumerate(graph.nodes):
        if index in firsts:
            sent = [(value, _bytes(blocks, value, batch_size, microbatches)) for value in firsts[index]]
            ranks[stage][-1].forward = sum(size for _, size in sent)
            stage += 1
            backward = sum(size for value, size in sent if value.value.requires_grad)
        parameters = [p for p in _parameters(blocks, node) if id(p) not in counted]
        if node.op != "module" and not parameters:
            continue
        counted |= set(map(id, parameters))
        for rank, costs in enumerate(ranks):
            costs.append(_layer(blocks, node, parameters, rank == stage, batch_size))
        ranks[stage][-1].backward, backward = backward, 0
    return ranks


@dataclass(frozen=True)
class HandedOn:
    """A value from `sender`, the rank of a stage, to the next one; its gradient comes back."""

    sender: int

    @property
    def name(self) -> str:
        return f"from rank {self.sender}"

    def on(self, group: Group) -> Callable[..., Any]:
        raise NotImplementedError("a stage hands its values on by itself, microbatch by microbatch")

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return size, size


def stage_steps(blocks: Partition, begins: Sequence[int]) -> list[Step]:
    """Which rank computes each node, and for which nodes the rank before hands on values, and has gradients back."""
    firsts = {blocks.begins[block]: blocks.crossing[block] for block in begins}
    steps, rank = [], 0
    for index, node in enumerate(blocks.graph.nodes):
        made = [Made(value, HandedOn(rank)) for value in firsts.get(index, ())]
        rank += index in firsts
        steps.append(Step(node, along=f"rank {rank}", made=made))
    return steps


def _bytes(blocks: Partition, node: Node, batch_size: int, microbatches: int) -> int:
    """What is sent of a value in a batch, or of its gradient."""
    size = FLOAT if node.value.is_floating_point() else node.value.element_size()
    return size * microbatches * prod(blocks.seen.shape(node, batch_size // microbatches))


def _parameters(blocks: Partition, node: Node) -> list[Tensor]:
    """Those of the module that the node calls, or that it takes from the net."""
    module = blocks.graph.module_of(node)
    if module is not None:
        return list(module.parameters())
    taken = [blocks.graph.attribute(taken) for taken in node.inputs if taken.op == "attribute"]
    names = {id(p) for p in blocks.graph.net.parameters()}
    return [value for value in taken if id(value) in names]


def _layer(blocks: Partition, node: Node, parameters: list[Any], here: bool, batch_size: int) -> LayerCost:
    module = blocks.graph.module_of(node)
    kind = blocks.graph.kind_of(node)
    whole = sum(p.nbytes for p in parameters)
    name = node.target if module is not None else next(t.target for t in node.inputs if t.op == "attribute")
    outputs = tensors_in(node.value)
    shape = [size for dim, size in enumerate(outputs[0].shape if outputs else ()) if dim != node.images_dim]
    return LayerCost(
        name,
        node.called if module is None else type(module).__name__,
        tuple(shape),
        "layer",
        Slice(0, int(here), 1),
        whole,
        here * whole,
        here * FLOAT * node.numel(batch_size),
        is_sum=kind.connections is not None or whole > 0,
        trained=sum(p.nbytes for p in parameters if p.requires_grad) / max(whole, 1),
    )
