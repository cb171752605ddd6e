"""Rows of maps that other ranks have: exchanged under autograd, which brings the gradients of borrowed rows back."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dlkit.core.slices import slice_of
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
    return _GatherRows.apply(x, group, have)


def overlap(first: range, second: range) -> range:
    """The rows that are in both."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


class _HaloExchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, have: Sequence[range], need: Sequence[range]) -> Tensor:
        own = have[group.rank]
        lent = {peer: overlap(own, need[peer]) for peer in range(group.world_size)}
        borrowed = {peer: overlap(need[group.rank], have[peer]) for peer in range(group.world_size)}
        ctx.group, ctx.shape, ctx.memory_format, ctx.start = group, x.shape, memory_format(x), own.start
        ctx.lent, ctx.borrowed = lent, borrowed
        sends = {peer: select_rows(x, rows, own.start) for peer, rows in lent.items() if rows and peer != group.rank}
        batch, maps, _, width = x.shape
        arrived = {
            peer: x.new_empty(batch, maps, len(rows), width)
            for peer, rows in borrowed.items()
            if rows and peer != group.rank
        }
        group.exchange(sends, arrived, name="halo")
        bands = {peer: rows.contiguous(memory_format=ctx.memory_format) for peer, rows in arrived.items()}
        bands[group.rank] = select_rows(x, borrowed[group.rank], own.start)
        return torch.cat([bands[peer] for peer in sorted(bands)], dim=2)  # ranks have rows in the order of ranks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        group = ctx.group
        batch, maps, _, width = ctx.shape
        grad_input = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.memory_format)
        grad_input.zero_()
        sends, start = {}, 0
        for peer, rows in ctx.borrowed.items():
            band = grad[:, :, start : start + len(rows)]
            start += len(rows)
            if peer == group.rank:
                select_rows(grad_input, rows, ctx.start).copy_(band)
            elif rows:
                sends[peer] = band
        arrived = {
            peer: grad.new_empty(batch, maps, len(rows), width)
            for peer, rows in ctx.lent.items()
            if rows and peer != group.rank
        }
        group.exchange(sends, arrived, name="halo, back")
        for peer, band in arrived.items():
            select_rows(grad_input, ctx.lent[peer], ctx.start).add_(band)
        return grad_input, None, None, None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, have: Sequence[range]) -> Tensor:
        ctx.own = have[group.rank]
        return group.all_gather(x, [len(rows) for rows in have], dim=2).contiguous(memory_format=memory_format(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        return grad[:, :, ctx.own.start : ctx.own.stop], None, None


def select_rows(x: Tensor, rows: range, start: int) -> Tensor:
    """These rows of maps whose first row here is row `start` of the whole."""
    return x.narrow(2, rows.start - start if rows else 0, len(rows))


def memory_format(x: Tensor) -> torch.memory_format:
    """The order that the maps are kept in."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
