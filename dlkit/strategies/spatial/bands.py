"""Bands of rows: which rows of a value each rank has, and on which dimension they are counted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dlkit.distributed.arrays.tiles import even_parts
from dlkit.strategies.graph.exchanges import Exchange, Layout
from dlkit.strategies.spatial.halo import GatherRows

Ranges = tuple[range, ...]  # one of each rank, in the order of ranks


@dataclass(frozen=True)
class Bands(Layout):
    """Rank r has rows `parts[r]`, a range, of dimension `dim`: of maps (batch, maps, rows, columns) that is 2.

    A rank may have none. Of a value that is several tensors it holds for each.
    """

    parts: Ranges

    def __post_init__(self):
        """Ranges stay ranges."""

    def gathering(self) -> Exchange:
        return GatherRows(self.dim, self.parts)

    def moved(self, dim: int) -> "Bands":
        return Bands(dim, self.parts)


def rows_of(height: int, world_size: int) -> Ranges:
    """The rows that each rank has, nearly equally many."""
    return even_parts(height, world_size)


def scaled(parts: Ranges, times: int) -> Ranges:
    """Of what has `times` rows for each row."""
    return tuple(range(times * rows.start, times * rows.stop) for rows in parts)


def hull(rows: Sequence[int]) -> range:
    """All rows from the lowest to the highest of these; those below 0 are none."""
    found = [row for row in rows if row >= 0]
    return range(min(found), max(found) + 1) if found else range(0)


def is_partition(parts: Ranges, height: int) -> bool:
    """Is each row in one of the parts, and they one after another?"""
    return [row for rows in parts for row in rows] == list(range(height))


def needed(parts: Ranges, of_rows: Callable[[range], Any]) -> Ranges:
    """The input rows that each rank's rows of the output see."""
    return tuple(of_rows(rows) if rows else range(0) for rows in parts)
