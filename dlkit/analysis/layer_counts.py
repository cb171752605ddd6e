"""Parameters and connections of each layer of a net, beside those of a fully connected layer."""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from dlkit.analysis.examining import examines
from dlkit.analysis.features import forward_hooks
from dlkit.core.evaluation import forward_eval
from dlkit.core.text_table import as_html
from dlkit.models.layer_kinds import base_kind_of


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


@examines
def counts(net: nn.Module, images: Tensor) -> LayerCounts:
    """The layers of `net`, in the order in which the first of `images` passes them.

    Counted are the kinds of layer that have `connections` in dlkit.models.layer_kinds, and classes derived from them,
    also in nets of your own; what has no sums, such as an activation, is left out. A layer that is used twice has its
    parameters in the first row.
    """
    rows: list[LayerCount] = []
    names: dict[nn.Module, str] = {
        module: name for name, module in net.named_modules() if base_kind_of(module).connections is not None
    }
    unseen = set(names)

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        units, inputs = prod(shape), prod(args[0].shape[1:])
        parameters = sum(p.numel() for p in module.parameters()) if module in unseen else 0
        unseen.discard(module)
        connections = base_kind_of(module).connections
        assert connections is not None  # these were chosen
        rows.append(LayerCount(names[module], shape, parameters, connections(module, shape), (inputs + 1) * units))

    with forward_hooks(names, count):
        forward_eval(net, images[:1])
    return LayerCounts(rows)
