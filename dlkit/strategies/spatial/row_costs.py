"""What a split by rows costs: what each rank computes, holds and sends for each step of a plan."""

from dlkit.core.slices import Slice
from dlkit.distributed.group import ring_bytes
from dlkit.strategies.graph.plan import Plan, Step
from dlkit.strategies.layer_cost import FLOAT, LayerCost, parameter_bytes, trained_bytes
from dlkit.strategies.spatial.rules import rule_of, windowed
from dlkit.strategies.spatial.site import kind_of_call


def row_costs(plan: Plan, batch_size: int) -> list[list[LayerCost]]:
    """For each rank and each module or function that is called; what an output is gathered for counts for the last."""
    ranks: list[list[LayerCost]] = [[] for _ in range(plan.world_size)]
    for step in plan.steps:
        if step.node.op in ("images", "attribute", "constant"):
            continue
        for rank, costs in enumerate(ranks):
            forward, backward = sent(step, rank, plan.world_size, batch_size)
            if step.node.op == "output":
                costs[-1].forward += forward
                costs[-1].backward += backward
                continue
            cost = step_cost(plan, step, rank, batch_size)
            cost.forward, cost.backward = forward, backward
            costs.append(cost)
    return ranks


def sent(step: Step, rank: int, world_size: int, batch_size: int) -> tuple[int, int]:
    """Bytes that a rank sends for a step, forward and backward."""
    made = [each.exchange.sent(FLOAT * each.node.numel(batch_size), rank, world_size) for each in step.made]
    return sum(forward for forward, _ in made), sum(backward for _, backward in made)


def step_cost(plan: Plan, step: Step, rank: int, batch_size: int) -> LayerCost:
    """What a rank has of a step, but for what it sends forward and back."""
    node, layout = step.node, step.layout
    module = plan.graph.module_of(node)
    counts = [1] * plan.world_size if layout is None else layout.counts
    rows = counts[rank] if layout is not None else 1
    whole_rows = sum(counts) if layout is not None else 1
    start = sum(counts[:rank]) if layout is not None else 0
    held = [] if module is None else list(module.named_parameters())
    parameters = 0
    for name, parameter in held:
        cut = step.parameters.get(f"{node.target}.{name}")
        parameters += parameter.nbytes if cut is None else parameter.nbytes * cut.counts[rank] // cut.whole
    kind = kind_of_call(plan.graph, node)
    whole = 0 if module is None else parameter_bytes(module)
    exchanged = sum(plan.graph.net.get_parameter(path).nbytes for path in step.summed)
    return LayerCost(
        str(node.target) if module is not None else node.name,
        type(module).__name__ if module is not None else node.called,
        (node.shape or (2,))[1:],
        "rows" if layout is not None else "layer",
        Slice(start, start + rows, whole_rows),
        whole,
        parameters,
        FLOAT * node.numel(batch_size) * rows // whole_rows,
        exchanged=ring_bytes(exchanged, plan.world_size, passes=2),
        is_sum=bool(whole) or rule_of(kind) is windowed or plan.graph.kind_of(node).connections is not None,
        trained=0.0 if module is None else trained_bytes(module) / max(whole, 1),
    )
