"""Notebook 03: each usual mistake has a hint of its own, right answers of any style pass."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from answers import points, solutions, verdict
from torch import nn

from dlkit import Experiment, data
from dlkit.exercises import dbn_pretraining as check
from dlkit.models import RBM, Autoassociator
from dlkit.models.sparse_coding import SparseCoding
from dlkit.training import CD

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
    "That is one row": lambda v, W, b: torch.sigmoid(v[0] @ W + b),
    "yours has shape (4, 6, 1)": lambda v, W, b: torch.sigmoid(v @ W + b).T[..., None],
    "The bias is taken away": lambda v, W, b: torch.sigmoid(v @ W - b),
    "tanh runs from -1 to 1": lambda v, W, b: torch.tanh(v @ W + b),
    "σ(x), not σ(2x)": lambda v, W, b: (torch.tanh(v @ W + b) + 1) / 2,
    "also if it is the only one": lambda v, W, b: torch.sigmoid(v @ W + b).squeeze(),
    "one product of matrices": lambda v, W, b: torch.sigmoid(v @ W + b).square(),
    "has changed `b`": lambda v, W, b: torch.sigmoid(v @ W + b.add_(0.1)),
    "returns nothing": lambda v, W, b: print("", end=""),
}


@pytest.mark.parametrize("hint", FEATURES)
def test_wrong_features_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.features, FEATURES[hint])


RIGHT_FEATURES = {
    "an image at a time": lambda v, W, b: torch.stack([torch.sigmoid(b + row @ W) for row in v]),
    "a list of rows": lambda v, W, b: [nn.functional.linear(row, W.T, b).sigmoid() for row in v],
    "numpy": lambda v, W, b: 1 / (1 + np.exp(-(v.numpy() @ W.numpy() + b.numpy()))),
    "float64": lambda v, W, b: torch.addmm(b.double(), v.double(), W.double()).sigmoid(),
    "softmax of on and off": lambda v, W, b: torch.stack([v @ W + b, 0 * (v @ W)]).softmax(0)[0],
}


@pytest.mark.parametrize("style", RIGHT_FEATURES)
def test_features_of_another_style_are_right(capsys, style):
    assert verdict(capsys, check.features, RIGHT_FEATURES[style]).startswith("✓")


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
    "has changed `rbm`": turns_the_one_below,
    "Return an RBM: RBM(rbm.hidden": lambda rbm: rbm.W.T,
    "It shares memory": shares_memory,
    "training the one would change both": shares_a_bias,
    "the very same RBM": lambda rbm: rbm,
    "Yours is a tuple": lambda rbm: (rbm.W.T, rbm.b, rbm.a),
    "yours has 7 visible and 2 hidden": lambda rbm: RBM(7, 2),
}


@pytest.mark.parametrize("hint", TURNED)
def test_a_wrong_turn_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.upside_down, TURNED[hint])


def clones(rbm):
    top = RBM(rbm.hidden, rbm.visible)
    top.W, top.a, top.b = (nn.Parameter(x.clone()) for x in (rbm.W.T, rbm.b, rbm.a))
    return top


def turns_a_copy(rbm):
    top = copy.deepcopy(rbm)
    top.W.data, top.a.data, top.b.data = top.W.data.T.contiguous(), top.b.data, top.a.data
    return top


def a_number_at_a_time(rbm):
    top = RBM(rbm.hidden, rbm.visible, std=3.0)
    with torch.no_grad():
        for j in range(rbm.hidden):
            top.a[j] = rbm.b[j]
            for i in range(rbm.visible):
                top.W[j, i], top.b[i] = rbm.W[i, j], rbm.a[i]
    return top


def by_numpy(rbm):
    top = RBM(*reversed(rbm.W.shape))
    values = {"W": rbm.W.numpy().T.copy(), "a": rbm.b.numpy().copy(), "b": rbm.a.numpy().copy()}
    top.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    return top.requires_grad_(False)


@pytest.mark.parametrize("answer", [turned(), clones, turns_a_copy, a_number_at_a_time, by_numpy])
def test_a_turn_of_another_style_is_right(capsys, answer):
    assert verdict(capsys, check.upside_down, answer).startswith("✓")


# 3. Holes.


def kept(v, share, generator, shape=None):
    return (torch.rand(shape or v.shape, generator=generator) >= share).float()


def in_place(v, share, generator):
    v *= kept(v, share, generator)
    return v


def in_runs(v, share, generator):
    """A share of each image that is one block, at a place of its own."""
    first = (torch.rand(len(v), 1, generator=generator) * v.shape[1]).long()
    place = (torch.arange(v.shape[1]) - first) % v.shape[1]
    return v * (place >= share * v.shape[1])


HOLES = {
    "has changed `v`": in_place,
    "The holes lie side by side": in_runs,
    "none is gone": lambda v, share, g: v * (1 - share),
    "of dtype bool": lambda v, share, g: torch.rand(v.shape, generator=g) >= share,
    "You scaled up what is kept": lambda v, share, g: v * kept(v, share, g) / (1 - share),
    "you *kept* that share": lambda v, share, g: v * (1 - kept(v, share, g)),
    "51% of the inputs are gone": lambda v, share, g: v * kept(v, 0.5, g),
    "Whole images are gone": lambda v, share, g: v * kept(v, share, g, (len(v), 1)),
    "at the same places": lambda v, share, g: v * kept(v, share, g, (1, v.shape[1])),
    "draw from `generator`": lambda v, share, g: v * kept(v, share, None),
    "draw from the `generator` that is given": lambda v, share, g: v * kept(v, share, torch.Generator().manual_seed(1)),
    "yours has other values": lambda v, share, g: v + share * torch.randn(v.shape, generator=g),
    "That is the mask": kept,
    "Nothing has been set to 0": lambda v, share, g: v.clone(),
    "yours has shape (200,)": lambda v, share, g: v[0] * kept(v[0], share, g),
    "share=0.6, and 25%": lambda v, share, g: v * kept(v, 0.25, g),
}


@pytest.mark.parametrize("hint", HOLES)
def test_wrong_holes_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.corrupt, HOLES[hint])


def counted(v, share, generator):
    """An equal number of holes in each image."""
    order = torch.rand(v.shape, generator=generator).argsort(1)
    return torch.where(order < share * v.shape[1], 0, v)


def seeds_numpy(v, share, generator):
    """Its numbers are numpy's, from a seed that the generator draws."""
    numbers = np.random.default_rng(torch.randint(2**31, (1,), generator=generator).item())
    return np.where(numbers.random(v.shape) < share, 0.0, v.numpy())


