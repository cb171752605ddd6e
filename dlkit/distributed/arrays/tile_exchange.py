"""Tiles that other ranks have, exchanged under autograd: what is borrowed comes back as gradients, to be added."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlkit.distributed.arrays.tiles import Tile, Tiles, common, halos, is_local
from dlkit.distributed.group import Group


class Trade(NamedTuple):
    """What ranks have and need of a value whose rows and columns are these two dimensions."""

    group: Group
    have: Tiles
    need: Tiles
    dims: tuple[int, int]

    @property
    def own(self) -> Tile:
        return self.have.of(self.group.rank)

    @property
    def wanted(self) -> Tile:
        return self.need.of(self.group.rank)

    def everything(self, whole: Tensor) -> Tile:
        return Tile(range(whole.shape[self.dims[0]]), range(whole.shape[self.dims[1]]))

    def shape(self, like: Tensor, tile: Tile) -> tuple[int, ...]:
        """That of a tile of a value like this one."""
        shape = list(like.shape)
        for dim, length in zip(self.dims, tile.size, strict=True):
            shape[dim] = length
        return tuple(shape)

    def select(self, x: Tensor, tile: Tile, whole: Tile) -> Tensor:
        """A tile of a larger one."""
        for dim, part in zip(self.dims, tile.within(whole), strict=True):
            x = x.narrow(dim, part.start if part else 0, len(part))
        return x


def exchange_tiles(x: Tensor, trade: Trade) -> Tensor:
    """The tile that this rank needs, of which each rank has its own. Where no rank lacks anything, nothing is sent.

    A rank sends rows x columns x maps x batch numbers: those of the tiles that it lends forward, and the gradients of
    those that it borrows backward.
    """
    if is_local(trade.have, trade.need):
        if not trade.wanted.area:
            return x.flatten()[:0].view(trade.shape(x, trade.wanted))
        return trade.select(x, trade.wanted, trade.own)
    return _Exchange.apply(x, trade)


def return_tiles(x: Tensor, trade: Trade) -> Tensor:
    """The transpose of `exchange_tiles`: to each place that this rank has, the sum of what all that need it give."""
    return _Return.apply(x, trade)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, trade: Trade) -> Tensor:
        ctx.trade = trade
        return start_borrowing(x, trade)()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _Return.apply(grad_outputs[0], ctx.trade), None


class _Return(torch.autograd.Function):
    """The transpose of `_Exchange`."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, trade: Trade) -> Tensor:
        ctx.trade = trade
        return start_returning(grad, trade)()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _Exchange.apply(grad_outputs[0], ctx.trade), None


class Borrowing:
    """An exchange of tiles that goes on while something else is computed, forward and backward.

    `begin` gives this rank's tile, of which that is computed, and a function that waits and gives all that the rank
    needs. Backward, the gradients of what was borrowed are on their way back while those of the tile are computed.
    """

    def __init__(self, trade: Trade):
        self.trade = trade
        self.wait: Callable[[], Tensor] | None = None  # for what has been begun last

    def __repr__(self) -> str:
        return f"Borrowing(rank {self.trade.group.rank})"

    @classmethod
    def begin(cls, x: Tensor, trade: Trade) -> tuple[Tensor, Callable[[], Tensor]]:
        own = cls(trade)
        mine = _Begin.apply(x, own)
        return mine, lambda: _Finish.apply(mine, own)

    def ended(self) -> Tensor:
        assert self.wait is not None
        wait, self.wait = self.wait, None
        return wait()


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, borrowing: Borrowing) -> Tensor:
        ctx.borrowing = borrowing
        borrowing.wait = start_borrowing(x, borrowing.trade)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grad_outputs[0] + ctx.borrowing.ended(), None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor, borrowing: Borrowing) -> Tensor:
        ctx.borrowing = borrowing
        return borrowing.ended()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        if torch.is_grad_enabled():
            raise RuntimeError("exchanges that overlap give no gradient of a gradient: use Grid(..., overlaps=False).")
        ctx.borrowing.wait = start_returning(grad_outputs[0], ctx.borrowing.trade)
        return None, None  # `_Begin` waits for what comes back, and adds it


