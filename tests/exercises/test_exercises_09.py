"""Notebook 09: each usual mistake has a hint of its own, and no answer is an error message."""

from itertools import accumulate, pairwise
from operator import mul

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import points, solutions, verdict
from torch import nn

from dlkit.exercises import model_parallel as check
from dlkit.models import LeNet5, LocalNet
from dlkit.strategies import DataParallel, Hybrid, Pipeline, SpatialParallel, TensorParallel, bubble

SOLUTIONS = solutions("09_model_parallel")
NAMES = ["put_together", "free_energy_part", "halo", "microbatches"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", [1.0], torch.zeros(2, 7), float("nan"), True])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_tensor_of_nan_is_no_answer(capsys, name):
    assert verdict(capsys, getattr(check, name), lambda *x: torch.nan * SOLUTIONS[name](*x)).startswith("✗ Not yet")


def as_right(exercise, how):
    """An answer that is right, in another style: the solution's result, after `how`."""
    return lambda *given: how(SOLUTIONS[exercise](*given))


# 1. Gather or reduce.


def by(columns, rows=lambda parts: torch.stack(parts).sum(0)):
    return lambda parts, split: columns(parts) if split == "columns" else rows(parts)


def cat(parts):
    return torch.cat(parts, 1)


def in_a_loop(parts, split):
    if split == "rows":
        total = 0
        for part in parts:
            total = total + part
        return total
    width = sum(part.shape[1] for part in parts)
    product, begin = torch.empty(len(parts[0]), width), 0
    for part in parts:
        product[:, begin : begin + part.shape[1]] = part
        begin += part.shape[1]
    return product


def adds_in_place(parts):
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


RIGHT_TOGETHER = {
    "loops": in_a_loop,
    "numpy": by(lambda parts: np.concatenate(parts, axis=1), lambda parts: np.sum(parts, axis=0)),
    "sum of a list": by(torch.hstack, sum),
    "float64": by(cat, lambda parts: sum(part.double() for part in parts)),
    "a list": as_right("put_together", lambda product: product.tolist()),
}


@pytest.mark.parametrize("style", RIGHT_TOGETHER)
def test_products_may_be_put_together_in_any_style(capsys, style):
    assert verdict(capsys, check.put_together, RIGHT_TOGETHER[style]).startswith("✓")


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
    "yours is of type dict": by(lambda parts: dict(enumerate(parts))),
    "has changed `parts`": by(cat, adds_in_place),
    "cannot be multiplied by weights": by(lambda parts: cat(parts).round().long()),
    "a number for every unit already": by(cat, lambda parts: parts[0][:, :3]),
    "Split by columns, each rank has (5, 3) of (5, 7)": by(lambda parts: cat(parts[:2])),
    "What comes out is not x @ W": by(cat, lambda parts: sum(parts[:2])),
}


@pytest.mark.parametrize("hint", TOGETHER)
def test_what_is_put_together_wrongly_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.put_together, TOGETHER[hint])


def once(v, a, rank):
    return v @ a if rank == 0 else torch.zeros(len(v))


def of_each_unit(v, a, W, b, rank):
    F_part = np.zeros(len(v))
    for n, image in enumerate(v.numpy()):
        F_part[n] -= sum(np.log1p(np.exp(b[j].item() + image @ W[:, j].numpy())) for j in range(len(b)))
        F_part[n] -= 0 if rank else image @ a.numpy()
    return F_part


def by_cases(v, a, W, b, rank):
    if rank == 0:
        return -torch.mv(v, a) - torch.log(1 + torch.exp(b + v @ W)).sum(dim=-1)
    return -torch.log(1 + torch.exp(b + v @ W)).sum(dim=-1)


RIGHT_ENERGIES = {
    "loops of numpy": of_each_unit,
    "by cases": by_cases,
    "a factor": lambda v, a, W, b, rank: -F.softplus(torch.addmm(b, v, W)).sum(1) - (rank == 0) * (v @ a),
    "float64": lambda v, a, W, b, rank: SOLUTIONS["free_energy_part"](
        v.double(), a.double(), W.double(), b.double(), rank
    ),
    "a list": as_right("free_energy_part", lambda F_part: F_part.tolist()),
}


