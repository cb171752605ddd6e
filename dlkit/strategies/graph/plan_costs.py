"""What a plan costs, on paper: what each rank holds and sends for each node of a net's graph."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dlkit.core.slices import Slice, slice_of
from dlkit.distributed.batch_norm import batch_norms, exchanged_bytes
from dlkit.distributed.group import ring_bytes
from dlkit.models.graph import Node
from dlkit.models.layer_kinds import kind_of
from dlkit.strategies.graph.exchanges import Noted, Split
from dlkit.strategies.graph.plan import Made, Plan, Step
from dlkit.strategies.graph.tile_layout import TileLayout
from dlkit.strategies.layer_cost import LayerCost


def plan_costs(plan: Plan, batch_size: int, *, shares_statistics: bool = True) -> list[list[LayerCost]]:
    """Of each rank and each step, for so many images; what has no weights and no windows is marked (`is_sum`).

    shares_statistics: do BatchNorm layers that see some of the images take the statistics of all?
    """
    ranks: list[list[LayerCost]] = [[] for _ in range(plan.world_size)]
    owned = own_parameters(plan)
    for step in called_steps(plan):
        for rank, costs in enumerate(ranks):
            cost = step_cost(plan, step, owned.get(step.node, {}), rank, batch_size)
            if step.along == "images":
                images = slice_of(batch_size, rank, plan.world_size)
                cost.activations = value_bytes(step.node, images.count)
                replicate_one(cost, images, plan.world_size, whole=True)
                if shares_statistics:
                    add_statistics(cost, step, plan, plan.world_size)
            if step.summed:
                gradients = sum(plan.graph.net.get_parameter(path).nbytes for path in first_summed(plan, step))
                cost.exchanged += ring_bytes(gradients, plan.world_size, passes=2)
            for made in step.made:
                forward, backward = made_bytes(made, rank, plan.world_size, batch_size)
                cost.forward += forward
                cost.backward += backward
            costs.append(cost)
    return ranks


def steps_with_rest(
    plan: Plan, costs: Sequence[LayerCost] | None = None, gradients: str = "gradients summed"
) -> list[Step]:
    """The plan's steps, with what rank 0 sends beside exchanges of values.

    costs: those of rank 0, for any batch, where they are not the plan's own.
    """
    costs = plan_costs(plan, plan.world_size)[0] if costs is None else costs
    for step, cost in zip(called_steps(plan), costs, strict=True):
        sums = ("statistics summed", cost.statistics), ("parameters gathered", cost.gathered)
        step.rest = [*sums, (gradients, cost.exchanged)]
    return plan.steps


def called_steps(plan: Plan) -> list[Step]:
    """Those of what is computed: each has its costs."""
    return [step for step in plan.steps if step.node.op not in ("images", "attribute", "constant")]


def first_summed(plan: Plan, step: Step) -> list[str]:
    """The parameters whose gradients are summed that no step before has."""
    before: set[str] = set()
    for other in plan.steps:
        if other is step:
            break
        before.update(other.summed)
    return [path for path in step.summed if path not in before]


def replicate(costs: list[LayerCost], plan: Plan, images: Slice, replicas: int, *, whole: bool) -> None:
    """Let a rank's costs be those of one of several replicas, for some of the images. whole: is it not split?"""
    for cost, step in zip(costs, called_steps(plan), strict=True):
        replicate_one(cost, images, replicas, whole=whole)
        add_statistics(cost, step, plan, replicas)


def replicate_one(cost: LayerCost, images: Slice, replicas: int, *, whole: bool) -> None:
    """Gradients go round a ring."""
    if whole:
        cost.along, cost.part = "images", images
    cost.images = images
    cost.exchanged = ring_bytes(cost.gradients, replicas, passes=2)


def add_statistics(cost: LayerCost, step: Step, plan: Plan, replicas: int) -> None:
    """What BatchNorm sends where its statistics are those of all replicas' images."""
    module = plan.graph.module_of(step.node)
    for norm in batch_norms(module).values() if module is not None else ():
        layout, channels = split_of(step), norm.num_features
        part = channels if layout is None else cost.part.count
        forward, backward = exchanged_bytes(SimpleNamespace(num_features=part), replicas)
        needs_grad = any(taken.value.requires_grad for taken in step.node.inputs if isinstance(taken.value, Tensor))
        backward = backward if needs_grad else 0
        cost.forward, cost.backward = cost.forward + forward, cost.backward + backward
        cost.statistics += forward + backward


