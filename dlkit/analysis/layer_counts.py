"""Parameters and connections of each layer of a net, beside those of a fully connected layer."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dlkit.analysis.examining import examines
from dlkit.analysis.features import forward_hooks
from dlkit.core.evaluation import forward_eval
from dlkit.core.text_table import as_html
from dlkit.models.layer_kinds import base_kind_of

NOT_COUNTED = "not counted"


@dataclass(frozen=True)
class LayerCount:
    """One layer, for one image.

    `output`: the shape of its output. `connections`: its multiplications (or additions, comparisons), with biases.
    `fully_connected`: the parameters of a fully connected layer with the same inputs and units. Both are None for what
    has parameters and is of a kind that is not counted, such as an LSTM or BatchNorm; its parameters are its own, and
    not those of modules inside it. `kind`: the class of the layer.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    connections: int | None
    fully_connected: int | None
    kind: str = field(default="", compare=False)


class LayerCounts(list[LayerCount]):
    """The counts of all layers, whose `parameters` add up to the net's; a notebook shows them as a table.

    `elsewhere`: the multiplications of matrix products and convolutions that are in no layer counted here, by torch's
    own count (torch.utils.flop_counter), which does not know an LSTM's on a CPU.
    """

    def __init__(self, rows: Iterable[LayerCount] = (), elsewhere: int = 0):
        super().__init__(rows)
        self.elsewhere = elsewhere

    @property
    def remark(self) -> str:
        """What is not counted, in a sentence; "" if all is."""
        names = [f"{row.name} ({row.kind})" if row.name else row.kind for row in self if row.connections is None]
        parts = [f"the connections of {', '.join(names)}"] if names else []
        if self.elsewhere:
            parts.append(f"{self.elsewhere:,} multiplications outside of the layers counted")
        return f"Not counted: {'; '.join(parts)}." if parts else ""

    def __repr__(self) -> str:
        parameters, connections = sum(row.parameters for row in self), sum(row.connections or 0 for row in self)
        remark = f". {self.remark.removesuffix('.')}" if self.remark else ""
        return f"LayerCounts({len(self)} layers, {parameters:,} parameters, {connections:,} connections{remark})"

    def _repr_html_(self) -> str:
        return as_html(COLUMNS, [_cells(row) for row in self]) + (f"<p>{self.remark}</p>" if self.remark else "")


COLUMNS = ("layer", "output", "parameters", "connections", "fully connected")


def _cells(row: LayerCount) -> tuple[str, ...]:
    numbers = (row.parameters, row.connections, row.fully_connected)
    cells = (NOT_COUNTED if number is None else f"{number:,}" for number in numbers)
    return row.name or row.kind, "x".join(map(str, row.output)), *cells


class _Products(TorchDispatchMode):
    """Context that adds up the multiplications of matrix products and convolutions outside of counted layers."""

    def __init__(self):
        super().__init__()
        self.multiplications, self.counted_layers_open = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and not self.counted_layers_open:
            self.multiplications += formula(*args, **(kwargs or {}), out_val=output) // 2
        return output


@examines
def counts(net: nn.Module, images: Tensor) -> LayerCounts:
    """The layers of `net`, in the order in which the first of `images` passes them.

    Counted are the kinds of layer that have `connections` in dlkit.models.layer_kinds, and classes derived from them,
    also in nets of your own; what has no sums and no parameters, such as an activation, is left out. Parameters of all
    other modules have rows too, with connections None, and parameters that no counted layer has, of the net itself or
    of a module that is not called, come last. A layer that is used twice has its parameters in the first row, and so
    has a parameter of two layers.
    """
    rows: list[LayerCount] = []
    kinds = {module: base_kind_of(module) for module in net.modules()}
    counted = {module for module, kind in kinds.items() if kind.connections is not None}
    inside = {child for module in counted for child in module.modules() if child is not module}
    names = {module: name for name, module in net.named_modules() if module not in inside}
    unseen = {id(parameter) for parameter in net.parameters()}
    products = _Products()

    def take(parameters: Iterable[nn.Parameter]) -> int:
        """How many values they have, of those that no row has yet."""
        new = {id(parameter): parameter.numel() for parameter in parameters if id(parameter) in unseen}
        unseen.difference_update(new)
        return sum(new.values())

    def enter(module: nn.Module, _args: tuple) -> None:
        products.counted_layers_open += module in counted

    def count(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        products.counted_layers_open -= module in counted
        shape = _shape(output)
        if module in counted:
            units, inputs = prod(shape), prod(args[0].shape[1:])
            connections = kinds[module].connections
            assert connections is not None  # these were chosen
            parameters = take(module.parameters())
            of_sums = connections(module, shape), (inputs + 1) * units
            rows.append(LayerCount(names[module], shape, parameters, *of_sums, type(module).__name__))
        elif parameters := take(module.parameters(recurse=False)):
            rows.append(LayerCount(names[module], shape, parameters, None, None, type(module).__name__))

    fast_attention = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        for module in counted:
            stack.callback(module.register_forward_pre_hook(enter).remove)
        stack.enter_context(forward_hooks(names, count))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_attention)
        torch.backends.mha.set_fastpath_enabled(False)  # a single operation, which torch's count does not know
        stack.enter_context(products)
        forward_eval(net, images[:1])
    for module, name in names.items():
        if parameters := take(module.parameters() if module in counted else module.parameters(recurse=False)):
            rows.append(LayerCount(name, (), parameters, None, None, type(module).__name__))
    return LayerCounts(rows, products.multiplications)


def _shape(output: Any) -> tuple[int, ...]:
    """Of an output, or of the first tensor of several, for one image."""
    while isinstance(output, list | tuple) and output:
        output = output[0]
    return tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
