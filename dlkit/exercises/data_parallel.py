"""The exercises of notebook 08: an uneven batch, and who waits; `large_batches` has the other two."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import close, first_wrong, floats, near, numbers, refuse_mistakes, seeded, shaped
from dlkit.exercises.eight_workers import plan
from dlkit.exercises.large_batches import learning_rate, smallest_batch

__all__ = ["learning_rate", "plan", "smallest_batch", "waits", "whole_gradient"]

Exchanges = list[list[tuple[float, float]]]  # for each rank, (begin, end) of each of its exchanges, in seconds
same_seconds = partial(near, rel=0, absolute=1e-5)


@exercise(
    "each part counts by its images, and then no one can tell how the batch was split",
    deeper="Two images with the mean 4 and one image with 1: the mean of the three is (4 + 4 + 1) / 3 = 3. How do you "
    "get 3 from the means 4 and 1 and the counts 2 and 1?",
)
def whole_gradient(answer: Answer) -> None:
    """`answer(gradients, counts)`: the mean gradient of a batch, from the mean gradients of its parts.

    `counts` has the number of images in each part.
    """
    g = seeded(1)
    for counts, shape in (
        ([8, 1, 7], (4, 3)),
        ([3, 9], (5,)),
        ([5, 5], (2, 3, 2)),
        ([6], (3, 1)),
        ([2, 4, 1, 5, 3], (7,)),
    ):
        parts = [torch.randn(shape, generator=g) for _ in counts]
        right = weighted(parts, counts)
        gradient = floats(answer(parts, counts))
        if not close(gradient, right):
            _wrong_gradient(gradient, parts, counts, right)


def weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of the parts; the weights need not add up to 1."""
    return torch.stack([weight * part for part, weight in zip(parts, weights, strict=True)]).sum(0) / sum(weights)


def _wrong_gradient(gradient: Tensor, parts: list[Tensor], counts: list[int], right: Tensor) -> None:
    """Raise the hint for a gradient that is not `right`."""
    total, world_size = sum(counts), len(counts)
    if len(parts) > 1:
        refuse_mistakes(gradient, [(part, "That is one part's gradient: all parts count.") for part in parts])
    refuse_mistakes(gradient, [(0 * right, "That is 0 everywhere: does `//` cut a fraction off?")])
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
        f"For parts of {' and '.join(map(str, counts))} images the first number should be {right.flatten()[0]:.3f}; "
        f"yours is {gradient.flatten()[0]:.3f}. What does one image of a part weigh in the mean over all?"
    )


@exercise(
    "whoever comes early waits for the last, and the sum over ranks is time that was paid for and not used",
    deeper="One exchange of two ranks: rank 0 begins it at 1.0 s, rank 1 at 1.5 s, and both end it at 1.8 s. Rank 0 "
    "waits 0.5 s, rank 1 does not wait. Which two of the times give 0.5?",
)
def waits(answer: Answer) -> None:
    """`answer(exchanges)`: the seconds that each rank waits.

    `exchanges[rank]` has (begin, end) of each of the rank's exchanges, in seconds; all ranks have the same exchanges.
    """
    cases: list[Exchanges] = [
        [[(0.5, 2.0), (3.0, 4.0)], [(0.75, 2.1), (2.25, 4.1)], [(1.75, 2.2), (2.5, 4.2)]],
        [[(1.0, 2.1), (3.5, 3.9), (5.0, 5.5)], [(2.0, 2.2), (3.0, 4.0), (5.25, 5.6)]],
        [[(1.0, 1.75)], [(1.5, 1.8)]],
        [[(rank * rank % 5 / 4, 2.0), (3 + rank * 3 % 5 / 8, 4.0)] for rank in range(5)],
        [[(0.5, 0.75), (1.0, 1.25)]],
    ]
    for exchanges in cases:
        seconds = _one_a_rank(answer(exchanges), exchanges)
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
        ([max(map(max, begins)) * len(begins) - sum(of_rank) for of_rank in by_rank],
         "That is until the very last begin of all: each exchange moves data when *its* last rank has come."),
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


def _one_a_rank(answer: object, exchanges: Exchanges) -> list[float]:
    """The answer, if it is a number for each rank. Raises Hint if not."""
    if isinstance(answer, Sequence) and len(answer) == len(exchanges[0]) != len(exchanges):
        raise Hint(
            f"Yours has {len(answer)} numbers: {len(exchanges)} ranks have {len(exchanges[0])} exchanges each here, "
            "and a number for each *rank* is wanted."
        )
    return numbers(answer, len(exchanges), "the seconds that each rank waits")