def one_at_a_time(v, share, generator):
    draws = torch.rand(v.numel(), generator=generator).tolist()
    return [
        [0.0 if draws[i * len(row) + j] < share else x for j, x in enumerate(row)] for i, row in enumerate(v.tolist())
    ]


RIGHT_HOLES = {
    "counted": counted,
    "numpy": seeds_numpy,
    "lists": one_at_a_time,
    "bernoulli": lambda v, share, g: v * torch.bernoulli(torch.full_like(v, 1 - share), generator=g),
    "masked_fill": lambda v, share, g: v.masked_fill(torch.rand(v.shape, generator=g) < share, 0),
    "a clone": lambda v, share, g: v.clone().mul_(kept(v, share, g)),
}


@pytest.mark.parametrize("style", RIGHT_HOLES)
def test_holes_of_another_style_are_right(capsys, style):
    assert verdict(capsys, check.corrupt, RIGHT_HOLES[style]).startswith("✓")


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
    "of the change alone": lambda h, v, D, rate, penalty: h + (rate * (slope(h, v, D) - penalty)).clamp(min=0),
    "how well each part fits what": lambda h, v, D, rate, penalty: torch.zeros_like(h),
    "less the price": lambda h, v, D, rate, penalty: (h + 0.4 * (slope(h, v, D) - 0.7)).clamp(min=0),
    "has changed `h`": lambda h, v, D, rate, penalty: h.add_(rate * (slope(h, v, D) - penalty)).clamp_(min=0),
    "of dtype int64": lambda h, v, D, rate, penalty: (h > 0).long(),
}


@pytest.mark.parametrize("hint", STEPS)
def test_a_wrong_step_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.ista_step, STEPS[hint])


def by_autograd(h, v, D, rate, penalty):
    h = h.clone().requires_grad_()
    (0.5 * (v - h @ D).square().sum() + penalty * h.sum()).backward()
    return torch.relu(h.detach() - rate * h.grad)


def a_part_at_a_time(h, v, D, rate, penalty):
    rest = [v[n] - sum(h[n, k] * D[k] for k in range(len(D))) for n in range(len(v))]
    return [[max(0.0, float(h[n, k] + rate * (r @ D[k] - penalty))) for k in range(len(D))] for n, r in enumerate(rest)]


