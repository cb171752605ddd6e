"""What ranks send for an array's exchanges, in bytes: each function gives the bill of one, for all ranks."""

from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from dlkit.distributed.arrays.tile_exchange import Trade
from dlkit.distributed.arrays.tiles import Tile, halos


class Bill(NamedTuple):
    """An exchange: its name, and what each rank sends, forward, and backward if a gradient goes back, not rounded.

    of_parameters: the names of the parameters that its value is computed of alone.
    """

    name: str
    forward: tuple[Fraction | int, ...]
    backward: tuple[Fraction | int, ...]
    of_parameters: frozenset[str] = frozenset()


def borrowed(x: Tensor, trade: Trade) -> Bill:
    """Tiles that others lack are lent, and their gradients come back. x: this rank's tile."""
    lent, borrowed = _lent_and_borrowed(_bytes_of_place(x, trade.own), trade)
    name = "rows borrowed" if len(trade.have.columns) == 1 else "borrowed"
    return Bill(name, lent, _if_needed(borrowed, x))


def returned(x: Tensor, trade: Trade) -> Bill:
    """The other way round: what was computed for places of others goes there. x: of all places that this rank needs."""
    lent, borrowed = _lent_and_borrowed(_bytes_of_place(x, trade.wanted), trade)
    return Bill("added to others'", borrowed, _if_needed(lent, x))


def gathered(x: Tensor, trade: Trade) -> Bill:
    """Each rank sends its tile, padded to the largest, to all others."""
    ranks = len(trade.have)
    sent = (ranks - 1) * max(tile.area for tile in trade.have) * _bytes_of_place(x, trade.own)
    return Bill("gathered", (sent,) * ranks, (0,) * ranks)


def cut(whole: Tensor, trade: Trade) -> Bill:
    """Of what all have each rank goes on with its tile: gradients are gathered."""
    ranks, area = len(trade.need), whole.shape[trade.dims[0]] * whole.shape[trade.dims[1]]
    sent = (ranks - 1) * max(tile.area for tile in trade.need) * (whole.nbytes // max(area, 1))
    return Bill("cut", (0,) * ranks, _if_needed((sent,) * ranks, whole))


def copied(value: Tensor, ranks: int, of_parameters: frozenset[str]) -> Bill:
    """What all have, for what each computes of its tile: gradients are summed."""
    sent = (_round_a_ring(value.nbytes, ranks),) * ranks
    return Bill("copied", (0,) * ranks, _if_needed(sent, value), of_parameters)


def summed(value: Tensor, ranks: int) -> Bill:
    """What all ranks have is summed."""
    return Bill("summed", (_round_a_ring(value.nbytes, ranks),) * ranks, (0,) * ranks)


def largest(found: Tensor, ranks: int) -> Bill:
    """Each rank's largest values are gathered."""
    return Bill("largest", ((ranks - 1) * found.nbytes,) * ranks, (0,) * ranks)


def statistics(forward: int, backward: int, x: Tensor, ranks: int) -> Bill:
    """Means and squared deviations are gathered, so many bytes a rank, and their gradients summed."""
    back = (_round_a_ring(backward, ranks),) * ranks
    return Bill("statistics", ((ranks - 1) * forward,) * ranks, _if_needed(back, x))


def _round_a_ring(size: int, ranks: int) -> Fraction:
    return Fraction(2 * size * (ranks - 1), ranks)


def _if_needed(sent: tuple[Fraction | int, ...], x: Tensor) -> tuple[Fraction | int, ...]:
    return sent if torch.is_grad_enabled() and x.requires_grad else (0,) * len(sent)


def _bytes_of_place(x: Tensor, tile: Tile) -> int:
    """Of all maps and images at one place; x: of those of a tile."""
    return x.nbytes // max(tile.area, 1)


def _lent_and_borrowed(place: int, trade: Trade) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes that each rank lends, and that it borrows, of so many at a place."""
    both = [halos(rank, trade.have, trade.need) for rank in range(len(trade.have))]
    lent, borrowed = (tuple(place * sum(tile.area for tile in each[way].values()) for each in both) for way in (0, 1))
    return lent, borrowed
