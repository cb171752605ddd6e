"""Rows of maps that other ranks have: exchanged under autograd, which brings the gradients of borrowed rows back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.distributed.arrays.tiles import overlap
from dlkit.distributed.autograd import gather_from_ranks
from dlkit.distributed.group import Group


@dataclass(frozen=True)
class Halo:
    """Rows `need[rank]` of dimension `dim`, of which each rank has `have[rank]`; see `halo_exchange`."""

    dim: int
    have: tuple[range, ...]
    need: tuple[range, ...]
    name = "rows borrowed"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return partial(halo_exchange, group=group, have=self.have, need=self.need, dim=self.dim)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        if is_local(self.have, self.need):
            return 0, 0
        row = size // max(rows.stop for rows in self.have)
        lent, borrowed = halos(rank, self.have, self.need)
        return row * sum(map(len, lent.values())), row * sum(map(len, borrowed.values()))


@dataclass(frozen=True)
class GatherRows:
    """All rows on every rank."""

    dim: int
    parts: tuple[range, ...]
    name = "gathered"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return partial(gather_rows, group=group, have=self.parts, dim=self.dim)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        counts = list(map(len, self.parts))
        return (world_size - 1) * max(counts) * (size // sum(counts)), 0


def halo_exchange(
    x: Float[Tensor, "..."], group: Group, have: Sequence[range], need: Sequence[range], dim: int = 2
) -> Float[Tensor, "..."]:
    """Rows `need[rank]` of maps of which each rank has rows `have[rank]`: one after another, and each row once.

    dim: that of the rows. What a rank lacks, the halo of its rows, comes from whichever ranks have it; its gradient
    goes back there and is added. Sends rows x width x maps x batch numbers: lent rows forward, borrowed rows' gradients
    backward. Where no rank lacks anything, nothing is sent.
    """
    if is_local(have, need):
        start = need[group.rank].start - have[group.rank].start if need[group.rank] else 0
        return x.narrow(dim, start, len(need[group.rank]))
    return _HaloExchange.apply(x, group, have, need, dim)


def gather_rows(x: Float[Tensor, "..."], group: Group, have: Sequence[range], dim: int = 2) -> Float[Tensor, "..."]:
    """All rows on every rank. What comes after is the same on all, so each takes its own rows' gradient, unsummed."""
    whole = gather_from_ranks(x, [len(rows) for rows in have], dim, group)
    return whole.contiguous(memory_format=memory_format(x))


def is_local(have: Sequence[range], need: Sequence[range]) -> bool:
    """Does no rank lack anything?"""
    pairs = zip(need, have, strict=True)
    return all(rows.start >= own.start and rows.stop <= own.stop for rows, own in pairs if rows)


class _HaloExchange(torch.autograd.Function):
    """The rows that this rank needs, of those that all have. Backward: `_HaloReturn`, its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, have: Sequence[range], need: Sequence[range], dim: int) -> Tensor:
        ctx.arguments, ctx.memory_format = (group, have, need, dim), memory_format(x)
        lent, borrowed = halos(group.rank, have, need)
        start = have[group.rank].start
        sends = {peer: select_rows(x, rows, start, dim) for peer, rows in lent.items()}
        bands = received(x, borrowed, sends, group, "halo", dim)
        bands = {peer: rows.contiguous(memory_format=ctx.memory_format) for peer, rows in bands.items()}
        bands[group.rank] = select_rows(x, overlap(have[group.rank], need[group.rank]), start, dim)
        return torch.cat([bands[peer] for peer in sorted(bands)], dim=dim)  # ranks have rows in the order of ranks

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _HaloReturn.apply(grad_outputs[0], *ctx.arguments, ctx.memory_format), None, None, None, None


class _HaloReturn(torch.autograd.Function):
    """To each row that this rank has, the sum of what all that needed it give for it. Backward: `_HaloExchange`."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        group: Group,
        have: Sequence[range],
        need: Sequence[range],
        dim: int,
        order: torch.memory_format,
    ) -> Tensor:
        ctx.arguments = group, have, need, dim
        lent, borrowed = halos(group.rank, have, need)
        own, wanted = have[group.rank], need[group.rank]
        shape = (*grad.shape[:dim], len(own), *grad.shape[dim + 1 :])
        summed = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=order).zero_()
        both = overlap(own, wanted)
        select_rows(summed, both, own.start, dim).copy_(select_rows(grad, both, wanted.start, dim))
        sends = {peer: select_rows(grad, rows, wanted.start, dim) for peer, rows in borrowed.items()}
        for peer, band in received(grad, lent, sends, group, "halo, back", dim).items():
            select_rows(summed, lent[peer], own.start, dim).add_(band)
        return summed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _HaloExchange.apply(grad_outputs[0], *ctx.arguments), None, None, None, None, None


def halos(rank: int, have: Sequence[range], need: Sequence[range]) -> tuple[dict[int, range], dict[int, range]]:
    """The rows that this rank lends to each other rank, and those that it borrows from each."""
    peers = [peer for peer in range(len(have)) if peer != rank]
    lent = {peer: rows for peer in peers if (rows := overlap(have[rank], need[peer]))}
    borrowed = {peer: rows for peer in peers if (rows := overlap(need[rank], have[peer]))}
    return lent, borrowed


def received(
    like: Tensor, rows: dict[int, range], sends: dict[int, Tensor], group: Group, name: str, dim: int
) -> dict[int, Tensor]:
    """Send these maps, and receive from each rank so many rows of maps like `like`."""
    before, after = like.shape[:dim], like.shape[dim + 1 :]
    arrived = {peer: like.new_empty(*before, len(each), *after) for peer, each in rows.items()}
    group.exchange(sends, arrived, name=name)
    return arrived


def select_rows(x: Tensor, rows: range, start: int, dim: int) -> Tensor:
    """These rows of maps whose first row here is row `start` of the whole."""
    return x.narrow(dim, rows.start - start if rows else 0, len(rows))


def memory_format(x: Tensor) -> torch.memory_format:
    """The order that maps are kept in."""
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
