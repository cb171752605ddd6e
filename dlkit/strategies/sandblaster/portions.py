"""A batch in portions, which go to whoever is free: who has what, what counts, and what is given out twice."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Given:
    """A portion that is not done. workers: who have it, the first longest; when: they got it."""

    workers: list[int] = field(default_factory=list)
    when: float = 0.0


class PortionQueue:
    """The portions of one batch at one point. `take` gives a worker its next, `deliver` says whether a sum counts.

    backups: how many of the portions may be given out twice; these are the last ones that are not done, those first
    that a worker has had the longest. A worker sends the sum of a few portions at once, `together`, and at the end of
    each alone: a sum counts if none of its portions has been counted.
    """

    def __init__(self, portions: int, *, together: int = 1, backups: int = 0):
        self.portions, self.together, self.backups = portions, together, backups
        self._open: dict[int, Given] = {portion: Given() for portion in range(portions)}
        self._twice: set[int] = set()
        self.wasted = 0  # portions that were computed and did not count

    def __repr__(self) -> str:
        return f"PortionQueue({self.portions - len(self._open)} of {self.portions} done)"

    @property
    def done(self) -> bool:
        return not self._open

    @property
    def is_near_end(self) -> bool:
        """Has each portion been given out?"""
        return all(given.workers for given in self._open.values())

    def take(self, worker: int, now: float, kept: Sequence[int] = ()) -> int | None:
        """The next portion for a worker, which has computed `kept` and not sent them; None if there is none for it.

        One that it was given and says nothing of, it is given again: the answer was lost.
        """
        for portion, given in self._open.items():
            if worker in given.workers and portion not in kept:
                return portion
        for portion, given in self._open.items():
            if not given.workers:
                given.workers, given.when = [worker], now
                return portion
        late = [
            portion
            for portion, given in self._open.items()
            if worker not in given.workers and (portion in self._twice or len(self._twice) < self.backups)
            and len(given.workers) < 2
        ]  # fmt: skip
        if not late:
            return None
        portion = min(late, key=lambda each: self._open[each].when)
        self._twice.add(portion)
        self._open[portion].workers.append(worker)
        return portion

    def should_send(self, kept: int) -> bool:
        """Is it time for a worker that has computed so many portions to send their sum?"""
        return kept >= self.together or self.is_near_end

    def deliver(self, worker: int, portions: Sequence[int]) -> bool:
        """Whether the sum of these portions counts. What was only in a sum that does not is given out again."""
        if all(portion in self._open for portion in portions):
            for portion in portions:
                del self._open[portion]
            return True
        self.wasted += len(portions)
        self._give_up(worker, portions)
        return False

    def lose(self, worker: int) -> None:
        """A worker is no more: what it had is given out again."""
        self._give_up(worker, list(self._open))

    def _give_up(self, worker: int, portions: Sequence[int]) -> None:
        for portion in portions:
            given = self._open.get(portion)
            if given is not None and worker in given.workers:
                given.workers.remove(worker)
