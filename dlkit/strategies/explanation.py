"""How a strategy splits a net, layer by layer, before anything runs: what is split, and what is exchanged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from dlkit.core import text_table
from dlkit.core.evaluation import check_net
from dlkit.core.slices import slice_of
from dlkit.models.graph import NetGraph, Node
from dlkit.strategies.checks import class_name
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.plan import Step
from dlkit.strategies.graph.plan_costs import made_bytes
from dlkit.strategies.graph.tile_layout import TileLayout

COLUMNS = ("layer", "kind", "what a rank computes", "exchanged", "why")


class ExplainedLayer(NamedTuple):
    """A layer, or another call of the net's forward, in words.

    layer: its path in the net, or the function's name and number. split: what each rank computes. exchanged: what is
    exchanged for it in the forward pass or back, and the bytes that rank 0 sends for that. why: where it is not split.
    """

    layer: str
    kind: str
    split: str
    exchanged: str
    why: str


@dataclass(frozen=True)
class Explanation:
    """The layers of a net under a strategy: shown, a table."""

    strategy: Any
    world_size: int
    batch_size: int
    layers: list[ExplainedLayer] = field(repr=False)

    def __repr__(self) -> str:
        return text_table.as_text(COLUMNS, [list(layer) for layer in self.layers])

    def _repr_html_(self) -> str:
        return text_table.as_html(COLUMNS, [list(layer) for layer in self.layers])


def explain(
    net: nn.Module, image_shape: tuple[int, ...], strategy: Any, *, world_size: int = 2, batch_size: int = 100
) -> Explanation:
    """How `strategy` splits `net` over `world_size` ranks, for batches of images of this shape.

    The net is run on a few images of noise, and left as it is; no other process is needed. The strategy is one of
    dlkit.strategies, or any with a method `steps(graph, world_size)`. ValueError, with the reason, for nets that cannot
    be split so, and for fewer than 2 ranks. TypeError for what is no strategy.
    """
    if isinstance(strategy, type) or not hasattr(strategy, "steps"):
        name = strategy.__name__ if isinstance(strategy, type) else repr(strategy)
        raise TypeError(f"strategy={name}: give a strategy whose ranks take steps together, such as TensorParallel().")
    if world_size < 2 or batch_size < 1:
        raise ValueError(f"{world_size} ranks and a batch of {batch_size}: at least 2 and 1.")
    check_net(net)
    graph = paper_graph(net, image_shape)
    steps = strategy.steps(graph, world_size)
    return Explanation(strategy, world_size, batch_size, explained(graph, steps, world_size, batch_size))


def explained(graph: NetGraph, steps: Sequence[Step], world_size: int, batch_size: int) -> list[ExplainedLayer]:
    """The steps of what the net calls, in words; what only takes a value apart is left out where nothing happens."""
    layers, numbers = [], dict[str, int]()
    for step in steps:
        node = step.node
        if node.op not in ("module", "function", "method", "output") or (node.called == "getitem" and not step.made):
            continue
        name = str(node.target)
        if node.op in ("function", "method"):
            numbers[node.called] = numbers.get(node.called, 0) + 1
            name = f"{node.called} {numbers[node.called]}"
        module = graph.module_of(node)
        kind = class_name(module) if module is not None else "function" if node.op != "output" else ""
        if node.op == "output":
            if not step.made:
                continue
            name = "output"
        sent = _exchanged(step, world_size, batch_size)
        layers.append(ExplainedLayer(name, kind, _split(step), sent, step.why or _why_whole(step)))
    return layers


def _split(step: Step) -> str:
    """What each rank computes, such as "maps 4 + 4"."""
    return _part(step) + (", of its images" if step.replicas > 1 and step.along != "images" else "")


def _part(step: Step) -> str:
    counts = getattr(step.layout, "counts", None)
    if step.along == "inputs":
        layout = next(iter(step.parameters.values()))
        return f"inputs {' + '.join(map(str, layout.counts))}"
    if step.along == "images":
        return "all, of its images"
    if step.along.startswith("rank "):
        return f"all, on {step.along}"
    if step.along == "units" and counts is None:  # what they give of these is summed
        layout = list(step.parameters.values())[-1]
        return f"units {' + '.join(map(str, layout.counts))}"
    if step.along == "layer" or counts is None:
        return "all"
    if isinstance(step.layout, TileLayout):
        return f"{step.along} {step.layout.told}"
    unit = "maps" if _of_maps(step.node, step.layout.dim) else "units"
    return f"{unit} {' + '.join(map(str, counts))}"


def _why_whole(step: Step) -> str:
    """Why all ranks compute all of what no rule gives a reason for."""
    is_whole = step.along == "layer" and step.layout is None and step.node.op != "output" and not step.made
    return "what it takes is whole" if is_whole else ""


def _of_maps(node: Node, dim: int) -> bool:
    return node.shape is not None and len(node.shape) > 3 and dim == 1


def _exchanged(step: Step, world_size: int, batch_size: int) -> str:
    """Each exchange of which something is sent, and what."""
    ranks, images = world_size // step.replicas, slice_of(batch_size, 0, step.replicas).count
    sent = []
    for made in step.made:
        what = "" if made.node is step.node else f"{made.node.called} "
        rank = getattr(made.exchange, "sender", 0)
        sent.append((what + made.exchange.name, sum(made_bytes(made, rank, ranks, images))))
    return "; ".join(f"{words}: {text_table.format_bytes(size)}" for words, size in sent + step.rest if size)
