"""Notebook 04: right answers of several styles are taken, and each usual mistake has a hint of its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import points, solutions, verdict
from torch import nn

from dlkit.exercises import dbn_fine_tuning as check
from dlkit.exercises.dream_budget import Steps
from dlkit.models import dream, init_dream

SOLUTIONS = solutions("04_dbn_fine_tuning")


# 1. A label's free energy.


def by_label(f, W, U, c, b, part=lambda x: F.softplus(x).sum(1)):
    """-c[y] less `part` of the hidden units' input, for each label."""
    return torch.stack([-c[y] - part(f @ W + b + U[y]) for y in range(len(c))], 1)


def by_enumeration(f, W, U, c, b):
    hidden = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * len(b)).view(-1, len(b))
    return -torch.logsumexp((f @ W + b)[:, None, None] @ hidden.T + (U @ hidden.T)[:, None] + c[:, None, None], 3)[
        :, :, 0
    ]


def in_numpy(f, W, U, c, b):
    f, W, U, c, b = (np.asarray(x, dtype=np.float64) for x in (f, W, U, c, b))
    return -c - np.log1p(np.exp((f @ W + b)[:, None] + U)).sum(2)


def by_loops(f, W, U, c, b):
    rows = []
    for image in f:
        inputs = [b + image @ W + row for row in U]
        rows.append([float(-bias - (1 + x.exp()).log().sum()) for bias, x in zip(c, inputs, strict=True)])
    return rows


ENERGIES = {
    "by loops, as lists": by_loops,
    "in float64 by numpy": in_numpy,
    "a list of tensors": lambda *given: list(by_label(*given)),
    "with the features' own part": lambda f, *rest: by_label(f, *rest) - f.sum(1, keepdim=True),
    "in float64": lambda *given: by_label(*(x.double() for x in given)),
    "in one expression": lambda f, W, U, c, b: -c - F.softplus((f @ W + b).unsqueeze(1) + U).sum(-1),
}
WRONG_ENERGIES = {
    "Right but for the sign": lambda *given: -by_label(*given),
    "before any softmax": lambda *given: (-by_label(*given)).softmax(1),
    "a bias of its own": lambda f, W, U, c, b: by_label(f, W, U, 0 * c, b),
    "*minus* c[y]": lambda f, W, U, c, b: by_label(f, W, U, -c, b),
    "lacks their bias b": lambda f, W, U, c, b: by_label(f, W, U, c, 0 * b),
    "summed over both its states": lambda *given: by_label(*given, lambda x: x.sigmoid().sum(1)),
    "with the unit off belongs to the sum": lambda *given: by_label(*given, lambda x: x.exp().sum(1)),
    "add those up, not the inputs": lambda *given: by_label(*given, lambda x: F.softplus(x.sum(1))),
    "do not see the features": lambda f, *rest: by_label(0 * f, *rest),
    "do not see the label": lambda f, W, U, c, b: by_label(f, W, 0 * U, c, b),
    "not their mean": lambda *given: by_label(*given, lambda x: F.softplus(x).mean(1)),
    "number for each hidden unit": lambda f, W, U, c, b: -c[:, None] - F.softplus((f @ W + b)[:, None] + U),
    "Yours is transposed, (2, 5)": lambda *given: by_label(*given).T,
    "one number an image": lambda *given: by_label(*given).amin(1),
    "For each label y": lambda f, W, U, c, b: torch.randn(len(f), len(c), generator=torch.Generator().manual_seed(0)),
    "is of dtype int64": lambda *given: by_label(*given).long(),
    "a column a label, of shape (5, 2) here": lambda f, W, U, c, b: torch.zeros(5, 3),
    "has changed `b`": lambda f, W, U, c, b: by_label(f, W, U, c, b.add_(0.5)),
    "raised IndexError": lambda f, W, U, c, b: torch.stack([by_label(f, W, U, c, b)[:, y] for y in range(10)], 1),
}


@pytest.mark.parametrize("style", ENERGIES)
def test_free_energies_of_another_style_are_right(capsys, style):
    assert verdict(capsys, check.label_free_energies, ENERGIES[style]).startswith("✓")


@pytest.mark.parametrize("hint", WRONG_ENERGIES)
def test_a_wrong_free_energy_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.label_free_energies, WRONG_ENERGIES[hint])


def test_two_labels_only_do_not_pass(capsys):
    def of_two(f, W, U, c, b):
        return torch.stack([by_label(f, W, U, c, b)[:, y] for y in (0, 1)], 1)

    assert "of shape (3, 7) here" in verdict(capsys, check.label_free_energies, of_two)


# 2. The wake phase.


