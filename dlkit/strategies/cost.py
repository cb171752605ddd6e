"""What a split costs, on paper: what each rank holds of every layer, and what it sends for it in a step.

No process group is needed, and nothing is sent.
"""

from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import nn

from dlkit.core import text_table
from dlkit.models.rbm import RBM
from dlkit.strategies.base import kind
from dlkit.strategies.layer_cost import WAYS, LayerCost, of_rbm

COLUMNS = ("rank", "parameters", "gradients", "activations", "forward", "backward", "for gradients", "sent in all")
LAYERS = ("Conv2d", "SparseConv2d", "Subsample", "MaxPool2d", "AvgPool2d", "LocallyConnected2d", "L2Pool", "Linear")
LAYERS += ("RBFOutput",)


@dataclass(frozen=True)
class Cost:
    """What each rank holds and sends, layer by layer: `items[rank][layer]`; shown, a table of the ranks' sums."""

    how: str
    batch: int
    items: list[list[LayerCost]] = field(repr=False)

    def total(self, rank: int, *names: str) -> int:
        """Of a rank, the sum over its layers of these fields of `LayerCost`."""
        return sum(getattr(item, name) for item in self.items[rank] for name in names)

    def bytes_sent(self, rank: int) -> int:
        """Bytes that the rank sends in a step."""
        return self.total(rank, "bytes_sent")

    def memory_bytes(self, rank: int) -> int:
        """Bytes of parameters and gradients; an optimizer's momentum is as much again as the parameters."""
        return 2 * self.total(rank, "parameters")

    def _cells(self) -> list[list[str]]:
        fields = ("parameters", "parameters", "activations", "forward", "backward", "exchanged", "bytes_sent")
        return [
            [str(rank), *(text_table.format_bytes(self.total(rank, name)) for name in fields)]
            for rank in range(len(self.items))
        ]

    def __repr__(self) -> str:
        return text_table.as_text(COLUMNS, self._cells())

    def _repr_html_(self) -> str:
        return text_table.as_html(COLUMNS, self._cells())


def cost(net: nn.Module, image_shape: tuple[int, ...], batch: int, world_size: int, how: str) -> Cost:
    """What `net` costs each of `world_size` for batches of `batch` images of this shape, split as `how` says.

    how: "data" (DataParallel), "neurons" (TensorParallel), "region" (SpatialParallel), "layers" (Pipeline, whose
    activations are those of all microbatches: fewer are kept at a time by 1F1B), "hybrid" (Hybrid of two replicas) or
    "weird trick" (OneWeirdTrick). Of an RBM one Gibbs step is counted, CD-1's. The few bytes of reports that some
    strategies send, as DataParallel the loss, are left out.
    ValueError for another `how`, fewer than 2 ranks, and, with the reason, for nets that cannot be split so.
    """
    if how not in WAYS:
        raise ValueError(f'how="{how}": it is one of {", ".join(WAYS)}.')
    if world_size < 2 or batch < 1:
        raise ValueError(f"{world_size} ranks and a batch of {batch}: at least 2 and 1.")
    net, image = deepcopy(net).cpu(), torch.zeros(2, *image_shape)
    if isinstance(net, RBM):
        return Cost(how, batch, of_rbm(net, batch, world_size, how))
    if not isinstance(net, nn.Sequential) or type(net).forward is not nn.Sequential.forward:
        raise ValueError(f"{kind(net)} is no nn.Sequential, so that its layers have no order: `cost` is for chains.")
    found = WAYS[how](net, image, batch, world_size)
    return Cost(how, batch, [joined(items) for items in found])


def joined(items: list[LayerCost]) -> list[LayerCost]:
    """Without what has no weights and no windows, such as an activation: what it sends counts for the layer before."""
    found: list[LayerCost] = []
    for one in items:
        if one.kind in LAYERS or one.parameters or not found:
            found.append(one)
            continue
        found[-1].forward += one.forward
        found[-1].backward += one.backward
    return found[1:] if len(found) > 1 and found[0].kind not in LAYERS and not found[0].parameters else found
