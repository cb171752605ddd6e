"""Rows of maps that other ranks have: exchanged under autograd, which brings the gradients of borrowed rows back."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.core.slices import slice_of
from dlkit.distributed.autograd import gather_from_ranks
from dlkit.distributed.group import Group


def rows_of(height: int, world_size: int) -> list[range]:
    """The rows that each rank has of maps, nearly equally many."""
    slices = (slice_of(height, rank, world_size) for rank in range(world_size))
    return [range(part.start, part.stop) for part in slices]


def halo_exchange(
    x: Float[Tensor, "batch maps had width"], group: Group, have: Sequence[range], need: Sequence[range]
) -> Float[Tensor, "batch maps needed width"]:
    """Rows `need[rank]` of maps of which each rank has rows `have[rank]`: one after another, and each row once.

    What a rank lacks, the halo of its rows, comes from whichever ranks have it; its gradient goes back there and is
    added. Sends rows x width x maps x batch numbers: lent rows forward, borrowed rows' gradients backward. Where no
    rank lacks anything, nothing is sent.
    """
    if all(rows.start >= own.start and rows.stop <= own.stop for rows, own in zip(need, have, strict=True) if rows):
        start = need[group.rank].start - have[group.rank].start if need[group.rank] else 0
        return x[:, :, start : start + len(need[group.rank])]
    return _HaloExchange.apply(x, group, have, need)


def gather_rows(
    x: Float[Tensor, "batch maps had width"], group: Group, have: Sequence[range]
) -> Float[Tensor, "batch maps height width"]:
    """All rows on every rank. What comes after is the same on all, so each takes its own rows' gradient, unsummed."""
    whole = gather_from_ranks(x, [len(rows) for rows in have], 2, group)
    return whole.contiguous(memory_format=memory_format(x))


def overlap(first: range, second: range) -> range:
    """The rows that are in both."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


class _HaloExchange(torch.autograd.Function):
    """The rows that this rank needs, of those that all have. Backward: `_HaloReturn`, its transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, have: Sequence[range], need: Sequence[range]) -> Tensor:
        ctx.arguments, ctx.memory_format = (group, have, need), memory_format(x)
        lent, borrowed = halos(group, have, need)
        start = have[group.rank].start
        sends = {peer: select_rows(x, rows, start) for peer, rows in lent.items()}
        bands = received(x, borrowed, sends, group, "halo")
        bands = {peer: rows.contiguous(memory_format=ctx.memory_format) for peer, rows in bands.items()}
        bands[group.rank] = select_rows(x, overlap(have[group.rank], need[group.rank]), start)
        return torch.cat([bands[peer] for peer in sorted(bands)], dim=2)  # ranks have rows in the order of ranks

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _HaloReturn.apply(grad_outputs[0], *ctx.arguments, ctx.memory_format), None, None, None


class _HaloReturn(torch.autograd.Function):
    """To each row that this rank has, the sum of what all that needed it give for it. Backward: `_HaloExchange`."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, group: Group, have: Sequence[range], need: Sequence[range], order: torch.memory_format
    ) -> Tensor:
        ctx.arguments = group, have, need
        lent, borrowed = halos(group, have, need)
        own, needed = have[group.rank], need[group.rank]
        batch, maps, _, width = grad.shape
        shape = batch, maps, len(own), width
        summed = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=order).zero_()
        both = overlap(own, needed)
        select_rows(summed, both, own.start).copy_(select_rows(grad, both, needed.start))
        sends = {peer: select_rows(grad, rows, needed.start) for peer, rows in borrowed.items()}
        for peer, band in received(grad, lent, sends, group, "halo, back").items():
            select_rows(summed, lent[peer], own.start).add_(band)
        return summed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _HaloExchange.apply(grad_outputs[0], *ctx.arguments), None, None, None, None


def halos(group: Group, have: Sequence[range], need: Sequence[range]) -> tuple[dict[int, range], dict[int, range]]:
    """The rows that this rank lends to each other rank, and those that it borrows from each."""
    peers = [peer for peer in range(group.world_size) if peer != group.rank]
    lent = {peer: rows for peer in peers if (rows := overlap(have[group.rank], need[peer]))}
    borrowed = {peer: rows for peer in peers if (rows := overlap(need[group.rank], have[peer]))}
    return lent, borrowed


def received(
    like: Tensor, rows: dict[int, range], sends: dict[int, Tensor], group: Group, name: str
) -> dict[int, Tensor]:
    """Send these maps, and receive from each rank so many rows of maps like `like`."""
    batch, maps, _, width = like.shape
    arrived = {peer: like.new_empty(batch, maps, len(each), width) for peer, each in rows.items()}
    group.exchange(sends, arrived, name=name)
    return arrived


def select_rows(x: Tensor, rows: range, start: int) -> Tensor:
    """These rows of maps whose first row here is row `start` of the whole."""
    return x.narrow(2, rows.start - start if rows else 0, len(rows))


def memory_format(x: Tensor) -> torch.memory_format:
    """The order that the maps are kept in."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
