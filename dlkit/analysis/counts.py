"""What a net costs, layer by layer: parameters, connections, and what a fully connected one would have."""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from dlkit.analysis.features import watching
from dlkit.core.evaluation import forward_eval
from dlkit.models.convnet import RBFOutput
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.locally_connected import L2Pool, LocallyConnected2d


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

    Counted are Conv2d, Linear, SparseConv2d, LocallyConnected2d, Subsample, L2Pool and RBFOutput, also in nets of your
    own; what has no weights and sums nothing, such as an activation, is left out. A layer that is used twice has its
    parameters in the first row.
    """
    found: list[LayerCount] = []
    names: dict[nn.Module, str] = {module: name for name, module in net.named_modules() if isinstance(module, COUNTED)}
    unseen = set(names)

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        units, inputs = prod(shape), prod(given[0].shape[1:])
        parameters = sum(p.numel() for p in module.parameters()) if module in unseen else 0
        unseen.discard(module)
        found.append(LayerCount(names[module], shape, parameters, connections(module, shape), (inputs + 1) * units))

    with watching(names, count):
        forward_eval(net, images[:1])
    return found


COUNTED = (nn.Conv2d, nn.Linear, SparseConv2d, LocallyConnected2d, Subsample, L2Pool, RBFOutput)


def connections(module: nn.Module, output: tuple[int, ...]) -> int:
    """Of all units of a layer whose output for one image has this shape."""
    units = prod(output)
    if isinstance(module, SparseConv2d):
        return module.weight[:, 0, 0].numel() * module.size**2 * prod(output[1:]) + units
    if isinstance(module, Subsample):
        one = {"strided": 1, "trainable": module.size**2 + 1}.get(module.kind, module.size**2)
    elif isinstance(module, RBFOutput):
        one = module.codes.shape[1]
    elif isinstance(module, L2Pool):
        one = module.size**2
    elif isinstance(module, LocallyConnected2d):
        one = module.weight.shape[-1] + 1
    elif isinstance(module, nn.Conv2d):
        one = prod(module.weight.shape[1:]) + (module.bias is not None)
    elif isinstance(module, nn.Linear):
        one = module.in_features + (module.bias is not None)
    else:
        raise TypeError(f"a {type(module).__name__} is not counted.")
    return units * one
