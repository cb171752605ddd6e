"""The open task of notebook 07: a broadcast over two machines with a slow cable between them, played on paper."""

from collections.abc import Iterable, Iterator
from typing import Any

from dlkit.exercises import Answer, Hint, Points, given, task
from dlkit.exercises.answers import whole

Send = tuple[int, int, int]  # (from, to, piece)

RANKS, ON_A_MACHINE = 8, 4  # ranks 0 to 3 are on one machine, 4 to 7 on the other
SIZE = 1_000_000  # bytes that rank 0 has, and all are to have
INSIDE, CABLE = (10e-6, 500e6), (100e-6, 125e6)  # (seconds of latency, bytes a second)
MOST_PIECES = 100
LIMITS = (13, 11, 10)  # milliseconds; below each there are two points more


@task
def broadcast_plan(answer: Answer) -> Iterator[Points]:
    """`answer()`: (pieces, sends), into how many equal pieces the bytes are cut, and all sends (from, to, piece).

    Sends begin in the order of the list, each as soon as its sender has the piece, and its sender, its receiver and,
    from machine to machine, the cable are done with the sends before it.
    """
    pieces, sends = _plan(answer())
    arrivals, crossings = played(pieces, sends)
    for rank in range(RANKS):
        for piece in range(pieces):
            if (rank, piece) not in arrivals:
                raise Hint(f"At the end rank {rank} has no piece {piece}: all {RANKS} ranks need all {pieces} pieces.")
    megabytes, milliseconds = crossings / pieces * SIZE / 1e6, 1000 * max(arrivals.values())
    yield Points(2, 2, f"all ranks have all bytes, after {len(sends)} sends")
    yield Points(2 * (crossings == pieces), 2, f"no byte crosses the cable twice: {megabytes:.3g} MB of 1 MB cross it")
    for limit in LIMITS:
        yield Points(2 * (milliseconds < limit), 2, f"all is done in less than {limit} ms: it takes {milliseconds:.2f}")


def played(pieces: int, sends: Iterable[Send]) -> tuple[dict[tuple[int, int], float], int]:
    """When each (rank, piece) is there, in seconds, and how many sends crossed the cable.

    A rank sends one message at a time and receives one at a time, and may do both at once; the cable carries one.
    Raises Hint for a send of what its sender has not got.
    """
    arrivals = {(0, piece): 0.0 for piece in range(pieces)}
    sent, received, cable, crossings = [0.0] * RANKS, [0.0] * RANKS, 0.0, 0
    for number, (source, target, piece) in enumerate(sends):
        if (source, piece) not in arrivals:
            raise Hint(f"Send {number}: rank {source} has no piece {piece} to send; no send before it has brought one.")
        crosses = source // ON_A_MACHINE != target // ON_A_MACHINE
        latency, bandwidth = CABLE if crosses else INSIDE
        begin = max(arrivals[source, piece], sent[source], received[target], cable if crosses else 0.0)
        end = begin + latency + SIZE / pieces / bandwidth
        sent[source] = received[target] = end
        if crosses:
            cable, crossings = end, crossings + 1
        arrivals[target, piece] = min(end, arrivals.get((target, piece), end))
    return arrivals, crossings


def _plan(answer: Any) -> tuple[int, list[Send]]:
    """The answer, if it is a number of pieces and a list of sends of ranks and pieces there are. Raises Hint if not."""
    try:
        pieces, sends = given(answer)
        sends = [(source, target, piece) for source, target, piece in sends]
    except (TypeError, ValueError):
        raise Hint("Return (pieces, sends): a number, and a list of (from, to, piece), such as [(0, 1, 0)].") from None
    count = whole(pieces)
    if not 1 <= count <= MOST_PIECES:
        raise Hint(f"The bytes are cut into 1 to {MOST_PIECES} pieces, not {count}.")
    plan = [(whole(source), whole(target), whole(piece)) for source, target, piece in sends]
    for number, (source, target, piece) in enumerate(plan):
        if not (0 <= source < RANKS and 0 <= target < RANKS) or source == target:
            raise Hint(f"Send {number} goes from {source} to {target}: give two of the ranks 0 to {RANKS - 1}.")
        if not 0 <= piece < count:
            raise Hint(f"Send {number} is of piece {piece}: with {count} pieces there are 0 to {count - 1}.")
    return count, plan
