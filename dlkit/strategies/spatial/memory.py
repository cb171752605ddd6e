"""What a net of any size takes of each rank's memory over a grid, found without allocating it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dlkit.core.text_table import format_bytes
from dlkit.distributed.array import Grid
from dlkit.distributed.arrays.core import functions_of_the_whole
from dlkit.distributed.arrays.tiles import Tiles
from dlkit.distributed.group import ring_bytes
from dlkit.strategies.graph.on_rank import keep_part
from dlkit.strategies.spatial.array_forward import slots_of, with_arrays
from dlkit.strategies.spatial.on_paper import PaperGroup, taken_apart


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
    first = Grid(PaperGroup(world_size), grid)
    _run(whole, first, images, {})
    layouts, added_up = taken_apart(first.uses)
    found = []
    for rank in range(world_size) if ranks is None else ranks:
        own, group = copy.deepcopy(whole), PaperGroup(world_size, rank)
        for name, layout in layouts.items():
            keep_part(own, name, layout, group)
        over = Grid(group, grid)
        over.added_up, over.bill = added_up, []
        kept = _run(own, over, images, {name: layout.tiles for name, layout in layouts.items()})
        held = sum(p.nbytes for p in own.parameters())
        trained = sum(p.nbytes for p in own.parameters() if p.requires_grad)
        sent = int(sum(bill.forward[rank] + bill.backward[rank] for bill in over.bill))
        shared = map(own.get_parameter, added_up - layouts.keys())
        sent += ring_bytes(sum(p.nbytes for p in shared if p.requires_grad), world_size, passes=2)
        found.append(RankMemory(held, trained, kept + images.nbytes, sent))
    return found


def _run(net: nn.Module, grid: Grid, images: Tensor, tiles: Mapping[str, Tiles]) -> int:
    """The bytes that a forward pass keeps for the backward pass, beside parameters and images."""
    kept: dict[int, int] = {}
    others = {_storage(tensor) for tensor in (*net.parameters(), images)}
    alive: list[Any] = []  # so that no storage is given away, and counted as one

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in others:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.enable_grad(), functions_of_the_whole(), saved_tensors_hooks(keep, lambda tensor: tensor):
        alive.append(with_arrays(slots_of(net), grid, lambda: net(grid.everywhere(images)), tiles))
    return sum(kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