RIGHT_STEPS = {
    "autograd": by_autograd,
    "loops": a_part_at_a_time,
    "numpy": lambda h, v, D, rate, penalty: np.maximum(
        0, h.numpy() + rate * ((v.numpy() - h.numpy() @ D.numpy()) @ D.numpy().T - penalty)
    ),
    "float64": lambda h, v, D, rate, penalty: torch.where(
        (s := h.double() + rate * (slope(h.double(), v.double(), D.double()) - penalty)) > 0, s, 0
    ),
    "multiplied out": lambda h, v, D, rate, penalty: (
        h - rate * h @ (D @ D.T) + rate * v @ D.T - rate * penalty
    ).relu(),
}


@pytest.mark.parametrize("style", RIGHT_STEPS)
def test_a_step_of_another_style_is_right(capsys, style):
    assert verdict(capsys, check.ista_step, RIGHT_STEPS[style]).startswith("✓")


def test_many_steps_of_the_solution_come_to_the_librarys_code():
    model = SparseCoding(6, 8, penalty=0.3, steps=2000, generator=torch.Generator().manual_seed(0))
    v, h = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(5, 8)
    D = model.D.detach()
    for _ in range(2000):
        h = SOLUTIONS["ista_step"](h, v, D, 0.2, 0.3)
    torch.testing.assert_close(h, model.hidden_given(v), atol=1e-3, rtol=0)


# 5. The open task: the best features in 200 steps.


@pytest.fixture(scope="module")
def digits():
    """What the notebook hands to the check, besides the plan."""
    mnist = data.load("mnist", binarise="sample")
    return mnist.train.images[:15_000].flatten(1), mnist.train.labels[:1000], mnist.validation[:5000]


def layer(**changes):
    model = partial(RBM, 784, 256)
    return replace(Experiment(model, None, CD(), epochs=2, lr=0.1), **changes)


def test_the_solution_gets_full_points(capsys, digits):
    assert points(capsys, check.best_features, SOLUTIONS["plan"](digits[0]), *digits)[0] == 10


def test_two_layers_of_100_steps_get_few(capsys, digits):
    stack = [layer(epochs=1), layer(epochs=1, model=partial(RBM, 256, 64))]
    got, printed = points(capsys, check.best_features, stack, *digits)
    assert 2 <= got <= 4, printed
    assert "64 features" in printed


OVER = {
    "300 steps of at most 200": [layer(epochs=3)],
    "250 steps of at most 200": [layer(epochs=2), layer(epochs=1, batch_size=200, model=partial(RBM, 256, 64))],
    "200 images in a batch of at most 100": [layer(batch_size=200)],
    "257 features of at most 256": [layer(model=partial(RBM, 784, 257))],
}


@pytest.mark.parametrize("said", OVER)
def test_a_plan_over_the_limit_gets_none(capsys, digits, said):
    got, printed = points(capsys, check.best_features, OVER[said], *digits)
    assert got == 0
    assert said in printed


def knowing(images):
    """A layer that knows digits before its first step: each unit is on for images like one of 256 digits."""
    W = 0.2 * (images[:256] - images.mean(0)).T
    x = images @ W
    rbm = RBM(784, 256)
    rbm.load_state_dict({"W": W, "a": rbm.a, "b": -x.mean(0) - x.std(0)})
    return rbm


NO_PLAN = {
    "Give a list of experiments": lambda images: "two layers",
    "Give a list of experiments, one a layer": lambda images: [layer(), CD()],
    "Give a list": lambda images: [],
    "Your code raised": lambda images: [layer(epochs=1), layer(epochs=1, model=partial(RBM, 100, 50))],
    "Each layer must go up": lambda images: [layer(model=partial(nn.Linear, 784, 10))],
    "knows the digits before": lambda images: [layer(model=partial(knowing, images[:1000]))],
    "Not answered yet": lambda images: ...,
}


@pytest.mark.parametrize("said", NO_PLAN)
def test_what_is_no_plan_is_told(capsys, digits, said):
    got, printed = points(capsys, check.best_features, NO_PLAN[said](digits[0]), *digits)
    assert got == 0
    assert said in printed


def test_an_autoassociator_alone_and_not_in_a_list_is_a_plan_too(capsys, digits):
    over = layer(model=partial(Autoassociator, 784, 256), epochs=3)
    assert "300 steps" in points(capsys, check.best_features, over, *digits)[1]