def own_parameters(plan: Plan) -> dict[Node, dict[str, nn.Parameter]]:
    """Of each node the parameters that it is the first to take, by their paths; of the output what no node takes."""
    owned: dict[Node, dict[str, nn.Parameter]] = {}
    seen: set[int] = set()
    graph = plan.graph
    for step in plan.steps:
        node, module = step.node, graph.module_of(step.node)
        named = {f"{node.target}.{name}": p for name, p in (module.named_parameters() if module is not None else ())}
        for taken in node.inputs:
            if taken.op == "attribute" and isinstance(value := graph.attribute(taken), nn.Parameter):
                named[str(taken.target)] = value
        owned[node] = {name: p for name, p in named.items() if id(p) not in seen}
        seen |= {id(p) for p in named.values()}
    owned[graph.output] |= {name: p for name, p in graph.net.named_parameters() if id(p) not in seen}
    return owned


def step_cost(plan: Plan, step: Step, parameters: dict[str, nn.Parameter], rank: int, batch_size: int) -> LayerCost:
    """What a rank has of a step; nothing is sent for it yet."""
    node, module = step.node, plan.graph.module_of(step.node)
    whole = sum(parameter.nbytes for parameter in parameters.values())
    trained = sum(parameter.nbytes for parameter in parameters.values() if parameter.requires_grad)
    held = sum(part_bytes(parameter.nbytes, step.parameters.get(name), rank) for name, parameter in parameters.items())
    layout, size = split_of(step), value_bytes(node, batch_size)
    has_sums = bool(whole) or (module is not None and kind_of(module).connections is not None)
    return LayerCost(
        name=node.target if module is not None else node.name,
        kind=node.called if module is None else type(module).__name__,
        output_shape=output_shape(node),
        along=step.along,
        part=part_of_step(step, rank),
        whole=whole,
        parameters=held,
        activations=part_bytes(size, layout, rank),
        is_sum=has_sums,
        trained=trained / max(whole, 1),
        tile=layout.share(rank) if isinstance(layout, TileLayout) else None,
    )


def made_bytes(made: Made, rank: int, world_size: int, batch_size: int) -> tuple[int, int]:
    """Bytes that a rank sends for an exchange, forward and, where a gradient goes back through its value, backward."""
    if isinstance(made.exchange, Noted):
        return made.exchange.bytes_of(rank, batch_size)
    value = made.node.value if made.index is None else made.node.value[made.index]
    size = tensor_bytes(value, made.node, batch_size)
    forward, backward = made.exchange.sent(size, rank, world_size)
    needs_grad = any(leaf.requires_grad for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
    return forward, backward if needs_grad else 0


def value_bytes(node: Node, batch_size: int) -> int:
    return tensor_bytes(node.value, node, batch_size)


def tensor_bytes(value: Any, node: Node, batch_size: int) -> int:
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    return size if node.images_dim is None else size * batch_size // 2  # the graph's values are for two images


def split_of(step: Step) -> Split | None:
    layout = getattr(step.layout, "layout", step.layout)  # of several tensors, that of each
    return layout if isinstance(layout, Split) else None


def part_bytes(size: int, layout: Split | None, rank: int) -> int:
    return size if layout is None else size // layout.whole * layout.counts[rank]


def part_of_step(step: Step, rank: int) -> Slice:
    """How many units or inputs the rank has, as if they lay in one piece."""
    layout = split_of(step) or next((cut for cut in step.parameters.values()), None)
    if layout is None:
        return Slice(0, 1, 1)
    start = sum(layout.counts[:rank])
    return Slice(start, start + layout.counts[rank], layout.whole)


def output_shape(node: Node) -> tuple[int, ...]:
    """Of the first tensor that the node gives, for one image."""
    value = next((leaf for leaf in pytree.tree_leaves(node.value) if isinstance(leaf, Tensor)), torch.empty(0))
    return tuple(value.shape[1:] if node.images_dim == 0 else value.shape)
