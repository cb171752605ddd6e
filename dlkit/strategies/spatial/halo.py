"""Rows of maps that other ranks have: borrowed under autograd, which brings the gradients of what was borrowed back."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dlkit.core.slices import slice_of
from dlkit.distributed.group import Group
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.locally_connected import L2Pool, LocallyConnected2d


class Windows(NamedTuple):
    """Row o of a layer's output sees `size` rows of its input, from row o * stride - before on.

    What is outside the image is `fill`, with `sides` columns of it too; None where the layer sees to its edges itself.
    `unseen`: rows below that the layer asks for, and does not look at.
    """

    size: int
    stride: int = 1
    before: int = 0
    sides: tuple[int, int] = (0, 0)
    fill: float | None = 0.0
    unseen: int = 0

    def seen(self, rows: range) -> range:
        """By these rows of the output; outside the image too."""
        start = rows.start * self.stride - self.before
        return range(start, start + (len(rows) - 1) * self.stride + self.size) if rows else range(0)


def windows_of(module: nn.Module) -> Windows | None:
    """None for what does not go over the maps in windows, or not in those that there is a band of."""
    if type(module) is LocallyConnected2d or type(module) is L2Pool:
        return Windows(module.size, module.stride)
    if type(module) is SparseConv2d:
        return Windows(module.size)
    if type(module) is Subsample and module.kind == "strided":
        return Windows(1, module.stride, unseen=module.stride - 1)
    if type(module) is Subsample:
        return Windows(module.size, module.stride, fill=None)
    if type(module) is nn.Conv2d and module.padding_mode == "zeros":
        sizes = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if isinstance(module.padding, str):
            (before, _), sides = (
                ((size - 1) // 2, size // 2) if module.padding == "same" else (0, 0) for size in sizes
            )
        else:
            before, sides = module.padding[0], (module.padding[1],) * 2
        return Windows(sizes[0], module.stride[0], before, sides)
    if type(module) is nn.MaxPool2d and not module.ceil_mode and not module.return_indices:
        size = first(module.dilation) * (first(module.kernel_size) - 1) + 1
        return Windows(size, first(module.stride), first(module.padding), (last(module.padding),) * 2, -torch.inf)
    if type(module) is nn.AvgPool2d and not module.ceil_mode:
        before, side = first(module.padding), last(module.padding)
        if module.count_include_pad or not (before or side):
            return Windows(first(module.kernel_size), first(module.stride), before, (side, side))
    return None


def first(value: Any) -> int:
    return value[0] if isinstance(value, tuple) else value


def last(value: Any) -> int:
    return value[-1] if isinstance(value, tuple) else value


def rows_of(height: int, world_size: int) -> list[range]:
    """The rows that each rank has of maps, nearly equally many."""
    return [range(part.start, part.stop) for part in (slice_of(height, rank, world_size) for rank in range(world_size))]


def halo_exchange(
    x: Float[Tensor, "batch maps had width"], group: Group, have: Sequence[range], need: Sequence[range]
) -> Float[Tensor, "batch maps needed width"]:
    """Rows `need[rank]` of maps of which each rank has rows `have[rank]`: one after another, and each row once.

    What a rank lacks, the halo of its rows, comes from whichever ranks have it, and its gradient goes back there and is
    added. Sends rows x width x maps x batch numbers: lent ones forward, borrowed ones backward. Where no rank lacks
    anything, nothing is sent.
    """
    if all(rows.start >= mine.start and rows.stop <= mine.stop for rows, mine in zip(need, have, strict=True) if rows):
        start = need[group.rank].start - have[group.rank].start if need[group.rank] else 0
        return x[:, :, start : start + len(need[group.rank])]
    return _HaloExchange.apply(x, group, have, need)


def gather_rows(
    x: Float[Tensor, "batch maps had width"], group: Group, have: Sequence[range]
) -> Float[Tensor, "batch maps height width"]:
    """All rows on every rank. What comes after is the same on all, so each takes its own rows' gradient, unsummed."""
    return _Gather.apply(x, group, have)


def overlap(one: range, other: range) -> range:
    """The rows that are in both."""
    start = max(one.start, other.start)
    return range(start, max(start, min(one.stop, other.stop)))


class _HaloExchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, have: Sequence[range], need: Sequence[range]) -> Tensor:
        mine = have[group.rank]
        lent = {peer: overlap(mine, need[peer]) for peer in range(group.world_size)}
        taken = {peer: overlap(need[group.rank], have[peer]) for peer in range(group.world_size)}
        ctx.group, ctx.shape, ctx.layout, ctx.start = group, x.shape, layout(x), mine.start
        ctx.lent, ctx.taken = lent, taken
        sends = {peer: part(x, rows, mine.start) for peer, rows in lent.items() if rows and peer != group.rank}
        batch, maps, _, width = x.shape
        arrived = {
            peer: x.new_empty(batch, maps, len(rows), width)
            for peer, rows in taken.items()
            if rows and peer != group.rank
        }
        group.exchange(sends, arrived, name="halo")
        pieces = {peer: rows.contiguous(memory_format=ctx.layout) for peer, rows in arrived.items()}
        pieces[group.rank] = part(x, taken[group.rank], mine.start)
        return torch.cat([pieces[peer] for peer in sorted(pieces)], dim=2)  # ranks have rows in the order of ranks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        group = ctx.group
        batch, maps, _, width = ctx.shape
        found = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.layout).zero_()
        sends, at = {}, 0
        for peer, rows in ctx.taken.items():
            piece = grad[:, :, at : at + len(rows)]
            at += len(rows)
            if peer == group.rank:
                part(found, rows, ctx.start).copy_(piece)
            elif rows:
                sends[peer] = piece
        arrived = {
            peer: grad.new_empty(batch, maps, len(rows), width)
            for peer, rows in ctx.lent.items()
            if rows and peer != group.rank
        }
        group.exchange(sends, arrived, name="halo, back")
        for peer, piece in arrived.items():
            part(found, ctx.lent[peer], ctx.start).add_(piece)
        return found, None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, have: Sequence[range]) -> Tensor:
        ctx.mine = have[group.rank]
        return group.all_gather(x, [len(rows) for rows in have], dim=2).contiguous(memory_format=layout(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        return grad[:, :, ctx.mine.start : ctx.mine.stop], None, None


def part(x: Tensor, rows: range, start: int) -> Tensor:
    """These rows of maps whose first row here is row `start`."""
    return x.narrow(2, rows.start - start if rows else 0, len(rows))


def layout(x: Tensor) -> torch.memory_format:
    """The order that the maps are kept in."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
