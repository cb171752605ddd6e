"""The exercises of notebook 08: an uneven batch, and who waits; `large_batches` has the other two."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, first_wrong, near, number, refuse_mistakes, seeded, shaped, tensor
from dlkit.exercises.eight_workers import plan
from dlkit.exercises.large_batches import learning_rate, smallest_batch

__all__ = ["learning_rate", "plan", "smallest_batch", "waits", "whole_gradient"]

Exchanges = list[list[tuple[float, float]]]  # for each rank, (begin, end) of each of its exchanges, in seconds
same_seconds = partial(near, rel=0, absolute=1e-6)


@exercise("each part counts by its images, and then no one can tell how the batch was split")
def whole_gradient(answer: Any) -> None:
    """`answer(gradients, counts)`: the mean gradient of a batch, from the mean gradients of its parts.

    `counts` has the number of images in each part.
    """
    g = seeded(1)
    for counts in ([8, 1, 7], [3, 9], [5, 5]):
        parts = [torch.randn(4, 3, generator=g) for _ in counts]
        right = weighted(parts, counts)
        gradient = tensor(answer([part.clone() for part in parts], list(counts)))
        if not close(gradient, right):
            _wrong_gradient(gradient, parts, counts, right)


def weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of the parts; the weights need not add up to 1."""
    return torch.stack([weight * part for part, weight in zip(parts, weights, strict=True)]).sum(0) / sum(weights)


def _wrong_gradient(gradient: Tensor, parts: list[Tensor], counts: list[int], right: Tensor) -> None:
    """Raise the hint for a gradient that is not `right`."""
    total, world_size = sum(counts), len(counts)
    refuse_mistakes(gradient, [(part, "That is one part's gradient: all parts count.") for part in parts])
    plain = weighted(parts, [1] * world_size)
    variants = [
        (plain, "That is the plain mean: an image of a small part then counts more than one of a large part."),
        (plain * world_size, "That is the plain sum: a batch twice as large would make a step twice as long."),
        (right * total, "That is the sum over all images: the batch's gradient is their *mean*."),
        (
            right * total / world_size,
            "Weighted rightly, then divided by the number of parts: how many images are there?",
        ),
        (weighted(parts, counts[::-1]), "The counts are the wrong way round: each part has its own."),
        (weighted(parts, [1 / n for n in counts]), "A part of *few* images counts little; yours counts more."),
        (plain * world_size / total, "Each part's gradient is already a mean: make it a sum over its images first."),
    ]
    refuse_mistakes(gradient, variants)
    shaped(gradient, tuple(right.shape), "like one part's gradient")
    raise Hint(
        f"For parts of {' and '.join(map(str, counts))} images the first number should be {right[0, 0]:.3f}; yours is "
        f"{gradient[0, 0]:.3f}. What does one image of a part weigh in the mean over all?"
    )


@exercise("whoever comes early waits for the last, and the sum over ranks is time that was paid for and not used")
def waits(answer: Any) -> None:
    """`answer(exchanges)`: the seconds that each rank waits.

    `exchanges[rank]` has (begin, end) of each of the rank's exchanges, in seconds; all ranks have the same exchanges.
    """
    cases: list[Exchanges] = [
        [[(0.5, 2.0), (3.0, 4.0)], [(0.75, 2.1), (2.25, 4.1)], [(1.75, 2.2), (2.5, 4.2)]],
        [[(1.0, 2.1), (3.5, 3.9), (5.0, 5.5)], [(2.0, 2.2), (3.0, 4.0), (5.25, 5.6)]],
        [[(1.0, 1.75)], [(1.5, 1.8)]],
    ]
    for exchanges in cases:
        seconds = _one_a_rank(answer([list(of_rank) for of_rank in exchanges]), len(exchanges))
        right = _waits(exchanges)
        if not same_seconds(seconds, right):
            _wrong_waits(seconds, exchanges, right)


def _waits(exchanges: Exchanges) -> list[float]:
    """The right answer: seconds from when a rank begins each exchange until the last rank begins it, added up."""
    starts = [
        max(begin for begin, _ in exchange) for exchange in zip(*exchanges, strict=True)
    ]  # the last rank is there
    return [sum(start - begin for start, (begin, _) in zip(starts, of_rank, strict=True)) for of_rank in exchanges]


def _wrong_waits(seconds: list[float], exchanges: Exchanges, right: list[float]) -> None:
    """Raise the hint for waits, in seconds, that are not `right`."""
    begins = [[begin for begin, _ in exchange] for exchange in zip(*exchanges, strict=True)]  # by exchange, then rank
    by_rank = list(zip(*begins, strict=True))
    latest = max(sum(of_rank) for of_rank in by_rank)
    whole = [sum(end - begin for begin, end in of_rank) for of_rank in exchanges]
    variants = [
        (whole, "That is all of each exchange: from when the last rank has come they *communicate*."),
        ([all_of_it - wait for all_of_it, wait in zip(whole, right, strict=True)],
         "That is how long they communicate, not how long they wait."),
        ([-wait for wait in right], "Minus that: from when the rank comes until the last one has come."),
        ([sum(begin - min(others) for begin, others in zip(of_rank, begins, strict=True)) for of_rank in by_rank],
         "That is how much later than the *first* each comes: who is first does the waiting."),
        ([max(begins[-1]) - of_rank[-1] for of_rank in by_rank], "That is the last exchange only: add all of them up."),
        ([max(begins[0]) - of_rank[0] for of_rank in by_rank], "That is the first exchange only: add all of them up."),
        ([max(max(others) - begin for begin, others in zip(of_rank, begins, strict=True)) for of_rank in by_rank],
         "That is each rank's longest wait: add all of them up."),
        ([wait / len(begins) for wait in right], "That is the mean wait of an exchange: add them up."),
        ([sum(right)] * len(right), "That is all ranks' waiting together: give each its own."),
        (right[::-1], "That is the other way round: who comes first waits."),
        ([latest - sum(of_rank) for of_rank in by_rank],
         "Each exchange has a last rank of its own: look for it exchange by exchange."),
    ]  # fmt: skip
    refuse_mistakes(seconds, variants, same_seconds)
    rank = first_wrong(seconds, right, same_seconds)
    raise Hint(
        f"For {exchanges} rank {rank} waits {right[rank]:g} s; yours says {seconds[rank]:g}. "
        "When has the last rank come to the first exchange? To the next?"
    )


def _one_a_rank(answer: Any, world_size: int) -> list[float]:
    """The answer, if it is a number for each rank. Raises Hint if not."""
    numbers = given(answer)
    if isinstance(numbers, Tensor):
        numbers = numbers.tolist()
    if not isinstance(numbers, Sequence) or isinstance(numbers, str):
        raise Hint(f"Return a list, with a number for each rank; yours is of type {type(answer).__name__}.")
    if len(numbers) != world_size:
        raise Hint(f"Here are {world_size} ranks, and your list has {len(numbers)} numbers.")
    return [number(value) for value in numbers]