def waked(factor=1.0, squash=torch.sigmoid, bias=1.0, a_factor=1.0):
    def answer(below, above, G, a):
        difference = squash(above @ G.T + bias * a) - below
        return factor * difference.T @ above / len(below), a_factor * difference.mean(0)

    return answer


def by_autograd(below, above, G, a):
    G, a = G.requires_grad_(), a.requires_grad_()
    loss = F.binary_cross_entropy_with_logits(above @ G.T + a, below, reduction="sum") / len(below)
    return torch.autograd.grad(loss, (G, a))


def by_images(below, above, G, a):
    grads = [torch.outer(torch.sigmoid(G @ h + a) - v, h) for v, h in zip(below, above, strict=True)]
    return [sum(grads) / len(grads), (torch.sigmoid(above @ G.T + a) - below).sum(0) / below.shape[0]]


def wake_in_numpy(*given):
    below, above, G, a = (np.asarray(x, dtype=np.float64) for x in given)
    difference = 1 / (1 + np.exp(-(above @ G.T + a))) - below
    return np.einsum("nv,nh->vh", difference, above) / len(below), difference.mean(0)


WAKES = {
    "by autograd": by_autograd,
    "image by image, as a list": by_images,
    "in float64 by numpy": wake_in_numpy,
    "as nested lists": lambda *given: [x.tolist() for x in waked()(*given)],
    "by einsum": lambda v, h, G, a: (
        torch.einsum("nv,nh->vh", (h @ G.T + a).sigmoid() - v, h).div(len(v)),
        ((h @ G.T + a).sigmoid() - v).mean(0),
    ),
}
WRONG_WAKES = {
    "Right but for the sign": waked(-1, a_factor=-1),
    "the sum over the batch": lambda v, *rest: tuple(len(v) * x for x in waked()(v, *rest)),
    "*summed* over the units": lambda v, *rest: tuple(x / v.shape[1] for x in waked()(v, *rest)),
    "not by that of the units": lambda v, *rest: tuple(len(v) * x / v.shape[1] for x in waked()(v, *rest)),
    "through a sigmoid": waked(squash=lambda x: x),
    "what was seen alone": waked(squash=torch.zeros_like),
    "what generation says alone": lambda v, h, G, a: waked()(0 * v, h, G, a),
    "lacks their bias a": waked(bias=0),
    "has no p (1 - p)": lambda v, h, G, a: [
        (d := ((p := (h @ G.T + a).sigmoid()) - v) * p * (1 - p)).T @ h / len(v), d.mean(0)
    ],
    "as in the sleep phase": lambda v, h, G, a: (v.T @ ((v @ G).sigmoid() - h) / len(v), v.mean(0)),
    "G's is right. a's is not: it is the mean": waked(a_factor=6),
    "G's is right. a's is not: its sign": waked(a_factor=-1),
    "G's has the wrong sign": waked(-1),
    "the wrong way round": lambda *given: (waked()(*given)[0].T, waked()(*given)[1]),
    "in the other order": lambda *given: waked()(*given)[::-1],
    "a row for each image": lambda v, h, G, a: (waked()(v, h, G, a)[0], (h @ G.T + a).sigmoid() - v),
    "Return two tensors": lambda *given: waked()(*given)[0],
    "There is None": lambda *given: (waked()(*given)[0], None),
    "p = σ(a + above": waked(0.5),
    "has changed `G`": lambda v, h, G, a: waked()(v, h, G.mul_(1.1), a),
}  # fmt: skip


@pytest.mark.parametrize("style", WAKES)
def test_gradients_of_another_style_are_right(capsys, style):
    assert verdict(capsys, check.wake, WAKES[style]).startswith("✓")


@pytest.mark.parametrize("hint", WRONG_WAKES)
def test_a_wrong_gradient_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.wake, WRONG_WAKES[hint])


def test_the_size_of_the_batch_is_not_a_constant(capsys):
    def six_images(below, above, G, a):
        difference = torch.sigmoid(above @ G.T + a) - below
        return difference.T @ above / 6, difference.mean(0)

    assert verdict(capsys, check.wake, six_images).startswith("✗ Not yet")


def test_a_gradient_the_wrong_way_round_is_told_of_a_square_matrix_too(capsys):
    def turned_if_square(below, above, G, a):
        grad, bias = waked()(below, above, G, a)
        return (grad.T if grad.shape[0] == grad.shape[1] else grad), bias

    assert "the wrong way round" in verdict(capsys, check.wake, turned_if_square)


# 3. Unrolling.


def linear(weight, bias):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


