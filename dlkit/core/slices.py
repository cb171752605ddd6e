"""The rows (or units, or images) that one rank holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` (exclusive) of `whole` rows."""

    start: int
    stop: int
    whole: int

    @property
    def count(self) -> int:
        return self.stop - self.start


def slice_of(whole: int, rank: int, world_size: int) -> Slice:
    """The rows of rank `rank`. Slices are contiguous and differ by at most one row, the larger ones first."""
    smallest, remainder = divmod(whole, world_size)
    start = rank * smallest + min(rank, remainder)
    return Slice(start, start + smallest + (rank < remainder), whole)
