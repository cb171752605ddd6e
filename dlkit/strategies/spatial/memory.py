"""What a net of any size takes of each rank's memory over a grid, found without allocating it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dlkit.core.text_table import format_bytes
from dlkit.distributed.array import Grid
from dlkit.distributed.arrays.core import functions_of_the_whole
from dlkit.distributed.arrays.tiles import Tiles
from dlkit.strategies.graph.on_rank import keep_part
from dlkit.strategies.spatial.array_forward import slots_of, with_arrays
from dlkit.strategies.spatial.on_paper import PaperGroup
from dlkit.strategies.spatial.tile_layout import TileLayout


@dataclass(frozen=True)
class RankMemory:
    """In bytes: a rank's parameters, their gradients, what the forward pass keeps for the backward pass, and what the
    rank sends to others in a pass forward and back.
    """

    parameters: int
    gradients: int
    kept: int
    sent: int

    @property
    def total(self) -> int:
        """With plain SGD, which keeps nothing."""
        return self.parameters + self.gradients + self.kept

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {format_bytes(getattr(self, name))}" for name in ("parameters", "gradients", "kept"))
        return f"RankMemory({parts}: {format_bytes(self.total)}; sent {format_bytes(self.sent)})"


def memory_on_paper(
    net: Callable[[], nn.Module],
    image_shape: Sequence[int],
    batch_size: int,
    grid: tuple[int, int],
    ranks: Sequence[int] | None = None,
) -> list[RankMemory]:
    """What each rank of the grid, or each of these, would have of the net in a step of `SpatialParallel(grid)`.

    The net is made on torch's meta device, which has shapes and no numbers, and run there as each rank: so it may be
    of any size, and must not look at numbers. Every rank has all images of the batch, of numbers of 4 bytes.
    ValueError for a grid or images that do not fit.
    """
    if any(length < count for length, count in zip(image_shape[-2:], grid, strict=True)):
        size = "x".join(map(str, image_shape[-2:]))
        raise ValueError(
            f"images of {size} over a grid of {grid[0]} x {grid[1]} leave a rank nothing: take a smaller grid."
        )
    with torch.device("meta"):
        whole, images = net(), torch.empty(batch_size, *image_shape)
    world_size = grid[0] * grid[1]
    uses = _run(whole, Grid(PaperGroup(world_size), grid), images, {})[1].uses
    found = []
    for rank in range(world_size) if ranks is None else ranks:
        own, group = copy.deepcopy(whole), PaperGroup(world_size, rank)
        layouts = {
            name: TileLayout(how, (0, 1))
            for name, each in uses.items()
            if len(each) == 1 and isinstance(how := next(iter(each)), Tiles)
        }
        for name, layout in layouts.items():
            keep_part(own, name, layout, group)
        over = Grid(group, grid)
        over.added_up = frozenset(name for name, each in uses.items() if "whole" not in each)
        kept, over = _run(own, over, images, layouts)
        held = sum(p.nbytes for p in own.parameters())
        trained = sum(p.nbytes for p in own.parameters() if p.requires_grad)
        sent = sum(bill.forward[rank] + bill.backward[rank] for bill in over.bill or ())
        shared = [own.get_parameter(name).nbytes for name in over.added_up - layouts.keys()]
        sent += 2 * sum(shared) * (world_size - 1) // world_size
        found.append(RankMemory(held, trained, kept + images.nbytes, int(sent)))
    return found


def _run(net: nn.Module, grid: Grid, images: Tensor, layouts: dict[str, TileLayout]) -> tuple[int, Grid]:
    """The bytes that a forward pass keeps for the backward pass, beside parameters and images; and the grid."""
    kept: dict[int, int] = {}
    others = {_storage(tensor) for tensor in (*net.parameters(), images)}
    alive: list[Any] = []  # so that no storage is given away, and counted as one

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in others:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    grid.bill = []
    with torch.enable_grad(), functions_of_the_whole(), saved_tensors_hooks(keep, lambda tensor: tensor):
        alive.append(with_arrays(slots_of(net), grid, lambda: net(grid.everywhere(images)), layouts))
    return sum(kept.values()), grid


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
