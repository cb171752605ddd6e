"""The exercises of notebook 07: what a message costs, how a ring hands chunks round, what it sends, and a broadcast.

`slow_cable` has the open task.
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import ceil, log2
from typing import Any

from dlkit.exercises import Answer, Hint, exercise, given
from dlkit.exercises.answers import first_wrong, near, number, numbers, refuse_mistakes, whole
from dlkit.exercises.slow_cable import broadcast_plan

__all__ = ["broadcast", "broadcast_plan", "bytes_sent", "hand_round", "latency_and_bandwidth"]

Message = tuple[int, float]  # (bytes, seconds)
same = partial(near, rel=1e-3)


@exercise(
    "the larger message costs its extra bytes; what is left of the smaller one is latency",
    deeper="By hand: 100 bytes take 3 s and 500 bytes take 5 s. The 400 bytes more took 2 s more, which is 200 bytes a "
    "second; so the first 100 bytes took half a second, and the other 2.5 s are latency.",
)
def latency_and_bandwidth(answer: Answer) -> None:
    """`answer(small, large)`: (latency in seconds, bandwidth in bytes a second) of two messages (bytes, seconds)."""
    cases = [
        (5e-5, 1.25e8, 20_000, 1_000_000),
        (1e-3, 2e9, 20_000, 1_000_000),
        (2e-6, 4e8, 1_000, 64_000),
        (0.25, 3e6, 1, 12_345_678),
    ]
    for latency, bandwidth, *sizes in cases:
        small, large = ((size, latency + size / bandwidth) for size in sizes)
        fit = tuple(numbers(answer(small, large), 2, "(latency, bandwidth)"))
        if same(fit, (latency, bandwidth)):
            continue
        refuse_mistakes(fit, _wrong_fits(small, large, latency, bandwidth), same)
        if same(fit[1:], (bandwidth,)):
            raise Hint("The bandwidth is right. The small message took latency + size / bandwidth: what is left of it?")
        if same(fit[:1], (latency,)):
            raise Hint("The latency is right. The bandwidth is in bytes a second: extra bytes over extra seconds.")
        raise Hint(
            f"For {small[0]:,} bytes in {small[1]:.3g} s and {large[0]:,} bytes in {large[1]:.3g} s it should be "
            f"({latency:.3g}, {bandwidth:.3g}); yours is ({fit[0]:.3g}, {fit[1]:.3g}). Two equations, two unknowns."
        )


def _wrong_fits(small: Message, large: Message, latency: float, bandwidth: float) -> list[tuple[Any, str]]:
    """The usual wrong pairs (latency, bandwidth), with their hints."""
    naive = large[0] / large[1]  # bytes a second, as if there were no latency
    not_free = "Neither message is free of the other part: each took latency + size / bandwidth."
    return [
        ((bandwidth, latency), "The two are swapped: latency first."),
        ((1 / bandwidth, latency), "The two are swapped: latency first. And bandwidth is bytes a second."),
        ((latency, 1 / bandwidth), "The second is in seconds a byte: bandwidth is bytes a second."),
        ((1e6 * latency, bandwidth), "The latency is in microseconds: give it in seconds."),
        ((latency, bandwidth / 1e6), "The bandwidth is in MB/s: give it in bytes a second."),
        ((latency, 8 * bandwidth), "The bandwidth is in bits a second: give it in bytes a second."),
        ((small[1], bandwidth), "The bandwidth is right, but the small message's time is not all latency."),
        ((large[1], bandwidth), "The bandwidth is right, but the large message's time is not all latency."),
        ((small[1], naive), not_free),
        ((small[1], small[0] / small[1]), not_free),
        ((latency, naive), "The large message waited for the latency too: take only what it cost *more*."),
        ((small[1] - small[0] / naive, naive), "The large message waited for the latency too: compare the two."),
        (
            (0.0, naive),
            "That leaves no latency. But a byte of the small message takes longer than one of the large message: why?",
        ),
    ]


@exercise(
    "each rank passes on what it has just been given, and after n-1 steps all ranks have all chunks",
    deeper="Three ranks. Before step 0, rank 0 has chunk 1, rank 1 has chunk 2 and rank 2 has chunk 0. Each sends that "
    "one. Now rank 1 has chunks 1 and 2: at step 1 it sends the one that has just come, chunk 1. Number the others.",
)
def hand_round(answer: Answer) -> None:
    """`answer(rank, step, world_size)`: the number of the chunk that a rank sends to the right in a step of the ring.

    The steps are 0 to world_size - 2. Before the first, rank r has the whole sum of chunk (r + 1) % world_size only.
    """
    for world_size in (2, 3, 5, 8):
        finished = [{(rank + 1) % world_size} for rank in range(world_size)]
        for step in range(world_size - 1):
            sent = [_chunk(answer(rank, step, world_size), rank, step, world_size) for rank in range(world_size)]
            at = f"With {world_size} ranks, at step {step},"
            for rank, chunk in enumerate(sent):
                if chunk not in finished[rank]:
                    raise Hint(f"{at} rank {rank} sends chunk {chunk}, {_why_not(step, chunk, rank)}")
            for rank, chunk in enumerate(sent):
                right = (rank + 1) % world_size
                if chunk in finished[right]:
                    raise Hint(f"{at} rank {rank} sends chunk {chunk}, which rank {right} already has: a step is lost.")
            for rank, chunk in enumerate(sent):
                finished[(rank + 1) % world_size].add(chunk)


def _chunk(answer: Any, rank: int, step: int, world_size: int) -> int:
    """The answer, if it is the number of a chunk. Raises Hint if not."""
    chunk = number(answer)
    if chunk % 1 != 0:
        raise Hint(f"Return the number of a chunk; yours is {chunk:.4g}.")
    if not 0 <= chunk < world_size:
        raise Hint(
            f"Rank {rank} of {world_size}, step {step}: there are chunks 0 to {world_size - 1}, yours is {chunk:.0f}: "
            "`% world_size` starts again at 0."
        )
    return int(chunk)


def _why_not(step: int, chunk: int, rank: int) -> str:
    """Why the rank cannot send this chunk yet: the end of a sentence."""
    if step == 0:
        own = "its own number" if chunk == rank else "not finished there"
        return f"which is {own}: at first rank r has the whole sum of chunk (r + 1) % world_size, and of no other."
    return "whose sum it has not been given yet: what came from the left in the step before?"


@exercise(
    "nearly twice the tensor, and hardly more for a thousand ranks than for ten",
    deeper="Four ranks and 100 bytes: a chunk has 25 bytes. The first phase has three steps, so a rank sends 3 * 25 "
    "bytes in it, and as many in the second: 150 in all. Where do the 4 and the 3 stand in your formula?",
)
def bytes_sent(answer: Answer) -> None:
    """`answer(size, world_size)`: bytes that each rank sends in a ring all-reduce of a tensor of `size` bytes."""
    cases = [(6_000_000, 2), (6_000_000, 3), (8_000, 8), (1_000, 1), (1_000, 7), (4_000, 1_000), (10, 64)]
    sizes = [number(answer(size, world_size)) for size, world_size in cases]
    right = [2 * (world_size - 1) * size / world_size for size, world_size in cases]
    if same(sizes, right):
        return
    mistakes: list[tuple[Callable[[int, int], float], str]] = [
        (lambda s, n: (n - 1) * s / n, "That is one phase. After the sums are there, they still have to go round."),
        (
            lambda s, n: 2 * (n - 1) * s,
            "That is what all ranks send together. Or is each send of yours the whole tensor? It is a chunk, the n-th "
            "part.",
        ),
        (lambda s, n: 2 * s, "Nearly: in each phase there is one step fewer than there are ranks."),
        (lambda s, n: s, "That is right for two ranks. With more, a chunk is smaller and there are more steps."),
        (lambda s, n: (n - 1) * s, "That is rank 0 sending all to all. In a ring each send is a chunk."),
        (lambda s, n: 2 * (n - 1), "That is how many sends there are: how many bytes has each?"),
        (lambda s, n: s / n, "That is one chunk: how many of them does a rank send?"),
        (lambda s, n: 2 * s / n, "That is one send in each phase: how many steps has a phase?"),
        (lambda s, n: 2 * (n - 1) * s / n / 4, "Those are numbers of four bytes: `size` is in bytes already."),
    ]
    refuse_mistakes(sizes, [([mistake(*case) for case in cases], hint) for mistake, hint in mistakes], same)
    rounded = [
        (lambda s, n: 2 * (n - 1) * (s // n)),
        (lambda s, n: 2 * (n - 1) * ceil(s / n)),
        (lambda s, n: 2 * (n - 1) * s // n),
        (lambda s, n: round(2 * (n - 1) * s / n)),
        (lambda s, n: 2 * (n - 1) * round(s / n)),
    ]
    i = first_wrong(sizes, right, same)
    size, world_size = cases[i]
    if any(same(sizes, [formula(*case) for case in cases]) for formula in rounded):
        raise Hint(
            f"Right where the chunks come out even. {size:,} bytes in {world_size} chunks are {size / world_size:.4g} "
            "bytes each on average: do not round."
        )
    raise Hint(
        f"For {size:,} bytes and {world_size} rank{'s' * (world_size > 1)} it is {right[i]:,.10g}; yours is "
        f"{sizes[i]:,.10g}. Two phases: how many sends in each, and how large is a chunk?"
    )


@exercise(
    "who has it sends it on, so twice as many have it after each round: log2 n rounds, not n-1",
    deeper="Four ranks. Round 0: rank 0 sends to rank 1. Now two have it, and both can send: in round 1 rank 0 sends "
    "to rank 2, and rank 1 to rank 3. Eight ranks: who sends to whom in round 2? And with six, who sends nothing then?",
)
def broadcast(answer: Answer) -> None:
    """`answer(world_size)`: the fewest rounds after which all ranks have what rank 0 had.

    A round is a list of sends (from, to), in ranks. No rank is sent what it has.
    """
    for world_size in (1, 2, 4, 8, 6, 3, 33):
        rounds = _rounds(answer(world_size))
        have = {0}
        for count, sends in enumerate(rounds):
            at = f"For {world_size} ranks, in round {count},"
            sources, targets = [source for source, _ in sends], [target for _, target in sends]
            for source, target in sends:
                if not 0 <= target < world_size or not 0 <= source < world_size:
                    raise Hint(f"{at} {source} sends to {target}: there are ranks 0 to {world_size - 1} only.")
                if source not in have:
                    raise Hint(f"{at} rank {source} sends what it has not got yet: it gets it in this round, or later.")
                if target in have or targets.count(target) > 1:
                    raise Hint(
                        f"{at} rank {target} is sent what it has, or is sent it twice: send to one that has not."
                    )
                if sources.count(source) > 1:
                    raise Hint(f"{at} rank {source} sends twice: a round is one send for each rank that has it.")
            have |= set(targets)
        if lacking := set(range(world_size)) - have:
            raise Hint(f"For {world_size} ranks, rank {min(lacking)} has nothing at the end.")
        least = ceil(log2(world_size))
        if len(rounds) > least:
            raise Hint(
                f"All have it, but {world_size} ranks took {len(rounds)} rounds, and {least} are enough: those who "
                "have it need not stand idle."
            )


def _rounds(answer: Any) -> list[list[tuple[int, int]]]:
    """The answer, if it is a list of lists of pairs of ranks; empty rounds are left out. Raises Hint if not."""
    if not isinstance(given(answer), Iterable):
        raise Hint(f"Return a list of rounds; yours is of type {type(answer).__name__}.")
    try:
        rounds = [[(whole(source), whole(target)) for source, target in sends] for sends in answer]
    except (TypeError, ValueError):
        raise Hint("Return a list of rounds, each a list of pairs (from, to): [[(0, 1)], ...].") from None
    return [sends for sends in rounds if sends]
