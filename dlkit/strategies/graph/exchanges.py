"""What ranks exchange between two calls of a net's graph, on paper until a rank binds it to its group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dlkit.core.slices import slice_of
from dlkit.distributed.arrays.bill import Bill
from dlkit.distributed.autograd import copy_to_ranks, reduce_from_ranks, scatter_to_ranks
from dlkit.distributed.autograd import gather_from_ranks as gather
from dlkit.distributed.group import Group, ring_bytes


@runtime_checkable
class Split(Protocol):
    """How a tensor is split: the sizes of ranks' parts, and of all; and a parameter taken apart, and put together."""

    @property
    def counts(self) -> list[int]: ...

    @property
    def whole(self) -> int: ...

    def part_of(self, whole: Tensor, rank: int) -> Tensor: ...

    def whole_of(self, part: Tensor, group: Group) -> Tensor: ...


@dataclass(frozen=True)
class Layout:
    """How a tensor is split: rank r has the indices `parts[r]` of its dimension `dim`, and all of the others."""

    dim: int
    parts: tuple[Sequence[int], ...]

    def __post_init__(self):
        object.__setattr__(self, "parts", tuple(map(tuple, self.parts)))  # so that equal layouts are equal

    @property
    def counts(self) -> list[int]:
        return [len(part) for part in self.parts]

    @property
    def whole(self) -> int:
        return sum(self.counts)

    @property
    def in_order(self) -> bool:
        """Are the parts, one after another, the whole?"""
        return [index for part in self.parts for index in part] == list(range(self.whole))

    def part_of(self, whole: Tensor, rank: int) -> Tensor:
        """A rank's part, in memory of its own."""
        return whole.index_select(self.dim, torch.tensor(self.parts[rank], dtype=torch.long, device=whole.device))

    def whole_of(self, part: Tensor, group: Group) -> Tensor:
        """All ranks' parts in their places, without autograd: of a parameter, or of what is kept beside it."""
        gathered = group.all_gather(part, self.counts, self.dim)
        if self.in_order:
            return gathered
        order = torch.tensor([index for rank in self.parts for index in rank], device=part.device)
        return gathered.index_select(self.dim, order.argsort())

    def repeated(self, times: int, dim: int) -> "Layout":
        """That of a tensor which has `times` values, one after another, for each index of this one."""
        parts = (tuple(times * index + k for index in part for k in range(times)) for part in self.parts)
        return Layout(dim, tuple(parts))

    def in_blocks(self, size: int, dim: int) -> "Layout | None":
        """That of the blocks of so many indices which it is made of; None if a rank has a part of one."""
        for part in self.parts:
            starts = part[::size]
            if any(start % size for start in starts) or part != tuple(s + k for s in starts for k in range(size)):
                return None
        return Layout(dim, tuple(tuple(index // size for index in part[::size]) for part in self.parts))


def even_layout(dim: int, whole: int, world_size: int) -> Layout:
    """Nearly equal parts, the larger ones first."""
    slices = (slice_of(whole, rank, world_size) for rank in range(world_size))
    return Layout(dim, tuple(range(part.start, part.stop) for part in slices))


@runtime_checkable
class Exchange(Protocol):
    """An exchange of one value. `name` is that in tables."""

    @property
    def name(self) -> str: ...

    def on(self, group: Group) -> Callable[..., Any]:
        """As a function of what this rank has, under autograd."""
        ...

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        """Bytes that a rank sends, forward and backward, for a value of `size` bytes in all."""
        ...


@dataclass(frozen=True)
class Noted:
    """An exchange that was noted in passes on paper: its bills for two images and for three, which are on a line."""

    two: Bill
    three: Bill

    @property
    def name(self) -> str:
        return self.two.name

    def bytes_of(self, rank: int, images: int) -> tuple[int, int]:
        """Bytes that a rank sends, forward and backward, for so many images."""
        forward, backward = (
            int(two[rank] + (images - 2) * (three[rank] - two[rank]))
            for two, three in ((self.two.forward, self.three.forward), (self.two.backward, self.three.backward))
        )
        return forward, backward


@dataclass(frozen=True)
class Gather:
    """All ranks' parts together: what follows is the same on all."""

    layout: Layout
    name = "gathered"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        if self.layout.in_order:
            return partial(gather_parts, layout=self.layout, group=group)
        order = [index for part in self.layout.parts for index in part]
        places = torch.tensor(order).argsort()
        return partial(gather_parts, layout=self.layout, group=group, places=places)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        longest = max(self.layout.counts)
        return (world_size - 1) * longest * (size // self.layout.whole), 0


@dataclass(frozen=True)
class Several:
    """How several tensors are split that one call gives: each so."""

    layout: Layout

    def gathering(self) -> "GatherSeveral":
        return GatherSeveral(self.layout)


@dataclass(frozen=True)
class GatherSeveral:
    """All ranks' parts of several tensors."""

    layout: Layout
    name = "gathered"

    def on(self, group: Group) -> Callable[[Any], Any]:
        gather_one = Gather(self.layout).on(group)

        def gather_all(tensors: Any) -> Any:
            gathered = [gather_one(tensor) for tensor in tensors]
            return type(tensors)(gathered)

        return gather_all

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return Gather(self.layout).sent(size, rank, world_size)


@dataclass(frozen=True)
class Copy:
    """A whole value as the input of each rank's own part of what follows: gradients are summed."""

    name = "copied"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return partial(copy_to_ranks, group=group)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return 0, ring_bytes(size, world_size, passes=2)


@dataclass(frozen=True)
class Sum:
    """The sum of what all ranks have."""

    name = "summed"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return partial(reduce_from_ranks, group=group)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return ring_bytes(size, world_size, passes=2), 0


@dataclass(frozen=True)
class Take:
    """This rank's part of a whole value: gradients are gathered."""

    layout: Layout
    name = "cut"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return partial(take_part, layout=self.layout, group=group)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return 0, Gather(self.layout).sent(size, rank, world_size)[0]


def gather_parts(x: Tensor, layout: Layout, group: Group, places: Tensor | None = None) -> Tensor:
    """In order in memory, as a `view` behind it may need."""
    whole = gather(x, layout.counts, layout.dim, group)
    return whole.contiguous() if places is None else whole.index_select(layout.dim, places.to(x.device))


def take_part(x: Tensor, layout: Layout, group: Group) -> Tensor:
    if not layout.in_order:
        order = [index for part in layout.parts for index in part]
        x = x.index_select(layout.dim, torch.tensor(order, device=x.device))
    part = scatter_to_ranks(x, layout.counts, layout.dim, group)
    return part if x.requires_grad else part.contiguous()  # no view, which a function may change in place
