"""Parameters and connections of each layer of a net, beside those of a fully connected layer."""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from dlkit.analysis.features import forward_hooks
from dlkit.core.evaluation import forward_eval
from dlkit.core.text_table import as_html
from dlkit.models.convnet import RBFOutput
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.locally_connected import L2Pool, LocallyConnected2d


@dataclass(frozen=True)
class LayerCount:
    """One layer, for one image.

    `output`: the shape of its output. `connections`: its multiplications (or additions, comparisons), with biases.
    `fully_connected`: the parameters of a fully connected layer with the same inputs and units.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    connections: int
    fully_connected: int


class LayerCounts(list[LayerCount]):
    """The counts of all layers; a notebook shows them as a table."""

    def __repr__(self) -> str:
        parameters, connections = (sum(getattr(row, name) for row in self) for name in ("parameters", "connections"))
        return f"LayerCounts({len(self)} layers, {parameters:,} parameters, {connections:,} connections)"

    def _repr_html_(self) -> str:
        return as_html(COLUMNS, [_cells(row) for row in self])


COLUMNS = ("layer", "output", "parameters", "connections", "fully connected")


def _cells(row: LayerCount) -> tuple[str, ...]:
    numbers = (row.parameters, row.connections, row.fully_connected)
    return row.name, "x".join(map(str, row.output)), *(f"{number:,}" for number in numbers)


def counts(net: nn.Module, images: Tensor) -> LayerCounts:
    """The layers of `net`, in the order in which the first of `images` passes them.

    Conv2d, Linear, SparseConv2d, LocallyConnected2d, Subsample, L2Pool and RBFOutput are counted, also in nets of your
    own; layers without weights or sums, such as activations, are not. The parameters of a layer that is used twice are
    counted at its first use.
    """
    rows: list[LayerCount] = []
    names: dict[nn.Module, str] = {module: name for name, module in net.named_modules() if isinstance(module, COUNTED)}
    unseen = set(names)

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        units, inputs = prod(shape), prod(args[0].shape[1:])
        parameters = sum(p.numel() for p in module.parameters()) if module in unseen else 0
        unseen.discard(module)
        rows.append(LayerCount(names[module], shape, parameters, connections(module, shape), (inputs + 1) * units))

    with forward_hooks(names, count):
        forward_eval(net, images[:1])
    return LayerCounts(rows)


COUNTED = (nn.Conv2d, nn.Linear, SparseConv2d, LocallyConnected2d, Subsample, L2Pool, RBFOutput)


def connections(module: nn.Module, output: tuple[int, ...]) -> int:
    """Number of connections of a layer whose output for one image has this shape."""
    units = prod(output)
    if isinstance(module, SparseConv2d):
        return module.weight[:, 0, 0].numel() * module.size**2 * prod(output[1:]) + units
    if isinstance(module, Subsample):
        per_unit = {"strided": 1, "trainable": module.size**2 + 1}.get(module.kind, module.size**2)
    elif isinstance(module, RBFOutput):
        per_unit = module.codes.shape[1]
    elif isinstance(module, L2Pool):
        per_unit = module.size**2
    elif isinstance(module, LocallyConnected2d):
        per_unit = module.weight.shape[-1] + 1
    elif isinstance(module, nn.Conv2d):
        per_unit = prod(module.weight.shape[1:]) + (module.bias is not None)
    elif isinstance(module, nn.Linear):
        per_unit = module.in_features + (module.bias is not None)
    else:
        raise TypeError(f"a {type(module).__name__} is not counted.")
    return units * per_unit
