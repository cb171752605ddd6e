"""An exercise of notebook 10: the statistics of a batch out of those of its parts, without a loss of digits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlkit.exercises import Answer, Hint, exercise, given
from dlkit.exercises.answers import close, kind, listed, refuse_mistakes, seeded, shaped, whole


class Part(NamedTuple):
    """Count, mean (maps,) and variance (maps,) of the values of each map, in a part of a batch."""

    count: int
    mean: Tensor
    variance: Tensor


@exercise(
    "means differ little, and their squares are large: take the difference first, and square it then",
    deeper="One map: a part of 1 value with mean 0 and variance 0, one of 3 values with mean 4 and variance 2. The "
    "whole: 4 values, mean (0 + 12) / 4 = 3. How far is a value of the second part from 3, squared and on average? "
    "2 around the part's own mean 4, and (4 - 3) squared on top. Now the first part's value, and both by their counts.",
)
def combined(answer: Answer) -> None:
    """`answer(parts)`: (count, mean, variance) of the whole, from a list of those of its parts.

    Mean and variance have a number for each map; a variance is divided by the count, as BatchNorm's.
    """
    easy = [_parts(counts, 0.5, 1.5, seed) for seed, counts in enumerate([(5, 2, 9), (8, 8), (1, 6), (4,), (3,) * 7])]
    for parts in easy:
        _check_easy(_three(answer([tuple(part) for part in parts]), 3), parts)
    for seed, counts in enumerate([(64, 64), (40, 7, 81), (20, 3) * 4]):
        parts = _parts(counts, 1000, 0.1, seed)
        _check_hard(_three(answer([tuple(part) for part in parts]), 3), parts)


def _parts(counts: Sequence[int], mean: float, spread: float, seed: int) -> list[Part]:
    """Parts of values of three maps, with statistics in float32; their means differ by about a spread."""
    g, parts = seeded(seed), []
    base = mean * (1 + torch.rand(3, generator=g, dtype=torch.double) / 10)
    for count in counts:
        centre = base + spread * torch.randn(3, generator=g, dtype=torch.double)
        values = centre + spread * torch.randn(count, 3, generator=g, dtype=torch.double)
        parts.append(Part(count, values.mean(0).float(), values.var(0, correction=0).float()))
    return parts


def _whole(parts: Sequence[Part]) -> Part:
    """In float64. Source: Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance, §2."""
    n = sum(part.count for part in parts)
    mean = torch.stack([part.count * part.mean.double() for part in parts]).sum(0) / n
    squares = [part.count * (part.variance.double() + (part.mean.double() - mean).square()) for part in parts]
    return Part(n, mean, torch.stack(squares).sum(0) / n)


def _check_easy(found: Part, parts: Sequence[Part]) -> None:
    """Raise the hint for what is not right, where means are as small as spreads."""
    right = _whole(parts)
    said = f"For parts of {', '.join(str(part.count) for part in parts)} values"
    if found.count != right.count:
        raise Hint(f"{said} the count of the whole is not {found.count}.")
    if not close(found.mean, right.mean):
        means = torch.stack([part.mean.double() for part in parts])
        mistakes = [
            (means.mean(0), f"{said}: that is the mean of the means, as if the parts were equally large."),
            (means.sum(0), "Those are the sums of the means: a mean of the whole lies between them."),
            (right.mean * right.count, "That is the sum of all values: divide it by their count."),
            (means[0], f"{said}: that is the first part's mean."),
            (means[-1], f"{said}: that is the last part's mean."),
        ]
        refuse_mistakes(found.mean, mistakes)
        raise Hint(f"{said} the first map's mean is {right.mean[0]:.4f}; yours is {found.mean[0]:.4f}.")
    if not close(found.variance, right.variance):
        refuse_mistakes(found.variance, _wrong_variances(parts, right))
        raise Hint(
            f"{said} the first map's variance is {right.variance[0]:.4f}; yours is {found.variance[0]:.4f}. How far "
            "are a part's values from the mean of the *whole*, squared and on average?"
        )


def _wrong_variances(parts: Sequence[Part], right: Part) -> list[tuple[Tensor, str]]:
    """The usual wrong variances (maps,), with their hints."""
    n, counts = right.count, torch.tensor([[part.count] for part in parts], dtype=torch.double)
    own = torch.stack([part.variance.double() for part in parts])
    shifts = torch.stack([part.mean.double() for part in parts]) - right.mean
    within, between = (counts * own).sum(0) / n, (counts * shifts.square()).sum(0) / n
    forgotten = "That is how far values are from the mean of *their part*: these means are not that of the whole."
    unequal = "Parts of more values count for more, in both terms: weigh by the counts."
    return [
        (within, forgotten),
        (own.mean(0), f"{forgotten} And parts of more values count for more."),
        (between, "That is how far the parts' means are from the mean of the whole: their values spread around them."),
        (within + shifts.square().mean(0), unequal),
        (own.mean(0) + between, unequal),
        (own.mean(0) + shifts.square().mean(0), unequal),
        (within - between, "The sign: values are farther from a mean that is not their own part's, and not nearer."),
        (within + (counts * shifts.abs()).sum(0) / n, "The difference of the means counts by its square."),
        (right.variance.sqrt(), "That is the standard deviation: its square is asked for."),
        (right.variance * n / max(n - 1, 1), "That is divided by the count less 1: BatchNorm divides by the count."),
        (right.variance * n, "That is the sum of the squares: divide it by the count."),
        (own.sum(0), "Those are the variances' sums: they do not add up, since more values do not spread more."),
    ]


def _check_hard(found: Part, parts: Sequence[Part]) -> None:
    """Raise the hint for digits that are lost where means are large and spreads small."""
    right = _whole(parts)
    means_differ = not torch.allclose(found.mean, right.mean, rtol=0, atol=2e-3)
    if found.count == right.count and not means_differ:
        if torch.allclose(found.variance, right.variance, rtol=0.03, atol=0):
            return
        mean, variance, own = right.mean[0], right.variance[0], found.variance[0]
        raise Hint(
            f"Right where means are small. But values of {mean:,.0f} that spread by {variance.sqrt():.2f} have a "
            f"variance of {variance:.4f}; yours is {own:.4f}. E[x²] - E[x]² subtracts two numbers of about "
            f"{mean.square():,.0f}, and float32 has seven digits: none is left for the difference. Which differences "
            "can be taken *before* anything is squared?"
        )
    raise Hint(
        f"Right where means are small. But of {right.count} values, the first map's mean is {right.mean[0]:.3f}, and "
        f"yours {found.mean[0]:.3f}."
    )


def _three(answer: Any, maps: int) -> Part:
    """The answer, if it is a count, a mean and a variance (maps,). Raises Hint if not."""
    three = listed(answer) if isinstance(given(answer), list | tuple) else None
    if three is None or len(three) != 3:
        raise Hint(
            f"Return three things, the count, the mean and the variance of the whole; yours is a {kind(answer)}."
        )
    count, mean, variance = (given(part) for part in three)
    each = "a number for each map"
    return Part(whole(count), shaped(mean, (maps,), each).double(), shaped(variance, (maps,), each).double())
