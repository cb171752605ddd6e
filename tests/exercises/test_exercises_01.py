"""Notebook 01: each usual mistake has a hint of its own, and no answer is an error message."""

import pytest
import torch
import torch.nn.functional as F
from answers import solutions, verdict
from oracles import random_rbm

from dlkit.data import bars_and_stripes
from dlkit.exercises import energy_and_sampling as check

SOLUTIONS = solutions("01_energy_and_sampling")
FUNCTIONS = ["energy", "free_energy", "gibbs_step", "cd_statistics"]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("nonsense", ["three", torch.zeros(2, 7)])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗")


ENERGIES = {
    "Right but for the sign": lambda v, h, W, a, b: a @ v + b @ h + v @ W @ h,
    "visible biases are missing": lambda v, h, W, a, b: -(b @ h) - v @ W @ h,
    "hidden biases are missing": lambda v, h, W, a, b: -(a @ v) - v @ W @ h,
    "weights are missing": lambda v, h, W, a, b: -(a @ v) - b @ h,
    "both biases are missing": lambda v, h, W, a, b: -(v @ W @ h),
    "weights' sum has the wrong sign": lambda v, h, W, a, b: -(a @ v) - b @ h + v @ W @ h,
    "biases' sums have the wrong sign": lambda v, h, W, a, b: a @ v + b @ h - v @ W @ h,
    "where is h_j": lambda v, h, W, a, b: -(a @ v) - b @ h - (v @ W).sum(),
    "where is v_i": lambda v, h, W, a, b: -(a @ v) - b @ h - (W @ h).sum(),
    "A bias counts only if": lambda v, h, W, a, b: -a.sum() - b.sum() - v @ W @ h,
    "no exponential yet": lambda v, h, W, a, b: torch.exp(-(a @ v) - b @ h - v @ W @ h),
    "the probability but for Z": lambda v, h, W, a, b: torch.exp(a @ v + b @ h + v @ W @ h),
    "more than one number": lambda v, h, W, a, b: -a * v,
    "it should be": lambda v, h, W, a, b: 0.0,
}


@pytest.mark.parametrize("hint", ENERGIES)
def test_a_wrong_energy_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.energy, ENERGIES[hint])


def every_h():
    return torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()


FREE_ENERGIES = {
    "Right but for the sign": lambda v, W, a, b: v @ a + F.softplus(v @ W + b).sum(1),
    "visible biases are missing": lambda v, W, a, b: -F.softplus(v @ W + b).sum(1),
    "hidden units' part has the wrong sign": lambda v, W, a, b: -(v @ a) + F.softplus(v @ W + b).sum(1),
    "hidden biases are missing": lambda v, W, a, b: -(v @ a) - F.softplus(v @ W).sum(1),
    "energy of the *best* h": lambda v, W, a, b: -(v @ a) - F.relu(v @ W + b).sum(1),
    "the mean energy": lambda v, W, a, b: -(v @ a) - ((v @ W + b).sigmoid() * (v @ W + b)).sum(1),
    "the mean of the energies": lambda v, W, a, b: -(v @ a) - ((v @ W + b) @ every_h().T).mean(1),
    "the sum of the energies": lambda v, W, a, b: -4 * (v @ a) - ((v @ W + b) @ every_h().T).sum(1),
    "its logarithm is missing": lambda v, W, a, b: torch.exp(v @ a) * (1 + torch.exp(v @ W + b)).prod(1),
    "may be on or off": lambda v, W, a, b: -(v @ a) - (v @ W + b).sum(1),
    "then the sum": lambda v, W, a, b: -(v @ a) - F.softplus((v @ W + b).sum(1)),
    "then exp overflows": lambda v, W, a, b: -(v @ a) - torch.log(1 + torch.exp(v @ W + b)).sum(1),
    "eight free energies; yours is ()": lambda v, W, a, b: v.sum(),
    "it should be": lambda v, W, a, b: torch.zeros(len(v)),
}


@pytest.mark.parametrize("hint", FREE_ENERGIES)
def test_a_wrong_free_energy_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.free_energy, FREE_ENERGIES[hint])


def draw(p, g):
    return torch.bernoulli(p, generator=g)


def steps(up=lambda v, W, b: v @ W + b, down=lambda h, W, a: h @ W.T + a, hidden=draw, visible=draw):
    """A Gibbs step with one part of it changed."""

    def step(v, W, a, b, g):
        return visible(down(hidden(up(v, W, b).sigmoid(), g), W, a).sigmoid(), g)

    return step


def not_handed_on(p, g):
    return torch.bernoulli(p)


