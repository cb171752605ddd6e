"""Rectangles of rows and columns, one for each rank of a grid: who has what, who needs what, and who sends it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dlkit.core.slices import slice_of

Ranges = tuple[range, ...]


class Tile(NamedTuple):
    """Rows and columns of one rank; it may have none."""

    rows: range
    columns: range

    @property
    def size(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)

    @property
    def area(self) -> int:
        return len(self.rows) * len(self.columns)

    def within(self, other: "Tile") -> "Tile":
        """This tile's place in another one, which holds it."""
        return Tile(*(moved(own, -whole.start) for own, whole in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Tiles:
    """Of a grid of ranks, row i of it has `rows[i]`, and column j of it `columns[j]`. Rank 0 is at the top left, rank 1
    to its right.

    They may overlap, as what ranks need does, and leave ranks nothing.
    """

    rows: Ranges
    columns: Ranges

    def of(self, rank: int) -> Tile:
        row, column = divmod(rank, len(self.columns))
        return Tile(self.rows[row], self.columns[column])

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Tile]:
        return (self.of(rank) for rank in range(len(self)))


def even_tiles(size: Sequence[int], grid: tuple[int, int]) -> Tiles:
    """Nearly equal rows and columns of an image of this size, the larger ones first."""
    return Tiles(*(even_parts(length, count) for length, count in zip(size, grid, strict=True)))


def even_parts(length: int, count: int) -> Ranges:
    slices = (slice_of(length, part, count) for part in range(count))
    return tuple(range(part.start, part.stop) for part in slices)


def overlap(first: range, second: range) -> range:
    """What is in both."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


def common(first: Tile, second: Tile) -> Tile:
    return Tile(*map(overlap, first, second))


def moved(part: range, by: int) -> range:
    return range(part.start + by, part.stop + by)


def is_local(have: Tiles, need: Tiles) -> bool:
    """Does no rank lack anything?"""
    return all(not wanted.area or common(wanted, own) == wanted for wanted, own in zip(need, have, strict=True))


def halos(rank: int, have: Tiles, need: Tiles) -> tuple[dict[int, Tile], dict[int, Tile]]:
    """What this rank lends to each other rank, and what it borrows from each: of tiles that do not overlap."""
    peers = [peer for peer in range(len(have)) if peer != rank]
    lent = {peer: tile for peer in peers if (tile := common(have.of(rank), need.of(peer))).area}
    borrowed = {peer: tile for peer in peers if (tile := common(need.of(rank), have.of(peer))).area}
    return lent, borrowed


class Window(NamedTuple):
    """Along one dimension output o of a layer sees `size` inputs, end to end, from o * stride - before on."""

    size: int
    stride: int = 1
    before: int = 0

    def seen(self, outputs: range) -> range:
        """The inputs that these outputs see; they may lie beside the image."""
        start = outputs.start * self.stride - self.before
        return range(start, start + (len(outputs) - 1) * self.stride + self.size) if outputs else range(0)


def seen_by(windows: Sequence[Window], outputs: Tiles, size: Sequence[int]) -> Tiles:
    """What of an image of this size each rank's outputs see."""
    parts = zip(windows, (outputs.rows, outputs.columns), size, strict=True)
    return Tiles(*(tuple(overlap(window.seen(own), range(length)) for own in each) for window, each, length in parts))
