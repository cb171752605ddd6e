"""Exercise 5 of notebook 10: a batch's statistics out of those of its parts, with means that are large."""

from functools import reduce

import numpy as np
import pytest
import torch
from answers import solutions, verdict
from torch import nn

from dlkit.exercises import hybrid as check
from dlkit.exercises.batch_statistics import _parts, _whole

SOLVED = solutions("10_hybrid")["combined"]


@pytest.mark.parametrize(
    "nonsense",
    ["three", [1.0], torch.zeros(2, 7), float("nan"), True, (None, 1), [[1]], {}, (1, 2, 3), (8, [0.0], [1.0])],
)
def test_nonsense_is_answered_in_a_line(capsys, nonsense):
    assert verdict(capsys, check.combined, lambda *_: nonsense).startswith("✗ Not yet")


@pytest.mark.parametrize("of", [1, 2])
def test_a_tensor_of_nan_is_no_answer(capsys, of):
    def answer(parts):
        return [torch.nan * part if i == of else part for i, part in enumerate(SOLVED(parts))]

    assert verdict(capsys, check.combined, answer).startswith("✗ Not yet")


def test_the_solution_gives_what_a_batch_norm_takes_of_the_whole_batch():
    batch = torch.randn(60, 4) + torch.arange(60)[:, None] / 30
    pieces = batch.split([10, 35, 15])
    count, mean, variance = SOLVED([(len(x), x.mean(0), x.var(0, correction=0)) for x in pieces])
    layer = nn.BatchNorm1d(4, momentum=1)
    torch.testing.assert_close((batch - mean) / (variance + layer.eps).sqrt(), layer(batch))
    torch.testing.assert_close(mean, layer.running_mean)
    torch.testing.assert_close(variance * count / (count - 1), layer.running_var)  # divided by the count less 1


def by_pairs(parts):
    """Chan's own form: one part after the other."""

    def both(a, b):
        (n_a, mean_a, var_a), (n_b, mean_b, var_b) = a, b
        n, delta = n_a + n_b, mean_b - mean_a
        squares = n_a * var_a + n_b * var_b + delta * delta * n_a * n_b / n
        return n, mean_a + delta * n_b / n, squares / n

    return reduce(both, parts)


def from_the_first(parts):
    """Squares of differences from the first part's mean: E[d²] - E[d]² is safe where d is small."""
    n, start = sum(count for count, *_ in parts), parts[0][1]
    shift = sum(count * (mean - start) for count, mean, _ in parts) / n
    squares = sum(count * (var + (mean - start) ** 2) for count, mean, var in parts) / n
    return n, start + shift, squares - shift**2


def by_numpy(parts):
    counts, means, variances = (np.stack([np.asarray(part[i]) for part in parts]) for i in range(3))
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    return counts.sum(), mean, (weights * (variances + (means - mean) ** 2)).sum(0)


def squares_of(parts, dtype):
    """E[x²] - E[x]², in this precision."""
    n = sum(count for count, *_ in parts)
    mean = sum(count * mean.to(dtype) for count, mean, _ in parts) / n
    squares = sum(count * (var.to(dtype) + mean.to(dtype) ** 2) for count, mean, var in parts) / n
    return n, mean, squares - mean**2


def as_lists(parts):
    n, mean, variance = SOLVED(parts)
    return [float(n), mean.tolist(), [float(value) for value in variance]]


RIGHT = {
    "by pairs": by_pairs,
    "from the first": from_the_first,
    "numpy": by_numpy,
    "float64, where a difference of squares has digits enough": lambda parts: squares_of(parts, torch.double),
    "lists": as_lists,
    "a tensor for the count": lambda parts: (torch.tensor(SOLVED(parts)[0]), *SOLVED(parts)[1:]),
}


@pytest.mark.parametrize("style", RIGHT)
def test_a_right_answer_of_any_style_is_taken(capsys, style):
    assert verdict(capsys, check.combined, RIGHT[style]).startswith("✓")


