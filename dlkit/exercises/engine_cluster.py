"""The exercises of notebook 07: what a message costs, how a ring hands chunks round, what it sends, and a broadcast."""

from collections.abc import Callable, Iterable, Sequence
from math import ceil, isclose, log2
from typing import Any

from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import number

Message = tuple[int, float]  # (bytes, seconds)


@exercise("the larger message costs its extra bytes; what is left of the smaller one is latency")
def latency_and_bandwidth(answer: Any) -> None:
    """`answer(small, large)`: (latency in seconds, bandwidth in bytes a second) of two messages (bytes, seconds)."""
    for latency, bandwidth in ((5e-5, 1.25e8), (1e-3, 2e9), (2e-6, 4e8)):
        small, large = ((size, latency + size / bandwidth) for size in (20_000, 1_000_000))
        found = _pair(answer(small, large))
        if _near(found, (latency, bandwidth)):
            continue
        for mistake, hint in _wrong_fits(small, large, latency, bandwidth):
            if _near(found, mistake):
                raise Hint(hint)
        if isclose(found[1], bandwidth, rel_tol=1e-3):
            raise Hint("The bandwidth is right. The small message took latency + size / bandwidth: what is left of it?")
        if isclose(found[0], latency, rel_tol=1e-3):
            raise Hint("The latency is right. The bandwidth is in bytes a second: extra bytes over extra seconds.")
        raise Hint(
            f"For {small[0]:,} bytes in {small[1]:.3g} s and {large[0]:,} bytes in {large[1]:.3g} s it should be "
            f"({latency:.3g}, {bandwidth:.3g}); yours is ({found[0]:.3g}, {found[1]:.3g}). Two equations, two unknowns."
        )


def _wrong_fits(small: Message, large: Message, latency: float, bandwidth: float) -> list[tuple[Any, str]]:
    naive = large[0] / large[1]
    return [
        ((bandwidth, latency), "The two are swapped: latency first."),
        ((latency, 1 / bandwidth), "The second is in seconds a byte: bandwidth is bytes a second."),
        ((small[1], bandwidth), "The bandwidth is right, but the small message's time is not all latency."),
        ((large[1], bandwidth), "The bandwidth is right, but the large message's time is not all latency."),
        ((small[1], naive), "Neither message is free of the other part: each took latency + size / bandwidth."),
        ((latency, naive), "The large message waited for the latency too: take only what it cost *more*."),
        ((small[1] - small[0] / naive, naive), "The large message waited for the latency too: compare the two."),
        ((0.0, naive), "That leaves no latency: the two messages differ in time by less than in size."),
    ]


def _pair(found: Any) -> tuple[float, float]:
    """The answer, if it is two numbers."""
    try:
        one, other = given(found)
    except (TypeError, ValueError):
        raise Hint(f"Return two numbers, (latency, bandwidth); yours is {found!r:.40}.") from None
    return number(one), number(other)


def _near(found: Sequence[float], right: Sequence[float]) -> bool:
    return all(isclose(x, y, rel_tol=1e-3, abs_tol=1e-12) for x, y in zip(found, right, strict=True))


@exercise("each rank passes on what it has just been given, and after n-1 steps all have all")
def hand_round(answer: Any) -> None:
    """`answer(rank, step, ranks)`: the chunk that a rank sends to the right in this step, of steps 0 to ranks - 2.

    At first rank r has the sum of chunk (r + 1) % ranks alone.
    """
    for ranks in (2, 3, 5):
        finished = [{(rank + 1) % ranks} for rank in range(ranks)]
        for step in range(ranks - 1):
            sent = [_chunk(answer(rank, step, ranks), rank, step, ranks) for rank in range(ranks)]
            at = f"With {ranks} ranks, at step {step},"
            for rank, chunk in enumerate(sent):
                if chunk not in finished[rank]:
                    raise Hint(f"{at} rank {rank} sends chunk {chunk}, {_why_not(step, chunk, rank)}")
            for rank, chunk in enumerate(sent):
                right = (rank + 1) % ranks
                if chunk in finished[right]:
                    raise Hint(f"{at} rank {rank} sends chunk {chunk}, which rank {right} already has: a step is lost.")
            for rank, chunk in enumerate(sent):
                finished[(rank + 1) % ranks].add(chunk)


def _chunk(found: Any, rank: int, step: int, ranks: int) -> int:
    """The answer, if it is the number of a chunk."""
    value = number(found)
    if value % 1 != 0:
        raise Hint(f"Return the number of a chunk; yours is {value:.4g}.")
    if not 0 <= value < ranks:
        raise Hint(
            f"Rank {rank} of {ranks}, step {step}: there are chunks 0 to {ranks - 1}, yours is {value:.0f}: `%`."
        )
    return int(value)