GIBBS_STEPS = {
    "those are probabilities": steps(visible=lambda p, g: p),
    "hidden units enter as probabilities": steps(hidden=lambda p, g: p),
    "hidden units are set by a threshold": steps(hidden=lambda p, g: (p > 0.5).double()),
    "visible biases are missing": steps(down=lambda h, W, a: h @ W.T),
    "hidden biases are missing": steps(up=lambda v, W, b: v @ W),
    "Both biases are missing": steps(up=lambda v, W, b: v @ W, down=lambda h, W, a: h @ W.T),
    "hidden units are on when they should be off": steps(hidden=lambda p, g: 1 - draw(p, g)),
    "visible units are on when they should be off": steps(visible=lambda p, g: 1 - draw(p, g)),
    "All chains do the same": steps(visible=lambda p, g: (p > 0.5).double(), hidden=lambda p, g: (p > 0.5).double()),
    "have not moved": lambda v, W, a, b, g: v,
    "not distributed as they should be": steps(visible=lambda p, g: draw(p**2, g)),
    "Two calls with the same seed differ": steps(visible=not_handed_on),
    "that shape too; yours is (40000, 2)": lambda v, W, a, b, g: draw((v @ W + b).sigmoid(), g),
}


@pytest.mark.parametrize("hint", GIBBS_STEPS)
def test_a_wrong_gibbs_step_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.gibbs_step, GIBBS_STEPS[hint])


def halves(positive, negative):
    """Both halves, given as functions of v_data, v_chain and the way up."""

    def statistics(v, w, W, b):
        def up(x):
            return (x @ W + b).sigmoid()

        return positive(v, w, up), negative(v, w, up)

    return statistics


def of_data(v, w, up):
    return v.T @ up(v) / len(v)


def of_chain(v, w, up):
    return w.T @ up(w) / len(w)


STATISTICS = {
    "swapped": halves(of_chain, of_data),
    "divide by the number": halves(lambda v, w, up: v.T @ up(v), lambda v, w, up: w.T @ up(w)),
    "Both have the wrong sign": halves(lambda *x: -of_data(*x), lambda *x: -of_chain(*x)),
    "The negative half is an average too": halves(of_data, lambda *x: -of_chain(*x)),
    "Both are from the data": halves(of_data, of_data),
    "with the *data's* v": halves(of_data, lambda v, w, up: v.T @ up(w) / len(v)),
    "with the *data's* h": halves(of_data, lambda v, w, up: w.T @ up(v) / len(v)),
    "(hidden, visible)": halves(lambda *x: of_data(*x).T, lambda *x: of_chain(*x).T),
    "hidden biases are missing": lambda v, w, W, b: tuple(x.T @ (x @ W).sigmoid() / len(x) for x in (v, w)),
    "sigmoid is missing": lambda v, w, W, b: tuple(x.T @ (x @ W + b) / len(x) for x in (v, w)),
    "You sampled h": halves(
        lambda v, w, up: v.T @ torch.bernoulli(up(v)) / len(v), lambda v, w, up: w.T @ torch.bernoulli(up(w)) / len(w)
    ),
    "Return two tensors": lambda v, w, W, b: v.T @ (v @ W + b).sigmoid() / len(v),
    "The negative half is not the mean": halves(of_data, lambda *x: of_chain(*x) ** 2),
    "The positive half is not the mean": halves(lambda *x: of_data(*x) ** 2, of_chain),
}


@pytest.mark.parametrize("hint", STATISTICS)
def test_wrong_statistics_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.cd_statistics, STATISTICS[hint])


@pytest.fixture(scope="module")
def machine():
    """One on which CD-k needs more than one step, on the patterns of the notebook."""
    return random_rbm(16, 3, std=2.0), bars_and_stripes(4).flatten(1)


def test_the_solution_of_the_smallest_k_is_right_and_one_less_and_one_more_are_not(capsys, machine):
    k = SOLUTIONS["smallest_k"](*machine)
    assert k > 1
    assert verdict(capsys, check.smallest_k, k, *machine).startswith("✓")
    assert f"CD-{k - 1} is not there yet" in verdict(capsys, check.smallest_k, k - 1, *machine)
    assert f"so will CD-{k}" in verdict(capsys, check.smallest_k, k + 1, *machine)


@pytest.mark.parametrize("answer", [0, -3, 2.5, True, "five"])
def test_what_is_no_k_gets_its_hint(capsys, machine, answer):
    assert "whole number of Gibbs steps" in verdict(capsys, check.smallest_k, answer, *machine)


def test_far_too_large_a_k_is_refused_before_it_takes_long(capsys, machine):
    assert "far more than this machine needs" in verdict(capsys, check.smallest_k, 10**6, *machine)


@pytest.mark.parametrize("stub", [None, ...])
def test_an_untouched_k_is_not_answered_yet(capsys, machine, stub):
    assert verdict(capsys, check.smallest_k, stub, *machine).startswith("○")
