"""Notebook 09: each usual mistake has a hint of its own, and no answer is an error message."""

from itertools import accumulate
from operator import mul

import pytest
import torch
import torch.nn.functional as F
from answers import solutions, verdict

from dlkit.exercises import model_parallel as check
from dlkit.strategies import bubble

SOLUTIONS = solutions("09_model_parallel")
NAMES = ["put_together", "free_energy_part", "halo", "microbatches"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", [1.0], torch.zeros(2, 7), float("nan"), True])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_tensor_of_nan_is_no_answer(capsys, name):
    assert verdict(capsys, getattr(check, name), lambda *x: torch.nan * SOLUTIONS[name](*x)).startswith("✗ Not yet")


def by(columns, rows=lambda parts: torch.stack(parts).sum(0)):
    return lambda parts, split: columns(parts) if split == "columns" else rows(parts)


def cat(parts):
    return torch.cat(parts, 1)


TOGETHER = {
    "on top of each other": by(torch.cat),
    "Yours is added up: but those are different units": by(lambda parts: torch.stack(parts).sum(0)),
    "Yours is of one rank's shape": by(lambda parts: parts[0]),
    "what does each of them lack?": by(cat, cat),
    "That is the mean": by(cat, lambda parts: torch.stack(parts).mean(0)),
    "the other inputs count too": by(cat, lambda parts: parts[0]),
    "in the wrong order": by(lambda parts: cat(parts[::-1])),
    'split="rows" gives nothing yet': by(cat, lambda parts: None),
    "are they parts of a sum, or different units": by(lambda parts: 2 * cat(parts)),
    "yours is of type list": by(lambda parts: parts),
}


@pytest.mark.parametrize("hint", TOGETHER)
def test_what_is_put_together_wrongly_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.put_together, TOGETHER[hint])


def once(v, a, rank):
    return v @ a if rank == 0 else torch.zeros(len(v))


ENERGIES = {
    "The visible biases are missing": lambda v, a, W, b, rank: -F.softplus(v @ W + b).sum(1),
    "*minus* both terms": lambda v, a, W, b, rank: F.softplus(v @ W + b).sum(1) + once(v, a, rank),
    "The sign of a·v": lambda v, a, W, b, rank: once(v, a, rank) - F.softplus(v @ W + b).sum(1),
    "The sign of the hidden": lambda v, a, W, b, rank: -once(v, a, rank) + F.softplus(v @ W + b).sum(1),
    "That sums probabilities": lambda v, a, W, b, rank: -once(v, a, rank) - (v @ W + b).sigmoid().sum(1),
    "is not x": lambda v, a, W, b, rank: -once(v, a, rank) - (v @ W + b).sum(1),
    "it counts once": lambda v, a, W, b, rank: -(v @ a) - F.softplus(v @ W + b).sum(1),
    "whose are they?": lambda v, a, W, b, rank: -once(v, a, rank) - F.softplus(v @ W).sum(1),
    "a number for each image": lambda v, a, W, b, rank: -F.softplus(v @ W + b),
}


@pytest.mark.parametrize("hint", ENERGIES)
def test_a_wrong_part_of_the_free_energy_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.free_energy_part, ENERGIES[hint])


def counted(layers):
    """By looking: which rows of a large image two bands side by side see, less what they stand for."""
    rows = 16
    lowest, highest = 0, rows - 1
    for kernel, stride in reversed(layers):
        lowest, highest = lowest * stride, highest * stride + kernel - 1
    whole = rows
    for _, stride in layers:
        whole *= stride
    return highest - lowest + 1 - whole


def field(layers):
    steps = accumulate([1, *(s for _, s in layers)], mul)
    return 1 + sum((k - 1) * step for (k, _), step in zip(layers, steps, strict=False))


def test_rows_that_are_counted_are_right(capsys):
    assert verdict(capsys, check.halo, counted).startswith("✓")


HALOS = {
    "how many rows *one* row of the last layer sees": field,
    "That is right if all strides are 1": lambda layers: field(layers) - 1,
    "That forgets the strides": lambda layers: sum(k - 1 for k, _ in layers),
    "in rows of *its* input": lambda layers: sum(k - s for k, s in layers),
    "That is one side": lambda layers: sum(k // 2 for k, _ in layers),
    "above and below *together*": lambda layers: 2 * counted(layers),
    "That is the last layer's alone": lambda layers: layers[-1][0] - layers[-1][1],
    "the rank has one itself": lambda layers: sum(k for k, _ in layers),
    "For [(7, 1)] it is 6; yours is 2": lambda layers: 2,
}


@pytest.mark.parametrize("hint", HALOS)
def test_a_wrong_halo_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.halo, HALOS[hint])


def fewest(stages, most):
    return next(count for count in range(1, 1000) if bubble(stages, count) < most)


MICROBATCHES = {
    "One too few": lambda k, p: fewest(k, p) - 1,
    "One too many": lambda k, p: fewest(k, p) + 1,
    "for one stage more": lambda k, p: fewest(k + 1, p),
    "That counts the filling in": lambda k, p: fewest(k, p) + k - 1,
    "yours, 4, gives a bubble of 20.0%": lambda k, p: 4,
    "is no number of microbatches": lambda k, p: 0,
}


@pytest.mark.parametrize("hint", MICROBATCHES)
def test_a_wrong_number_of_microbatches_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.microbatches, MICROBATCHES[hint])


def test_the_library_s_bubble_may_be_used(capsys):
    assert verdict(capsys, check.microbatches, fewest).startswith("✓")
