"""Notebook 03: each usual mistake has a hint of its own, and no answer is an error message."""

import pytest
import torch
from answers import solutions, verdict
from torch import nn

from dlkit.exercises import dbn_pretraining as check
from dlkit.models import RBM
from dlkit.models.sparse_coding import SparseCoding

SOLUTIONS = solutions("03_dbn_pretraining")
FUNCTIONS = ["features", "upside_down", "corrupt", "ista_step"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_answer_of_another_type_is_named(capsys, name):
    assert "float" in verdict(capsys, getattr(check, name), lambda *_: 1.0)


# 1. Features.

FEATURES = {
    "the sigmoid of it": lambda v, W, b: v @ W + b,
    "That is vᵀW alone": lambda v, W, b: v @ W,
    "The bias b is missing": lambda v, W, b: torch.sigmoid(v @ W),
    "inside the sigmoid": lambda v, W, b: torch.sigmoid(v @ W) + b,
    "the product with Wᵀ": lambda v, W, b: torch.sigmoid(v @ W.T + b),
    "(hidden, batch)": lambda v, W, b: torch.sigmoid(v @ W + b).T,
    "probability of *off*": lambda v, W, b: torch.sigmoid(-(v @ W) - b),
    "softmax makes the units share": lambda v, W, b: (v @ W + b).softmax(1),
    "Those are samples": lambda v, W, b: torch.bernoulli(torch.sigmoid(v @ W + b)),
    "yours has shape (4,)": lambda v, W, b: torch.sigmoid(v[0] @ W + b),
    "one product of matrices": lambda v, W, b: torch.tanh(v @ W + b),
}


@pytest.mark.parametrize("hint", FEATURES)
def test_wrong_features_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.features, FEATURES[hint])


def test_features_one_image_at_a_time_are_right_too(capsys):
    def loop(v, W, b):
        return torch.stack([torch.sigmoid(b + row @ W) for row in v])

    assert verdict(capsys, check.features, loop).startswith("✓")


# 2. Upside down.


def turned(W=lambda rbm: rbm.W.T, a=lambda rbm: rbm.b, b=lambda rbm: rbm.a):
    """An answer with each parameter made by a function of the RBM below."""

    def turn(rbm):
        top = RBM(rbm.hidden, rbm.visible)
        with torch.no_grad():
            for name, make in (("W", W), ("a", a), ("b", b)):
                getattr(top, name).copy_(make(rbm))
        return top

    return turn


def turns_the_one_below(rbm):
    rbm.W.data = rbm.W.data.T.contiguous()
    return turned(lambda rbm: rbm.W)(rbm)


def shares_memory(rbm):
    top = turned()(rbm)
    top.W = nn.Parameter(rbm.W.T)
    return top


def shares_a_bias(rbm):
    top = turned()(rbm)
    top.a.data = rbm.b.data
    return top


TURNED = {
    "W is as it was": turned(W=lambda rbm: rbm.W),
    "W has changed its sign": turned(W=lambda rbm: -rbm.W.T),
    "it is the transpose": turned(W=lambda rbm: 2 * rbm.W.T),
    "The biases are not swapped": turned(a=lambda rbm: rbm.a, b=lambda rbm: rbm.b),
    "Still 0: a.": turned(a=lambda rbm: 0 * rbm.b),
    "Still 0: b.": turned(b=lambda rbm: 0 * rbm.a),
    "Still 0: a and b.": turned(a=lambda rbm: 0 * rbm.b, b=lambda rbm: 0 * rbm.a),
    "`a`, the bias of the upper": turned(a=lambda rbm: -rbm.b),
    "`b`, the bias of the upper": turned(b=lambda rbm: rbm.b),
    "has itself changed": turns_the_one_below,
    "It shares memory": shares_memory,
    "training the one would change both": shares_a_bias,
    "the very same RBM": lambda rbm: rbm,
    "Yours is a tuple": lambda rbm: (rbm.W.T, rbm.b, rbm.a),
    "yours has 7 visible and 2 hidden": lambda rbm: RBM(7, 2),
}


@pytest.mark.parametrize("hint", TURNED)
def test_a_wrong_turn_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.upside_down, TURNED[hint])


