"""A net's own forward over arrays: images come whole, tiles go through the layers, and what comes out is whole."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from dlkit.distributed.array import DistributedArray, Grid
from dlkit.distributed.arrays.core import functions_of_the_whole, replaced
from dlkit.distributed.arrays.tiles import Tiles


class ArrayForward:
    """Takes the place of a net's forward on one rank of `grid`: `net.forward = ArrayForward(...)`.

    tiles: of parameters of which this rank has its places alone. A copy of the net has its own.
    ValueError for images of another shape than those it was split for, whose sizes weights that are split may have.
    """

    def __init__(
        self,
        net: nn.Module,
        grid: Grid,
        image_shape: tuple[int, ...],
        forward: Callable[..., Any],
        tiles: Mapping[str, Tiles],
    ):
        self.net, self.grid, self.image_shape = net, grid, image_shape
        self.forward, self.tiles = forward, tiles
        self._slots: list[Slot] | None = None  # found when the net has all its parts

    def __repr__(self) -> str:
        return f"ArrayForward({type(self.net).__name__}, {self.grid})"

    def __call__(self, images: Tensor) -> Any:
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images of {tuple(images.shape[1:])} for a net that was split for images of {self.image_shape}: give "
                "all batches one shape."
            )
        if self.grid.group.world_size == 1:
            return self.forward(images)
        with functions_of_the_whole():
            if self._slots is None:
                self._slots = slots_of(self.net)
            found = with_arrays(self._slots, self.grid, lambda: self.forward(self.grid.everywhere(images)), self.tiles)
            return replaced(found, lambda value: value.whole() if isinstance(value, DistributedArray) else value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ArrayForward":
        net = copy.deepcopy(self.net, memo)
        forward = own_forward(net) if hasattr(self.forward, "__self__") else copy.deepcopy(self.forward, memo)
        return ArrayForward(net, self.grid, self.image_shape, forward, self.tiles)


def own_forward(net: nn.Module) -> Callable[..., Any]:
    """The forward that the net's class gives it."""
    return type(net).forward.__get__(net)


class Slot(NamedTuple):
    """Where a module has a parameter: in `parameters`, its own, under `name`; `path`: its first in the net."""

    parameters: dict[str, Any]
    name: str
    path: str


def slots_of(net: nn.Module) -> list[Slot]:
    paths = {id(parameter): path for path, parameter in net.named_parameters()}
    return [
        Slot(module._parameters, name, paths[id(parameter)])
        for module in net.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
    ]


def with_arrays(
    slots: Sequence[Slot], grid: Grid, function: Callable[[], Any], tiles: Mapping[str, Tiles] | None = None
) -> Any:
    """What the function gives while the parameters in these slots are arrays that know their names."""
    own = [slot.parameters[slot.name] for slot in slots]
    arrays: dict[str, DistributedArray] = {}
    try:
        for slot, value in zip(slots, own, strict=True):
            if slot.path not in arrays:
                arrays[slot.path] = grid.parameter(slot.path, value, (tiles or {}).get(slot.path))
            slot.parameters[slot.name] = arrays[slot.path]
        return function()
    finally:
        for slot, value in zip(slots, own, strict=True):
            slot.parameters[slot.name] = value