@pytest.mark.parametrize("counts", [(64, 64), (40, 7, 81), (20, 3) * 4])
@pytest.mark.parametrize("seed", range(20))
def test_with_other_numbers_the_safe_form_would_pass_too_and_the_difference_of_squares_fail(counts, seed):
    parts = _parts(counts, 1000, 0.1, seed)
    variance = _whole(parts).variance
    off = {name: (torch.as_tensor(RIGHT[name](parts)[2]) / variance - 1).abs() for name in [*RIGHT][:3]}
    assert max(error.max() for error in off.values()) < 0.01
    assert (squares_of(parts, torch.float)[2] / variance - 1).abs().max() > 0.05


def told(variance=None, mean=None, count=None):
    """The solution, but for what is changed: functions of (parts, count, mean, variance)."""

    def answer(parts):
        right = SOLVED(parts)
        changed = (count, mean, variance)
        return tuple(value if f is None else f(parts, *right) for f, value in zip(changed, right, strict=True))

    return answer


def of_parts(parts):
    """Weights (parts, 1), means and variances (parts, maps)."""
    counts = torch.tensor([[float(part[0])] for part in parts])
    return counts / counts.sum(), torch.stack([part[1] for part in parts]), torch.stack([part[2] for part in parts])


def within(parts, n, mean, variance):
    weights, _, variances = of_parts(parts)
    return (weights * variances).sum(0)


def between(parts, n, mean, variance):
    weights, means, _ = of_parts(parts)
    return (weights * (means - mean).square()).sum(0)


def in_place(parts):
    total = parts[0][1]
    for _, mean, _ in parts[1:]:
        total += mean
    return SOLVED(parts)


WRONG = {
    "the mean of the means, as if the parts were equally large": told(
        mean=lambda parts, *_: of_parts(parts)[1].mean(0)
    ),
    "Those are the sums of the means": told(mean=lambda parts, *_: of_parts(parts)[1].sum(0)),
    "That is the sum of all values": told(mean=lambda parts, n, mean, variance: n * mean),
    "that is the first part's mean": told(mean=lambda parts, *_: parts[0][1]),
    "that is the last part's mean": told(mean=lambda parts, *_: parts[-1][1]),
    "the first map's mean is": told(mean=lambda parts, n, mean, variance: mean + 1),
    "the count of the whole is not 3": told(count=lambda parts, *_: len(parts)),
    "these means are not that of the whole": told(within),
    "And parts of more values count for more": told(lambda parts, *_: of_parts(parts)[2].mean(0)),
    "their values spread around them": told(between),
    "weigh by the counts": told(lambda *case: within(*case) + (of_parts(case[0])[1] - case[2]).square().mean(0)),
    "The sign: values are farther": told(lambda *case: within(*case) - between(*case)),
    "counts by its square": told(
        lambda *case: within(*case) + (of_parts(case[0])[0] * (of_parts(case[0])[1] - case[2]).abs()).sum(0)
    ),
    "That is the standard deviation": told(lambda parts, n, mean, variance: variance.sqrt()),
    "BatchNorm divides by the count": told(lambda parts, n, mean, variance: variance * n / max(n - 1, 1)),
    "That is the sum of the squares": told(lambda parts, n, mean, variance: variance * n),
    "they do not add up": told(lambda parts, *_: of_parts(parts)[2].sum(0)),
    "the first map's variance is": told(lambda parts, n, mean, variance: variance + 1),
    "float32 has seven digits: none is left": lambda parts: squares_of(parts, torch.float),
    "Right where means are small. But of 128 values": told(
        mean=lambda parts, n, mean, variance: mean if mean.max() < 100 else mean.round()
    ),
    "has changed `parts`": in_place,
    "yours is a tuple of 2": lambda parts: SOLVED(parts)[1:],
    "It should be a number for each map": told(lambda parts, n, mean, variance: variance.mean()),
    "It should be a whole number": told(count=lambda parts, *_: 0.5),
}


@pytest.mark.parametrize("hint", WRONG)
def test_a_wrong_answer_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.combined, WRONG[hint])


def test_of_two_parts_alone_is_not_enough(capsys):
    assert "the count of the whole is not 7" in verdict(capsys, check.combined, lambda parts: by_pairs(parts[:2]))
