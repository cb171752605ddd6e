"""A net's own forward over arrays: images come whole, tiles go through the layers, and what comes out is whole."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.array import DistributedArray, Grid
from dlkit.distributed.arrays.core import functions_of_the_whole, replaced


class ArrayForward:
    """Takes the place of a net's forward on one rank of `grid`: `net.forward = ArrayForward(...)`.

    layouts: how parameters are split, each a TileLayout. A copy of the net has its own.
    ValueError for images of another shape than those it was split for, whose sizes
    weights that are split may have.
    """

    def __init__(
        self,
        net: nn.Module,
        grid: Grid,
        image_shape: tuple[int, ...],
        forward: Callable[..., Any],
        layouts: Mapping[str, Any],
    ):
        self.net, self.grid, self.image_shape = net, grid, image_shape
        self.forward, self.layouts = forward, layouts

    def __repr__(self) -> str:
        return f"ArrayForward({type(self.net).__name__}, {self.grid})"

    def __call__(self, images: Tensor) -> Any:
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"images of {tuple(images.shape[1:])} for a net that was split for images of {self.image_shape}: give "
                "all batches one shape."
            )
        with functions_of_the_whole():
            found = with_arrays(self.net, self.grid, lambda: self.forward(self.grid.everywhere(images)), self.layouts)
            return replaced(found, lambda value: value.whole() if isinstance(value, DistributedArray) else value)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ArrayForward":
        net = copy.deepcopy(self.net, memo)
        forward = own_forward(net) if is_method(self.forward) else copy.deepcopy(self.forward, memo)
        return ArrayForward(net, self.grid, self.image_shape, forward, self.layouts)


def own_forward(net: nn.Module) -> Callable[..., Any]:
    """The forward that the net's class gives it."""
    return type(net).forward.__get__(net)


def is_method(forward: Any) -> bool:
    return hasattr(forward, "__self__")


class _Applied(nn.Module):
    """A function beside a net, whose parameters torch can replace for a call."""

    def __init__(self, net: nn.Module, function: Callable[[], Any]):
        super().__init__()
        self.net, self.function = net, function

    def forward(self) -> Any:
        return self.function()


def with_arrays(
    net: nn.Module, grid: Grid, function: Callable[[], Any], layouts: Mapping[str, Any] | None = None
) -> Any:
    """What the function gives while the net's parameters are arrays that know their names."""
    tiles = {name: layout.tiles for name, layout in (layouts or {}).items()}
    arrays: dict[str, Tensor] = {
        f"net.{name}": grid.parameter(name, p, tiles.get(name)) for name, p in net.named_parameters()
    }
    return torch.func.functional_call(_Applied(net, function), arrays, ())
