"""Which of some rows one worker has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """The rows `start` to `stop` of `whole` that one worker has."""

    start: int
    stop: int
    whole: int

    @property
    def count(self) -> int:
        return self.stop - self.start


def slice_of(whole: int, rank: int, world_size: int) -> Slice:
    """The part of rank `rank`: neighbouring rows, in nearly equal parts, the larger ones first."""
    least, more = divmod(whole, world_size)
    start = rank * least + min(rank, more)
    return Slice(start, start + least + (rank < more), whole)