def _why_not(step: int, chunk: int, rank: int) -> str:
    if step == 0:
        own = "its own number" if chunk == rank else "not finished there"
        return f"which is {own}: at first rank r has the whole sum of chunk (r + 1) % ranks, and of no other."
    return "whose sum it has not been given yet: what came from the left in the step before?"


@exercise("nearly twice the tensor, and hardly more for a thousand ranks than for ten")
def bytes_sent(answer: Any) -> None:
    """`answer(size, ranks)`: bytes that each rank sends in a ring all-reduce of a tensor of `size` bytes."""
    cases = [(6_000_000, 2), (6_000_000, 3), (8_000, 8), (1_000, 1)]
    found = [number(answer(size, ranks)) for size, ranks in cases]
    right = [2 * (ranks - 1) * size / ranks for size, ranks in cases]
    if _near(found, right):
        return
    mistakes: list[tuple[Callable[[int, int], float], str]] = [
        (lambda s, n: (n - 1) * s / n, "That is one phase. After the sums are there, they still have to go round."),
        (lambda s, n: 2 * (n - 1) * s, "Each send is a chunk, the n-th part of the tensor, not the whole of it."),
        (lambda s, n: 2 * s, "Nearly: in each phase there is one step fewer than there are ranks."),
        (lambda s, n: (n - 1) * s, "That is rank 0 sending all to all. In a ring each send is a chunk."),
        (lambda s, n: 2 * (n - 1), "That is how many sends there are: how many bytes has each?"),
        (lambda s, n: 2 * s / n, "That is one send in each phase: how many steps has a phase?"),
    ]
    for mistake, hint in mistakes:
        if _near(found, [mistake(size, ranks) for size, ranks in cases]):
            raise Hint(hint)
    place = next(i for i in range(len(cases)) if not isclose(found[i], right[i], rel_tol=1e-3, abs_tol=1e-12))
    size, ranks = cases[place]
    raise Hint(
        f"For {size:,} bytes and {ranks} rank{'s' * (ranks > 1)} it is {right[place]:,.0f}; yours is "
        f"{found[place]:,.0f}. Two phases: how many sends in each, and how large is a chunk?"
    )


@exercise("who has it sends it on, so twice as many have it after each round: log2 n rounds, not n-1")
def broadcast(answer: Any) -> None:
    """`answer(ranks)`: rounds, lists of (from, to), after which all have what rank 0 had; as few as there can be."""
    for ranks in (1, 2, 4, 8, 6):
        rounds = _rounds(answer(ranks))
        have = {0}
        for count, sends in enumerate(rounds):
            at = f"For {ranks} ranks, in round {count},"
            sources, targets = [source for source, _ in sends], [target for _, target in sends]
            for source, target in sends:
                if not 0 <= target < ranks or not 0 <= source < ranks:
                    raise Hint(f"{at} {source} sends to {target}: there are ranks 0 to {ranks - 1} only.")
                if source not in have:
                    raise Hint(
                        f"{at} rank {source} sends what it has not got yet: what comes in a round is there after it."
                    )
                if target in have or targets.count(target) > 1:
                    raise Hint(
                        f"{at} rank {target} is sent what it has, or is sent it twice: send to one that has not."
                    )
                if sources.count(source) > 1:
                    raise Hint(f"{at} rank {source} sends twice: a round is one send for each rank that has it.")
            have |= set(targets)
        if lacking := set(range(ranks)) - have:
            raise Hint(f"For {ranks} ranks, rank {min(lacking)} has nothing at the end.")
        least = ceil(log2(ranks))
        if len(rounds) > least:
            raise Hint(
                f"All have it, but {ranks} ranks took {len(rounds)} rounds, and {least} are enough: those who have it "
                "need not stand idle."
            )


def _rounds(found: Any) -> list[list[tuple[int, int]]]:
    """The answer, if it is a list of lists of pairs of ranks."""
    if not isinstance(given(found), Iterable):
        raise Hint(f"Return a list of rounds; yours is of type {type(found).__name__}.")
    try:
        rounds = [[(int(source), int(target)) for source, target in sends] for sends in found]
    except (TypeError, ValueError):
        raise Hint("Return a list of rounds, each a list of pairs (from, to): [[(0, 1)], ...].") from None
    return [sends for sends in rounds if sends]