def by_state_dict(W, b):
    layer = nn.Linear(W.shape[0], W.shape[1])
    layer.load_state_dict({"weight": W.T, "bias": b})
    return layer


def by_data(W, b):
    layer = nn.Linear(*W.shape)
    layer.weight.data = W.T.clone()
    layer.bias.data[:] = b
    return layer


def by_loops_over_weights(W, b):
    layer = nn.Linear(*W.shape)
    with torch.no_grad():
        for i in range(W.shape[0]):
            for j in range(W.shape[1]):
                layer.weight[j, i] = W[i, j]
        for j in range(len(b)):
            layer.bias[j] = b[j]
    return layer


LAYERS = {
    "parameters of clones": lambda W, b: linear(W.T.clone(), b.clone()),
    "by its state": by_state_dict,
    "by .data": by_data,
    "weight by weight": by_loops_over_weights,
    "in float64": lambda W, b: by_data(W.double(), b.double()).double(),
    "by numpy": lambda W, b: linear(torch.from_numpy(W.detach().numpy().T.copy()), torch.tensor(b.tolist())),
}
WRONG_LAYERS = {
    "Make an `nn.Linear(visible, hidden)`; yours is of type Parameter": lambda W, b: W,
    "yours is the class": lambda W, b: nn.Linear,
    "alone: what it gives are the *inputs*": lambda W, b: nn.Sequential(linear(W.T.clone(), b.clone()), nn.Sigmoid()),
    "W transposed; yours (4, 3)": lambda W, b: linear(W.clone(), b.clone()),
    "Its bias is not b": lambda W, b: linear(W.T.clone(), torch.zeros_like(b)),
    "is not b": lambda W, b: linear(W.T.clone(), None),
    "Its weight is not W transposed": lambda W, b: nn.Linear(*W.shape).requires_grad_(False) and linear(
        torch.randn(W.T.shape, generator=torch.Generator().manual_seed(1)), b.clone()
    ),
    "so it has to be W transposed": lambda W, b: linear(
        (W if W.shape[0] == W.shape[1] else W.T).clone(), b.clone()
    ),
    "shares its memory with the RBM": lambda W, b: linear(W.T, b),
    "Copy, `clone()`": lambda W, b: linear(W.T.clone(), b),
    "It would not learn": lambda W, b: linear(W.T.clone(), b.clone()).requires_grad_(False),
    "returns nothing": lambda W, b: print(end=""),
}  # fmt: skip


@pytest.mark.parametrize("style", LAYERS)
def test_a_layer_made_in_another_way_is_right(capsys, style):
    assert verdict(capsys, check.unroll, LAYERS[style]).startswith("✓")


@pytest.mark.parametrize("hint", WRONG_LAYERS)
def test_a_wrong_layer_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.unroll, WRONG_LAYERS[hint])


# 4. Principal components.


def by_pixels(x, mean, basis):
    back = []
    for image in x:
        sums = mean.clone()
        for direction in basis.T:
            sums = sums + ((image - mean) @ direction) * direction
        back.append(sums)
    return back


PROJECTIONS = {
    "image by image, as a list": by_pixels,
    "in float64 by numpy": lambda *given: (
        lambda x, mean, basis: mean + (x - mean) @ basis @ basis.T
    )(*(x.numpy().astype("float64") for x in given)),
    "by einsum": lambda x, mean, basis: torch.einsum("np,pc,qc->nq", x - mean, basis, basis) + mean,
    "by the matrix of the projection": lambda x, mean, basis: x @ (P := basis @ basis.mT) + mean - mean @ P,
    "by lstsq": lambda x, mean, basis: (basis @ torch.linalg.lstsq(basis, (x - mean).T).solution).T + mean,
    "as nested lists": lambda x, mean, basis: ((x - mean) @ basis @ basis.T + mean).tolist(),
}  # fmt: skip
WRONG_PROJECTIONS = {
    "That is the code, 2 numbers an image": lambda x, mean, basis: (x - mean) @ basis,
    "put it back at the end.": lambda x, mean, basis: (x - mean) @ basis @ basis.T,
    "take the mean away before": lambda x, mean, basis: x @ basis @ basis.T,
    "directions around the mean": lambda x, mean, basis: x @ basis @ basis.T + mean,
    "At the end the mean is put back": lambda x, mean, basis: (x - mean) @ basis @ basis.T - mean,
    "First *minus* the mean": lambda x, mean, basis: (x + mean) @ basis @ basis.T - mean,
    "That is the mean of x: `mean`": lambda x, mean, basis: (x - x.mean(0)) @ basis @ basis.T + x.mean(0),
    "That is the mean of x: take": lambda x, mean, basis: (x - x.mean(0)) @ basis @ basis.T,
    "as if no direction were dropped": lambda x, mean, basis: x,
    "Yours is transposed": lambda x, mean, basis: ((x - mean) @ basis @ basis.T + mean).T,
    "Less the mean, onto the basis": lambda x, mean, basis: (x - mean) @ basis @ basis.T + 2 * mean,
    "has changed `x`": lambda x, mean, basis: x.sub_(mean) @ basis @ basis.T + mean,
    "is of dtype bool": lambda x, mean, basis: (x - mean) @ basis @ basis.T + mean > 0,
    "raised RuntimeError": lambda x, mean, basis: (x - mean) @ basis.T,
}


