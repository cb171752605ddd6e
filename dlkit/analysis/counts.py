"""What a net costs, layer by layer: parameters, connections, and what a fully connected one would have."""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from dlkit.analysis.features import watching
from dlkit.core.evaluation import forward_eval
from dlkit.models.layer_kinds import base_kind_of


@dataclass(frozen=True)
class LayerCount:
    """One layer for one image. `connections`: multiplications (additions, comparisons), biases included.

    `fully_connected`: the parameters of a layer of as many units, each of which sees all of this layer's inputs.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    connections: int
    fully_connected: int


def counts(net: nn.Module, images: Tensor) -> list[LayerCount]:
    """The layers of `net`, in the order in which an image passes them; of `images` only the first is used.

    Counted are the kinds of layer that have `connections` in dlkit.models.layer_kinds, and classes derived from them,
    also in nets of your own; what has no sums, such as an activation, is left out. A layer that is used twice has its
    parameters in the first row.
    """
    rows: list[LayerCount] = []
    names: dict[nn.Module, str] = {
        module: name for name, module in net.named_modules() if base_kind_of(module).connections is not None
    }
    unseen = set(names)

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        units, inputs = prod(shape), prod(given[0].shape[1:])
        parameters = sum(p.numel() for p in module.parameters()) if module in unseen else 0
        unseen.discard(module)
        connections = base_kind_of(module).connections
        assert connections is not None  # these were chosen
        rows.append(LayerCount(names[module], shape, parameters, connections(module, shape), (inputs + 1) * units))

    with watching(names, count):
        forward_eval(net, images[:1])
    return rows