@pytest.mark.parametrize("style", RIGHT_ENERGIES)
def test_a_part_of_the_free_energy_may_be_computed_in_any_style(capsys, style):
    assert verdict(capsys, check.free_energy_part, RIGHT_ENERGIES[style]).startswith("✓")


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
    "of shape (4,) here; yours has shape ()": lambda v, a, W, b, rank: SOLUTIONS["free_energy_part"](
        v, a, W, b, rank
    ).sum(),
    "All ranks but one": lambda v, a, W, b, rank: (  # and the only one, where there is one
        -F.softplus(v @ W + b).sum(1) - (v @ a if rank or W.shape[1] == 9 else 0)
    ),
    "On 3 ranks your parts add up": lambda v, a, W, b, rank: (
        -F.softplus(v @ W + b).sum(1) - (v @ a if rank == 0 else 0) - (0.5 if rank == 2 else 0)
    ),
    "has changed `v`": lambda v, a, W, b, rank: v.mul_(1.5) @ a,
    "cannot be multiplied by weights": lambda v, a, W, b, rank: once(v, a, rank) > 0,
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


def by_widening(layers):
    """How many rows of the image 100 rows of the last layer see, less what they stand for."""
    seen, own = 100, 100
    for kernel, stride in layers[::-1]:
        seen, own = (seen - 1) * stride + kernel, own * stride
    return seen - own


def by_arrays(layers):
    kernels, strides = np.array(layers).T
    below = np.cumprod([1, *strides[:-1]])
    return ((kernels - strides) * below).sum()


def by_recursion(layers):
    if not layers:
        return 0
    (kernel, stride), *above = layers
    return kernel - stride + stride * by_recursion(above)


RIGHT_HALOS = {
    "widening": by_widening,
    "arrays": by_arrays,
    "recursion": by_recursion,
    "a float": as_right("halo", float),
    "a tensor": as_right("halo", torch.tensor),
}


@pytest.mark.parametrize("style", RIGHT_HALOS)
def test_a_halo_may_be_found_in_any_style(capsys, style):
    assert verdict(capsys, check.halo, RIGHT_HALOS[style]).startswith("✓")


HALOS = {
    "how many rows *one* row of the last layer sees": field,
    "That is right if all strides are 1": lambda layers: field(layers) - 1,
    "That forgets the strides": lambda layers: sum(k - 1 for k, _ in layers),
    "in rows of *its* input": lambda layers: sum(k - s for k, s in layers),
    "That is one side": lambda layers: sum(k // 2 for k, _ in layers),
    "above and below *together*": lambda layers: 2 * counted(layers),
    "That is the last layer's alone": lambda layers: layers[-1][0] - layers[-1][1],
    "the rank has one itself": lambda layers: sum(k for k, _ in layers),
    "the layer's own stride too": lambda layers: sum(
        (k - s) * int(np.prod([stride for _, stride in layers[: i + 1]])) for i, (k, s) in enumerate(layers)
    ),
    "You begin at the highest layer": lambda layers: counted(layers[::-1]),
    "has changed `layers`": lambda layers: sum(layers.pop()[0] for _ in range(len(layers))),
    "It should be a whole number; yours is 0.5": lambda layers: counted(layers) / 2 or 0.5,
    "A number is wanted; yours is of type tuple": lambda layers: (counted(layers) // 2, counted(layers) // 2),
    "For [(7, 1)] it is 6; yours is 2": lambda layers: 2,
}


@pytest.mark.parametrize("hint", HALOS)
def test_a_wrong_halo_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.halo, HALOS[hint])


def fewest(stages, most):
    return next(count for count in range(1, 1000) if bubble(stages, count) < most)


RIGHT_MICROBATCHES = {
    "a formula": lambda k, p: int((k - 1) / p - (k - 1)) + 1,
    "numpy's floor": lambda k, p: np.floor((k - 1) * (1 - p) / p) + 1,
    "numpy's argmax": lambda k, p: 1 + np.argmax((k - 1) / (np.arange(1, 1000) + k - 1) < p),
    "a tensor": lambda k, p: torch.tensor(fewest(k, p)),
    "a list": lambda k, p: min(M for M in range(1, 500) if k - 1 < p * (M + k - 1)),
}


@pytest.mark.parametrize("style", RIGHT_MICROBATCHES)
def test_microbatches_may_be_counted_in_any_style(capsys, style):
    assert verdict(capsys, check.microbatches, RIGHT_MICROBATCHES[style]).startswith("✓")


MICROBATCHES = {
    "One too few": lambda k, p: fewest(k, p) - 1,
    "One too many": lambda k, p: fewest(k, p) + 1,
    "for one stage more": lambda k, p: fewest(k + 1, p),
    "That counts the filling in": lambda k, p: fewest(k, p) + k - 1,
    "yours, 4, gives a bubble of 20.0%": lambda k, p: 4,
    "is no number of microbatches": lambda k, p: 0,
    "unless the bubble is exactly at the limit": lambda k, p: next(
        count for count in range(1, 1000) if bubble(k, count) <= p
    ),
    "Rounded to the nearest": lambda k, p: round((k - 1) / p - (k - 1)),
    "K stages lose K - 1 turns": lambda k, p: int(np.ceil(k / p - k)),
    "the whole time is M + K - 1 turns": lambda k, p: int(np.ceil((k - 1) / p)),
    "It should be a whole number": lambda k, p: (k - 1) / p - (k - 1),
    "yours is of type list": lambda k, p: [fewest(k, p)],
}


@pytest.mark.parametrize("hint", MICROBATCHES)
def test_a_wrong_number_of_microbatches_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.microbatches, MICROBATCHES[hint])