@pytest.mark.parametrize("style", PROJECTIONS)
def test_a_projection_of_another_style_is_right(capsys, style):
    assert verdict(capsys, check.principal_components, PROJECTIONS[style]).startswith("✓")


@pytest.mark.parametrize("hint", WRONG_PROJECTIONS)
def test_a_wrong_projection_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.principal_components, WRONG_PROJECTIONS[hint])


@pytest.mark.parametrize("name", ["label_free_energies", "wake", "unroll", "principal_components"])
def test_the_second_wrong_try_is_told_a_smaller_case(capsys, name):
    exercise = getattr(check, name)
    exercise.wrong_tries = 1
    exercise(lambda *_: 7.0)
    assert "A step further: " in capsys.readouterr().out


# 5. Dreams on a budget.


def dreamt(steps, start=init_dream):
    """As many steps of the library's dreams as the budget allows, or more."""

    def answer(dbn, labels, generator):
        dreams = dream(dbn, start(dbn, chains=len(labels), generator=generator), label=labels, generator=generator)
        return [next(dreams) for _ in range(steps)][-1].state

    return answer


def test_the_solution_gets_all_points(capsys):
    assert points(capsys, check.dream_on_a_budget, SOLUTIONS["dream_on_a_budget"])[0] == 10


def test_dreams_without_an_idea_get_some_points(capsys):
    given, printed = points(capsys, check.dream_on_a_budget, dreamt(20))
    assert 0 < given < 5
    assert "of 100 dreams as their label" in printed


def test_ten_copies_of_a_dream_get_none_for_variety(capsys):
    def copies(dbn, labels, generator):
        return dreamt(20)(dbn, torch.arange(10), generator)[:, :500].repeat_interleave(10, 0).numpy()

    assert "0.00 times as far apart" in points(capsys, check.dream_on_a_budget, copies)[1]


WORTHLESS = {
    "2,100 steps of one chain; 2,000 are allowed": dreamt(21),
    "No step of the top RBM's chain was counted": lambda dbn, labels, g: torch.bernoulli(torch.full((100, 500), 0.5)),
    "Those are images": lambda dbn, labels, g: torch.zeros(100, 784),
    "from 0 to 1": lambda dbn, labels, g: torch.full((100, 500), 7.0),
    "of shape (100, 500) here; yours has shape (10, 510)": lambda dbn, labels, g: dreamt(1)(dbn, labels[:10], g),
    "yours is of type str": lambda dbn, labels, g: "a four",
    "raised NameError": lambda dbn, labels, g: chains,
    "○ Not answered yet": lambda dbn, labels, g: ...,
}


@pytest.mark.parametrize("hint", WORTHLESS)
def test_what_is_no_dream_on_the_budget_gets_no_points(capsys, hint):
    given, printed = points(capsys, check.dream_on_a_budget, WORTHLESS[hint])
    assert given == 0
    assert hint in printed


STEPS = {
    "matrices": lambda v, W: (v @ W) @ W.T,
    "transposed": lambda v, W: W @ (W.T @ v.T),
    "with a bias": lambda v, W: F.linear(torch.addmm(torch.zeros(70), v, W), W),
    "in parts": lambda v, W: (v[:, :30] @ W[:30] + v[:, 30:] @ W[30:]) @ W.T,
    "row by row": lambda v, W: torch.stack([W @ (row @ W) for row in v]),
    "by einsum": lambda v, W: torch.einsum("nh,vh->nv", torch.einsum("nv,vh->nh", v, W), W),
    "by oneDNN": lambda v, W: torch.ops.mkldnn._linear_pointwise(v @ W, W, None, "none", [], ""),
}


@pytest.mark.parametrize("style", STEPS)
def test_a_step_is_counted_however_it_is_written(style):
    with Steps(40, 70) as steps:
        STEPS[style](torch.rand(5, 40), torch.rand(40, 70))
        torch.rand(5, 40) @ torch.rand(40, 30)
    assert steps.count == 5
