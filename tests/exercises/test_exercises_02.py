"""Notebook 02: each usual mistake has a hint of its own, and no answer is an error message."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from answers import solutions, verdict

from dlkit import Experiment, data
from dlkit.analysis.likelihood import LogProbability
from dlkit.exercises import rbm_pretraining as check
from dlkit.models import RBM
from dlkit.training import PCD

SOLUTIONS = solutions("02_rbm_pretraining")


# 1. CD as a gradient.


def filler(W=1.0, a=1.0, b=1.0, other=None):
    """An answer that sets each .grad to the right one times this factor, or to `other(rbm, x, v, p, q)`."""

    def fill(rbm, x, v):
        with torch.no_grad():
            p, q = torch.sigmoid(x @ rbm.W + rbm.b), torch.sigmoid(v @ rbm.W + rbm.b)
            rbm.W.grad = other(rbm, x, v, p, q) if other else W * (v.T @ q - x.T @ p) / len(x)
            rbm.a.grad = a * (v - x).mean(0)
            rbm.b.grad = b * (q - p).mean(0)

    return fill


def steps_itself(rbm, x, v):
    with torch.no_grad():
        rbm.W += 0.1


def forgets_b(rbm, x, v):
    filler()(rbm, x, v)
    rbm.b.grad = None


GRADIENTS = {
    "Right but for the sign": filler(-1, -1, -1),
    "W.grad has the wrong sign": filler(W=-1),
    "b.grad has the wrong sign": filler(b=-1),
    "W.grad is a sum over the batch": filler(W=6),
    "a.grad is a sum over the batch": filler(a=6),
    "has lost the hidden units": filler(other=lambda rbm, x, v, p, q: (v - x).mean(0)[:, None].expand(4, 3).clone()),
    "hidden units of the *data*": filler(other=lambda rbm, x, v, p, q: (v.T @ p - x.T @ p) / 6),
    "W.grad is not the mean": filler(other=lambda rbm, x, v, p, q: torch.zeros(4, 3)),
    "rbm.W itself has changed": steps_itself,
    "rbm.b.grad is not set": forgets_b,
}


@pytest.mark.parametrize("hint", GRADIENTS)
def test_a_wrong_gradient_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.fill_grad, GRADIENTS[hint])


def test_a_gradient_of_the_wrong_shape_is_told_in_a_line(capsys):
    transposed = filler(other=lambda rbm, x, v, p, q: (q.T @ v - p.T @ x) / 6)
    assert verdict(capsys, check.fill_grad, transposed).startswith("✗")


def test_autograd_through_the_free_energies_is_right_too(capsys):
    def by_autograd(rbm, x, v):
        (rbm.free_energy(x).mean() - rbm.free_energy(v).mean()).backward()

    assert verdict(capsys, check.fill_grad, by_autograd).startswith("✓")


# 2. The pseudo-log-likelihood's scale.


def difference(rbm, v, i):
    rows = torch.arange(len(v))
    flipped = v.clone()
    flipped[rows, i] = 1 - flipped[rows, i]
    return rbm.free_energy(flipped) - rbm.free_energy(v)


PSEUDO = {
    "log p of *one* pixel": lambda rbm, v, i: F.logsigmoid(difference(rbm, v, i)),
    "784 is right for MNIST only": lambda rbm, v, i: 784 * F.logsigmoid(difference(rbm, v, i)),
    "number of *hidden* units": lambda rbm, v, i: rbm.hidden * F.logsigmoid(difference(rbm, v, i)),
    "Right but for the sign": lambda rbm, v, i: -4 * F.logsigmoid(difference(rbm, v, i)),
    "4 times the probability": lambda rbm, v, i: 4 * torch.sigmoid(difference(rbm, v, i)),
    "log p of the *flipped* pixel": lambda rbm, v, i: 4 * F.logsigmoid(-difference(rbm, v, i)),
    "the mean over the images": lambda rbm, v, i: 4 * F.logsigmoid(difference(rbm, v, i)).mean(),
    "so 6 numbers": lambda rbm, v, i: torch.zeros(6, 4),
    "differ in pixel i only": lambda rbm, v, i: 4 * difference(rbm, v, i),
    "of type float": lambda rbm, v, i: 1.0,
}


@pytest.mark.parametrize("hint", PSEUDO)
def test_a_wrong_pseudo_likelihood_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.pseudo_log_likelihood, PSEUDO[hint])


# 3. The cure: the experiment is the notebook's.


@pytest.fixture(scope="module")
def clinic():
    mnist = data.load("mnist", binarise="sample")
    train, validation = mnist.train.images[:2000].flatten(1), mnist.validation.images[:500].flatten(1)
    learner = PCD(visible_bias_from_data=False)
    return Experiment(partial(RBM, 784, 64), data=train, learner=learner, lr=0.2, epochs=10), train, validation


def test_the_solution_cures(capsys, clinic):
    assert verdict(capsys, check.cure, SOLUTIONS["cure"](clinic[0]), *clinic).startswith("✓")


def test_an_untouched_cure_is_not_answered_yet(capsys, clinic):
    assert verdict(capsys, check.cure, ..., *clinic).startswith("○")


CURES = {
    "That is `ill` as it was": lambda ill: ill,
    "always on": lambda ill: replace(ill),
    "toss coins": lambda ill: replace(ill, lr=0.05),
    "are dead": lambda ill: replace(ill, lr=50.0),
    "keep 784 visible and 64 hidden units": lambda ill: replace(ill, model=partial(RBM, 784, 100)),
    "Give an Experiment": lambda ill: PCD(),
    "yours trains a Linear": lambda ill: replace(ill, model=partial(torch.nn.Linear, 784, 64)),
}


@pytest.mark.parametrize("hint", CURES)
def test_what_does_not_cure_gets_its_verdict(capsys, clinic, hint):
    assert hint in verdict(capsys, check.cure, CURES[hint](clinic[0]), *clinic)


# 4. Whom to believe.


def estimates(**pairs):
    return {name: tuple(LogProbability(value, value - 1, value + 1) for value in pair) for name, pair in pairs.items()}


TABLE = estimates(short=(-90.0, -120.0), long=(-101.0, -103.0), lucky=(-118.0, -112.0))


def test_the_solution_believes_the_pairs_that_agree(capsys):
    assert SOLUTIONS["trusted"](TABLE) == ["long"]
    assert verdict(capsys, check.whom_to_believe, SOLUTIONS["err_high"], ["long"], TABLE).startswith("✓")


BELIEFS = {
    "○": (..., ["long"]),
    "○ Not": ("AIS", ...),
    'is "AIS" or "reverse AIS"; yours is': ("both", ["long"]),
    "finds log Z too *low*": ("reverse AIS", ["long"]),
    "There is no row 'longer'": ("AIS", ["longer"]),
    "'short': the two are 30.0 nats apart": ("AIS", ["long", "short"]),
    "'lucky': the two are 6.0 nats apart": ("AIS", ["long", "lucky"]),
    "'long': the two are only 2.0 nats apart": ("AIS", []),
}


@pytest.mark.parametrize("hint", BELIEFS)
def test_a_wrong_belief_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.whom_to_believe, *BELIEFS[hint], TABLE)


def test_one_name_need_not_be_in_a_list(capsys):
    assert verdict(capsys, check.whom_to_believe, "AIS", "long", TABLE).startswith("✓")