def test_a_view_that_is_cloned_is_right_too(capsys):
    def clones(rbm):
        top = RBM(rbm.hidden, rbm.visible)
        top.W, top.a, top.b = (nn.Parameter(x.clone()) for x in (rbm.W.T, rbm.b, rbm.a))
        return top

    assert verdict(capsys, check.upside_down, clones).startswith("✓")


# 3. Holes.


def kept(v, share, generator, shape=None):
    return (torch.rand(shape or v.shape, generator=generator) >= share).float()


def in_place(v, share, generator):
    v *= kept(v, share, generator)
    return v


HOLES = {
    "v itself has changed": in_place,
    "You scaled up what is kept": lambda v, share, g: v * kept(v, share, g) / (1 - share),
    "you *kept* that share": lambda v, share, g: v * (1 - kept(v, share, g)),
    "50% of the inputs are gone": lambda v, share, g: v * kept(v, 0.5, g),
    "Whole images are gone": lambda v, share, g: v * kept(v, share, g, (len(v), 1)),
    "at the same places": lambda v, share, g: v * kept(v, share, g, (1, v.shape[1])),
    "draw from `generator`": lambda v, share, g: v * kept(v, share, None),
    "draw from the `generator` that is given": lambda v, share, g: v * kept(v, share, torch.Generator().manual_seed(1)),
    "yours has other values": lambda v, share, g: v + share * torch.randn(v.shape, generator=g),
    "That is the mask": kept,
    "Nothing has been set to 0": lambda v, share, g: v.clone(),
    "yours has shape (400,)": lambda v, share, g: v[0] * kept(v[0], share, g),
}


@pytest.mark.parametrize("hint", HOLES)
def test_wrong_holes_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.corrupt, HOLES[hint])


def test_an_equal_number_of_holes_in_each_image_is_right_too(capsys):
    def counted(v, share, generator):
        order = torch.rand(v.shape, generator=generator).argsort(1)
        return torch.where(order < share * v.shape[1], 0, v)

    assert verdict(capsys, check.corrupt, counted).startswith("✓")


# 4. A step of ISTA.


def slope(h, v, D):
    return (v - h @ D) @ D.T


STEPS = {
    "Some of yours are below 0": lambda h, v, D, rate, penalty: h + rate * (slope(h, v, D) - penalty),
    "The penalty is missing": lambda h, v, D, rate, penalty: (h + rate * slope(h, v, D)).clamp(min=0),
    "must count *against* a part": lambda h, v, D, rate, penalty: (h + rate * (slope(h, v, D) + penalty)).clamp(min=0),
    "goes up the slope": lambda h, v, D, rate, penalty: (h - rate * (slope(h, v, D) + penalty)).clamp(min=0),
    "The rate is missing": lambda h, v, D, rate, penalty: (h + slope(h, v, D) - penalty).clamp(min=0),
    "too is multiplied by the rate": lambda h, v, D, rate, penalty: (h + rate * slope(h, v, D) - penalty).clamp(min=0),
    "what is *left* of v": lambda h, v, D, rate, penalty: (h + rate * (v @ D.T - penalty)).clamp(min=0),
    "the change alone": lambda h, v, D, rate, penalty: rate * (slope(h, v, D) - penalty),
    "with either sign": lambda h, v, D, rate, penalty: nn.functional.softshrink(
        h + rate * slope(h, v, D), rate * penalty
    ),
    "yours has shape (6, 4)": lambda h, v, D, rate, penalty: v - h @ D,
    "how well each part fits what": lambda h, v, D, rate, penalty: torch.zeros_like(h),
}


@pytest.mark.parametrize("hint", STEPS)
def test_a_wrong_step_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.ista_step, STEPS[hint])


def test_many_steps_of_the_solution_come_to_the_librarys_code():
    model = SparseCoding(6, 8, penalty=0.3, steps=2000, generator=torch.Generator().manual_seed(0))
    v, h = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(5, 8)
    D = model.D.detach()
    for _ in range(2000):
        h = SOLUTIONS["ista_step"](h, v, D, 0.2, 0.3)
    torch.testing.assert_close(h, model.hidden_given(v), atol=1e-3, rtol=0)
