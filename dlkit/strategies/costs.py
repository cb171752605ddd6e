"""What a split costs, on paper: what each rank holds of every layer, and what it sends for it in a step.

No process group is needed, and nothing is sent.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from torch import nn

from dlkit.core import text_table
from dlkit.core.evaluation import check_net
from dlkit.models.layer_kinds import UNKNOWN, kind_of
from dlkit.models.sequence import refuse_shared_parameters
from dlkit.strategies.checks import class_name
from dlkit.strategies.graph.on_paper import has_forward, paper_graph
from dlkit.strategies.graph.skips import skips_of
from dlkit.strategies.layer_cost import LayerCost

COLUMNS = ("rank", "parameters", "gradients", "activations", "forward", "backward", "for gradients", "sent in all")


@dataclass(frozen=True)
class Cost:
    """What each rank holds and sends, layer by layer: `layers[rank][layer]`; shown, a table of the ranks' sums.

    skips: pairs (from, to) of layers' indices, where `to` takes what `from` gives, past others; -1 is the images.
    """

    strategy: Any
    batch_size: int
    layers: list[list[LayerCost]] = field(repr=False)
    not_counted: str = field(default="", repr=False)  # of what the activations are left out, in a sentence
    skips: list[tuple[int, int]] = field(default_factory=list, repr=False)

    @property
    def world_size(self) -> int:
        return len(self.layers)

    def total(self, rank: int, *names: str) -> int:
        """Of a rank, the sum over its layers of these fields of `LayerCost`."""
        return sum(getattr(layer, name) for layer in self.layers[rank] for name in names)

    def bytes_sent(self, rank: int) -> int:
        """Bytes that the rank sends in a step."""
        return self.total(rank, "bytes_sent")

    def memory_bytes(self, rank: int, optimizer_values: int = 1) -> int:
        """Bytes of parameters, gradients and optimizer state, which is so many values a parameter that is trained:
        none for plain SGD, 1 for SGD with momentum, 2 for Adam."""
        return self.total(rank, "parameters") + (1 + optimizer_values) * self.total(rank, "gradients")

    def _cells(self) -> list[list[str]]:
        fields = ("parameters", "gradients", "activations", "forward", "backward", "exchanged", "bytes_sent")
        return [
            [str(rank), *(text_table.format_bytes(self.total(rank, name)) for name in fields)]
            for rank in range(self.world_size)
        ]

    def __repr__(self) -> str:
        remark = f"\n{self.not_counted}" if self.not_counted else ""
        return text_table.as_text(COLUMNS, self._cells()) + remark

    def _repr_html_(self) -> str:
        remark = f"<p>{escape(self.not_counted)}</p>" if self.not_counted else ""
        return text_table.as_html(COLUMNS, self._cells()) + remark


def cost(net: nn.Module, image_shape: tuple[int, ...], batch_size: int, world_size: int, strategy: Any) -> Cost:
    """What `net` costs each of `world_size` ranks for batches of `batch_size` images of this shape, under a strategy.

    Numbers are float32, of 4 bytes. Buffers are left out, and so are activations inside a layer that is made of several
    or is of a class of your own, of which the output alone is counted: the table names it.

    The strategy is one of dlkit.strategies, such as `Hybrid(2, 4)`, or any that has a method
    `layer_costs(net, images, batch_size, world_size)`, which gives a `LayerCost` for each rank and layer. Of an RBM one
    Gibbs step is counted, CD-1's. The few bytes of metrics that some strategies send, as DataParallel the loss, are
    left out. A pipeline's activations are those of all microbatches: fewer are kept at a time by 1F1B. ValueError for
    fewer than 2 ranks or no images, and, with the reason, for nets that cannot be split so. TypeError for what is no
    strategy.
    """
    if isinstance(strategy, type) or not hasattr(strategy, "layer_costs"):
        name = strategy.__name__ if isinstance(strategy, type) else repr(strategy)
        raise TypeError(f"strategy={name}: give a strategy whose ranks take steps together, such as DataParallel().")
    if world_size < 2 or batch_size < 1:
        raise ValueError(f"{world_size} ranks and a batch of {batch_size}: at least 2 and 1.")
    images = torch.zeros(2, *image_shape)
    check_net(net)
    refuse_shared_parameters(net, "which would be counted twice")
    graph = paper_graph(net, image_shape) if has_forward(net) else None
    own = deepcopy(net).cpu().float() if graph is None else graph.net
    ranks = strategy.layer_costs(own, images, batch_size, world_size)
    if not any(layer.is_sum for layers in ranks for layer in layers):
        raise ValueError(f"{class_name(net)} has no layers.")
    joined = [join_activations(layers) for layers in ranks]
    skips = [] if graph is None else skips_of(graph, [layer.name for layer in joined[0]])
    return Cost(strategy, batch_size, joined, _not_counted(net, joined[0]), skips)


def _not_counted(net: nn.Module, layers: list[LayerCost]) -> str:
    """A sentence that names the layers that may have activations inside; "" if none has."""

    def is_torch_s(module: nn.Module) -> bool:
        return type(module).__module__.startswith("torch.nn.")

    modules = dict(net.named_modules())
    inner = [
        f"{layer.name} ({layer.kind})"
        for layer in layers
        if (module := modules.get(layer.name)) is not None
        and kind_of(module) is UNKNOWN
        and (list(module.children()) or isinstance(module, nn.RNNBase) or not is_torch_s(module))
    ]
    return f"Not counted: activations inside {', '.join(inner)}." if inner else ""


def join_activations(layers: list[LayerCost]) -> list[LayerCost]:
    """Without what has no weights and no windows, such as an activation: what it sends counts for the layer before."""
    joined: list[LayerCost] = []
    for layer in layers:
        if layer.is_sum or not joined:
            joined.append(layer)
            continue
        joined[-1].forward += layer.forward
        joined[-1].backward += layer.backward
    return joined[1:] if len(joined) > 1 and not joined[0].is_sum else joined
