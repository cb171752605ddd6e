"""Notebook 04: each usual mistake has a hint of its own, and no answer is an error message."""

import pytest
import torch
import torch.nn.functional as F
from answers import solutions, verdict
from torch import nn

from dlkit.exercises import dbn_fine_tuning as check

SOLUTIONS = solutions("04_dbn_fine_tuning")


# 1. A label's free energy.


def by_label(f, W, U, c, b, part):
    """-c[y] less `part` of the hidden units' input, for each label."""
    return torch.stack([-c[y] - part(f @ W + b + U[y]) for y in range(len(c))], 1)


LABELS = {
    "Right but for the sign": lambda f, W, U, c, b: -by_label(f, W, U, c, b, lambda x: F.softplus(x).sum(1)),
    "a bias of its own": lambda f, W, U, c, b: by_label(f, W, U, 0 * c, b, lambda x: F.softplus(x).sum(1)),
    "lacks their bias b": lambda f, W, U, c, b: by_label(f, W, U, c, 0 * b, lambda x: F.softplus(x).sum(1)),
    "summed over both its states": lambda f, W, U, c, b: by_label(f, W, U, c, b, lambda x: x.sigmoid().sum(1)),
    "not the features": lambda f, W, U, c, b: by_label(f, 0 * W, U, c, b, lambda x: F.softplus(x).sum(1)),
    "not the label": lambda f, W, U, c, b: by_label(f, W, 0 * U, c, b, lambda x: F.softplus(x).sum(1)),
    "not their mean": lambda f, W, U, c, b: by_label(f, W, U, c, b, lambda x: F.softplus(x).mean(1)),
    "For each label y": lambda f, W, U, c, b: torch.randn(5, 2, generator=torch.Generator().manual_seed(0)),
    "of shape (5, 2) here; yours has shape (5,)": lambda f, W, U, c, b: torch.zeros(5),
    "yours is of type list": lambda f, W, U, c, b: [1.0],
}


@pytest.mark.parametrize("hint", LABELS)
def test_a_wrong_free_energy_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.label_free_energies, LABELS[hint])


def test_the_features_own_part_may_be_put_in(capsys):
    def whole(f, W, U, c, b):
        return SOLUTIONS["label_free_energies"](f, W, U, c, b) - f.sum(1, keepdim=True)

    assert verdict(capsys, check.label_free_energies, whole).startswith("✓")


# 2. The wake phase.


def waked(factor=1.0, squash=torch.sigmoid, bias=1.0, a_factor=1.0):
    def answer(below, above, G, a):
        difference = squash(above @ G.T + bias * a) - below
        return factor * difference.T @ above / len(below), a_factor * difference.mean(0)

    return answer


WAKES = {
    "Right but for the sign": waked(-1, a_factor=-1),
    "the sum over the batch": waked(6),
    "through a sigmoid": waked(squash=lambda x: x),
    "what was seen alone": waked(squash=torch.zeros_like),
    "lacks their bias a": waked(bias=0),
    "G's is right. a's is not: it is the mean": waked(a_factor=6),
    "G's is right. a's is not: its sign": waked(a_factor=-1),
    "G's has the wrong sign": waked(-1),
    "the wrong way round": lambda *given: (waked()(*given)[0].T, waked()(*given)[1]),
    "Return two tensors": lambda *given: waked()(*given)[0],
    "p = σ(a + above": waked(0.5),
}


@pytest.mark.parametrize("hint", WAKES)
def test_a_wrong_gradient_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.wake, WAKES[hint])


# 3. Unrolling.


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


UNROLLS = {
    "Make an `nn.Linear(visible, hidden)`; yours is of type Parameter": lambda W, b: W,
    "W transposed; yours (4, 3)": lambda W, b: linear(W.clone(), b.clone()),
    "Its bias is not b": lambda W, b: linear(W.T.clone(), torch.zeros(3)),
    "Its weight is not W transposed": lambda W, b: linear(W.T.clone() + 1, b.clone()),
    "shares its memory with the RBM": lambda W, b: linear(W.T, b),
    "It would not learn": lambda W, b: linear(W.T.clone(), b.clone()).requires_grad_(False),
}


@pytest.mark.parametrize("hint", UNROLLS)
def test_a_wrong_layer_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.unroll, UNROLLS[hint])


def test_a_layer_without_bias_is_told(capsys):
    assert "Its bias is not b" in verdict(capsys, check.unroll, lambda W, b: linear(W.T.clone(), None))


# 4. Principal components.

PROJECTIONS = {
    "That is the code": lambda x, mean, basis: (x - mean) @ basis,
    "put it back at the end": lambda x, mean, basis: (x - mean) @ basis @ basis.T,
    "take the mean away before": lambda x, mean, basis: x @ basis @ basis.T,
    "Less the mean, onto the basis": lambda x, mean, basis: x,
}


@pytest.mark.parametrize("hint", PROJECTIONS)
def test_a_wrong_projection_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.principal_components, PROJECTIONS[hint])
