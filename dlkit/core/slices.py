"""Which of some rows one worker has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """The rows `start` to `stop` of `whole` that one worker has."""

    start: int
    stop: int
    whole: int

    @property
    def count(self) -> int:
        return self.stop - self.start


def part_of(whole: int, rank: int, ranks: int) -> Part:
    """The part of rank `rank`: neighbouring rows, in nearly equal parts, the larger ones first."""
    least, more = divmod(whole, ranks)
    start = rank * least + min(rank, more)
    return Part(start, start + least + (rank < more), whole)