class Tied(torch.autograd.Function):
    """A value, and another one that it does not need, but whose backward pass others wait for: it is given zeros."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:
        ctx.like = other
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grad_outputs[0], torch.zeros_like(ctx.like)


def start_borrowing(x: Tensor, trade: Trade) -> Callable[[], Tensor]:
    """Start to send what others need; the function returned waits, and gives the tile that this rank needs."""
    own, wanted = trade.own, trade.wanted
    lent, borrowed = halos(trade.group.rank, trade.have, trade.need)
    arrived = {peer: x.new_empty(trade.shape(x, tile)) for peer, tile in borrowed.items()}
    sends = {peer: trade.select(x, tile, own) for peer, tile in lent.items()}
    wait = trade.group.start_exchange(sends, arrived, name="halo")

    def result() -> Tensor:
        wait()
        found = new_like(x, trade.shape(x, wanted))
        pieces = {trade.group.rank: common(own, wanted), **borrowed}
        for peer, tile in pieces.items():
            if tile.area:
                piece = trade.select(x, tile, own) if peer == trade.group.rank else arrived[peer]
                trade.select(found, tile, wanted).copy_(piece)
        return found

    return result


def start_returning(grad: Tensor, trade: Trade) -> Callable[[], Tensor]:
    """Start to send the gradients of what was borrowed back; the function returned gives those of this rank's tile."""
    own, wanted = trade.own, trade.wanted
    lent, borrowed = halos(trade.group.rank, trade.have, trade.need)
    arrived = {peer: grad.new_empty(trade.shape(grad, tile)) for peer, tile in lent.items()}
    sends = {peer: trade.select(grad, tile, wanted) for peer, tile in borrowed.items()}
    wait = trade.group.start_exchange(sends, arrived, name="halo, back")

    def result() -> Tensor:
        summed = new_like(grad, trade.shape(grad, own)).zero_()
        both = common(own, wanted)
        if both.area:
            trade.select(summed, both, own).copy_(trade.select(grad, both, wanted))
        wait()
        for peer, tile in lent.items():
            trade.select(summed, tile, own).add_(arrived[peer])
        return summed

    return result


def new_like(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An empty tensor whose values are in the order of x."""
    is_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    order = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)


def gather_tiles(x: Tensor, trade: Trade) -> Tensor:
    """All tiles on every rank, which go on to compute the same with them: each takes its own tile's gradient, unsummed.

    A rank sends its tile, padded to the largest, to all others.
    """
    return _Gather.apply(x, trade)


def cut_tile(whole: Tensor, trade: Trade) -> Tensor:
    """This rank's tile of what all ranks have alike. Backward all ranks' gradients are gathered."""
    if torch.is_grad_enabled() and whole.requires_grad:
        return _Cut.apply(whole, trade)
    return trade.select(whole, trade.own, trade.everything(whole)).clone()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, trade: Trade) -> Tensor:
        ctx.trade = trade
        return gathered(x, trade)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _Cut.apply(grad_outputs[0], ctx.trade), None


class _Cut(torch.autograd.Function):
    """The transpose of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, trade: Trade) -> Tensor:
        ctx.trade = trade
        return trade.select(whole, trade.own, trade.everything(whole)).clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return _Gather.apply(grad_outputs[0], ctx.trade), None


def gathered(x: Tensor, trade: Trade) -> Tensor:
    if len(trade.have) == 1:
        return x.clone()
    sizes = [prod(trade.shape(x, tile)) for tile in trade.have]
    flat = trade.group.all_gather(x.contiguous().flatten(), sizes)
    length = [sum(map(len, parts)) for parts in (trade.have.rows, trade.have.columns)]
    everything = Tile(*map(range, length))
    whole = new_like(x, trade.shape(x, everything))
    for tile, values in zip(trade.have, flat.split(sizes), strict=True):
        if tile.area:
            trade.select(whole, tile, everything).copy_(values.view(trade.shape(x, tile)))
    return whole