def test_the_library_s_bubble_may_be_used(capsys):
    assert verdict(capsys, check.microbatches, fewest).startswith("✓")


# The open task: (design, points, and what is said).


def perceptron(*sizes):
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


class Logits(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10]


DESIGNS = {
    "the solution": (SOLUTIONS["design"], 10, "10 of 10 points"),
    "three layers": (
        lambda: [perceptron(784, 600, 200, 10), TensorParallel(), np.float32(0.05)],
        10,
        "sends up to 77,952",
    ),
    "too much to send": (lambda: (perceptron(784, 400, 400, 10), TensorParallel(), 0.1), 6, "0 of 2: a rank sends"),
    "too large": (
        lambda: (perceptron(784, 800, 10), DataParallel(), 0.05),
        1,
        "was not trained, since it does not fit",
    ),
    "as large as one rank holds": (lambda: (perceptron(784, 200, 10), DataParallel(), 0.05), 6, "159,010 parameters"),
    "halves": (lambda: (perceptron(784, 400, 10), Hybrid(2, 2), 0.05), 7, "318,010 parameters"),
    "local": (lambda: (LocalNet(maps=(2, 4)), SpatialParallel(), 0.05), 5, "32,592 parameters"),
    "a pipeline": (lambda: (perceptron(784, 200, 200, 200, 10), Pipeline(4), 0.1), 7, "Pipeline can split it"),
    "too long steps": (lambda: (perceptron(784, 800, 10), TensorParallel(), 1e9), 7, "100.0 % of the held-out digits"),
    "no rows to split": (lambda: (perceptron(784, 80, 10), SpatialParallel(), 0.1), 0, "it cannot be split so"),
    "a class": (lambda: (LeNet5(), DataParallel, 0.1), 0, "in place of DataParallel"),
    "no strategy": (lambda: (LeNet5(), "data", 0.1), 0, "such as DataParallel()"),
    "no net": (lambda: (LeNet5, DataParallel(), 0.1), 0, "yours is of type type"),
    "five logits": (lambda: (perceptron(784, 5), DataParallel(), 0.1), 0, "yours gives of shape (2, 5)"),
    "no rate": (lambda: (LeNet5(), DataParallel(), None), 0, "The learning rate"),
    "a rate below zero": (lambda: (LeNet5(), DataParallel(), -0.1), 0, "above 0"),
    "two things": (lambda: (LeNet5(), DataParallel()), 0, "three things"),
    "a net that raises": (lambda: (perceptron(700, 10), DataParallel(), 0.1), 0, "Your code raised RuntimeError"),
    "a lazy layer": (
        lambda: (nn.Sequential(nn.Flatten(), nn.LazyLinear(200), nn.ReLU(), nn.Linear(200, 10)), DataParallel(), 0.05),
        6,
        "159,010 parameters",
    ),
    "nothing to train": (lambda: (Logits(), DataParallel(), 0.1), 0, ""),
    "no function": ((LeNet5(), DataParallel(), 0.1), 0, "Hand in the function itself"),
    "untouched": (lambda: ..., 0, "Not answered yet"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_gets_its_points(capsys, name):
    design, most, said = DESIGNS[name]
    given, printed = points(capsys, check.design, design)
    assert said in printed
    assert given == most
