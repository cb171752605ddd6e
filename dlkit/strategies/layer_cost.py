"""One layer on one rank, on paper: what it holds and sends in a step, of float32 numbers of 4 bytes."""

from dataclasses import dataclass

from torch import nn

from dlkit.core.slices import Slice, slice_of
from dlkit.distributed.group import ring_bytes
from dlkit.models.rbm import RBM

FLOAT = 4  # bytes


@dataclass
class LayerCost:
    """One layer on one rank, in bytes; `forward`, `backward` and `exchanged` (gradients) are sent in a step.

    `part` is what the rank computes, along `along`: of the "images" of a batch, of the "units" or maps that are the
    layer's output, of the "inputs" that it sums, of the "rows", "columns" or "tiles" of its maps; or of the "layer":
    all of it or nothing. `tile`: of its maps, from where to where its rows reach, and its columns, as parts of all.
    `images`: those of a batch that it computes for, where they are not all.
    `output_shape`: of the whole output for an image. `activations`: what the rank has of that, for the batch.
    `whole`: the parameters of the whole layer, of which `parameters` are on the rank.
    `statistics` and `gathered`: what of `forward` and `backward` is BatchNorm's sums, and parameters that are gathered.
    `trained`: the share of the parameters that are, and have gradients.
    `is_sum`: whether it has weights or windows; if not, such as an activation, it is no layer of its own in a table.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    along: str
    part: Slice
    whole: int
    parameters: int
    activations: int
    forward: int = 0
    backward: int = 0
    exchanged: int = 0
    statistics: int = 0
    gathered: int = 0
    images: Slice | None = None
    is_sum: bool = True
    trained: float = 1.0
    tile: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def gradients(self) -> int:
        return round(self.parameters * self.trained)

    @property
    def bytes_sent(self) -> int:
        return self.forward + self.backward + self.exchanged


def rbm_costs(rbm: RBM, batch_size: int, data: int, model: int) -> list[list[LayerCost]]:
    """`data` replicas of an RBM, each split by hidden units over `model` ranks, in one Gibbs step, CD-1's.

    Down to the visible units partial sums of their inputs are summed. ValueError for fewer hidden units than ranks.
    """
    if rbm.hidden < model:
        raise ValueError(f"{rbm.hidden} hidden units for {model} ranks: give each at least one.")
    ranks = []
    for rank in range(data * model):
        images, units = slice_of(batch_size, rank // model, data), slice_of(rbm.hidden, rank % model, model)
        parameters = parameter_bytes(rbm) - FLOAT * (rbm.visible + 1) * (rbm.hidden - units.count)
        cost = LayerCost(
            "W",
            type(rbm).__name__,
            (rbm.hidden,),
            "images" if model == 1 else "units",
            images if model == 1 else units,
            parameter_bytes(rbm),
            parameters,
            FLOAT * images.count * units.count,
            images=images if data > 1 else None,
        )
        cost.forward = ring_bytes(FLOAT * images.count * rbm.visible, model, passes=2)
        cost.exchanged = ring_bytes(parameters, data, passes=2)
        ranks.append([cost])
    return ranks


def parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
