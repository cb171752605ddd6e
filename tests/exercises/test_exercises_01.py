"""Notebook 01: right answers pass in whatever form, each usual mistake has a hint of its own, the task gives points."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import points, solutions, verdict
from oracles import random_rbm

from dlkit.data import bars_and_stripes
from dlkit.exercises import energy_and_sampling as check

SOLUTIONS = solutions("01_energy_and_sampling")
FUNCTIONS = ["energy", "free_energy", "gibbs_step", "cd_statistics"]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("nonsense", ["three", torch.zeros(2, 7), [1, [2]], {}, True, float("nan"), 1j])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("no_function", [3, "three", torch.ones(2)])
def test_what_is_no_function_is_told_so(capsys, name, no_function):
    assert "Hand in the function itself" in verdict(capsys, getattr(check, name), no_function)


RIGHT_ENERGIES = {
    "by products": lambda v, h, W, a, b: -(v @ a) - h @ b - v @ W @ h,
    "by einsum": lambda v, h, W, a, b: -torch.einsum("i,ij,j", v, W, h) - torch.dot(a, v) - torch.dot(b, h),
    "by numpy": lambda v, h, W, a, b: (
        -(v.numpy() @ a.numpy()) - h.numpy() @ b.numpy() - v.numpy() @ W.numpy() @ h.numpy()
    ),
    "as a float": lambda v, h, W, a, b: float(-(v * a).sum() - (h * b).sum() - (v[:, None] * W * h).sum()),
    "in float32": lambda v, h, W, a, b: (-(v @ a) - h @ b - v @ W @ h).float(),
    "as a batch of one": lambda v, h, W, a, b: -(v[None] @ a) - h @ b - (v[None] @ W * h).sum(1),
    "of the units that are on": lambda v, h, W, a, b: (
        -a[v == 1].sum() - b[h == 1].sum() - W[v == 1][:, h == 1].sum()
    ).item(),
}


@pytest.mark.parametrize("name", RIGHT_ENERGIES)
def test_a_right_energy_passes(capsys, name):
    assert verdict(capsys, check.energy, RIGHT_ENERGIES[name]).startswith("✓")


def swapped_sizes(v, h, W, a, b):
    pairs = sum(v[i] * W[i, j] * h[j] for i in range(3) for j in range(2))
    return -(v @ a) - h @ b - pairs


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
    "where are v_i and h_j": lambda v, h, W, a, b: -(a @ v) - b @ h - W.sum(),
    "nothing is summed": lambda v, h, W, a, b: -(a @ v) - F.softplus(v @ W + b).sum(),
    "Right for 3 visible and 2 hidden units; with 2 and 5, your code raised IndexError": swapped_sizes,
    "At v = ": lambda v, h, W, a, b: -(a @ v) - b @ h - v @ W @ h if len(v) == 3 else torch.zeros(()),
    "has changed `v`": lambda v, h, W, a, b: -(v.mul_(a).sum()) - b @ h,
    "returns nothing": lambda v, h, W, a, b: print(end=""),
    "not a finite number": lambda v, h, W, a, b: torch.tensor(float("nan")),
    "of type str": lambda v, h, W, a, b: "low",
}


@pytest.mark.parametrize("hint", ENERGIES)
def test_a_wrong_energy_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.energy, ENERGIES[hint])


def every_h():
    return torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()


def by_enumeration(v, W, a, b):
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * len(b)).view(-1, len(b))
    return -torch.logsumexp((v @ a)[:, None] + (v @ W + b) @ states.T, 1)


def by_loops(v, W, a, b):
    result = []
    for row in v:
        total = -sum(row[i] * a[i] for i in range(len(a)))
        for j in range(len(b)):
            x = b[j] + sum(row[i] * W[i, j] for i in range(len(a)))
            total -= x + torch.log1p(torch.exp(-x)) if x > 0 else torch.log1p(torch.exp(x))
        result.append(total)
    return result


RIGHT_FREE_ENERGIES = {
    "softplus": lambda v, W, a, b: -(v @ a) - F.softplus(v @ W + b).sum(1),
    "logaddexp": lambda v, W, a, b: -(v @ a) - torch.logaddexp(torch.zeros_like(b), v @ W + b).sum(-1),
    "logsigmoid": lambda v, W, a, b: (F.logsigmoid(-(v @ W + b))).sum(1) - v @ a,
    "by numpy": lambda v, W, a, b: -(v @ a).numpy() - np.logaddexp(0, (v @ W + b).numpy()).sum(1),
    "in float32": lambda v, W, a, b: (-(v @ a) - F.softplus(v @ W + b).sum(1)).float(),
    "all states": by_enumeration,
    "by loops, a list": by_loops,
}


@pytest.mark.parametrize("name", RIGHT_FREE_ENERGIES)
def test_a_right_free_energy_passes(capsys, name):
    assert verdict(capsys, check.free_energy, RIGHT_FREE_ENERGIES[name]).startswith("✓")


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
    "8 free energies, of shape (8,); yours is of shape ()": lambda v, W, a, b: v.sum(),
    "yours is of shape (8, 2)": lambda v, W, a, b: F.softplus(v @ W + b),
    "it should be": lambda v, W, a, b: torch.zeros(len(v)),
    "belongs inside": lambda v, W, a, b: -(v @ a) - b.sum() - F.softplus(v @ W).sum(1),
    "adds up sigmoids": lambda v, W, a, b: -(v @ a) - (v @ W + b).sigmoid().sum(1),
    "its logarithm is missing.": lambda v, W, a, b: -torch.exp(v @ a) * (1 + torch.exp(v @ W + b)).prod(1),
    "You summed exp(+E)": lambda v, W, a, b: v @ a - F.softplus(-(v @ W + b)).sum(1),
    "with 3 hidden units, it should be": lambda v, W, a, b: -(v @ a) - F.softplus((v @ W + b)[:, :2]).sum(1),
    "in a batch of 1, your code raised": lambda v, W, a, b: (
        -torch.logsumexp((v @ a)[:, None] + (v @ W + b) @ every_h().T, 1)
    ),
    "returns nothing": lambda v, W, a, b: print(end=""),
    "Your code raised AttributeError": lambda v, W, a, b: v.softmax_plus(),
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


def by_comparison(p, g):
    return (torch.rand(p.shape, generator=g, dtype=p.dtype) < p).to(p.dtype)


def in_a_loop(v, W, a, b, g):
    """One chain after the other."""
    new = torch.empty_like(v)
    for block, out in zip(v.chunk(2), new.chunk(2), strict=False):
        out[:] = SOLUTIONS["gibbs_step"](block, W, a, b, g)
    return new


RIGHT_STEPS = {
    "the solution": SOLUTIONS["gibbs_step"],
    "by comparison": lambda *x: steps(hidden=by_comparison, visible=by_comparison)(*x),
    "as an array": lambda *x: steps()(*x).numpy(),
    "by sigmoids of its own": lambda v, W, a, b, g: draw(
        1 / (1 + torch.exp(-(draw(1 / (1 + torch.exp(-(v @ W + b))), g) @ W.T + a))), g
    ),
    "by where": lambda *x: steps(
        visible=lambda p, g: torch.where(torch.rand(p.shape, generator=g) < p, 1.0, 0.0).to(p)
    )(*x),
    "in parts": in_a_loop,
    "in float32 throughout": lambda v, W, a, b, g: steps()(v.float(), W.float(), a.float(), b.float(), g),
}


@pytest.mark.parametrize("name", RIGHT_STEPS)
def test_a_right_gibbs_step_passes(capsys, name):
    assert verdict(capsys, check.gibbs_step, RIGHT_STEPS[name]).startswith("✓")


def each_from_its_own_h(v, W, a, b, g):
    units = [draw((draw((v @ W + b).sigmoid(), g) @ W.T + a).sigmoid(), g)[:, i] for i in range(len(a))]
    return torch.stack(units, 1)


def seeds_all(v, W, a, b, g):
    return SOLUTIONS["gibbs_step"](v, W, a, b, torch.Generator().manual_seed(1))


def seeds_what_it_gets(v, W, a, b, g):
    return SOLUTIONS["gibbs_step"](v, W, a, b, g.manual_seed(g.initial_seed()))


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
    "you set a seed of your own": seeds_all,
    "do not set its seed": seeds_what_it_gets,
    "each visible unit is drawn from an h of its own": each_from_its_own_h,
    "From v = [1, 0, 0] the new states": lambda v, W, a, b, g: steps()(v.mean(0).expand_as(v), W, a, b, g),
    "of dtype bool": steps(visible=lambda p, g: draw(p, g).bool()),
    "cannot be multiplied by weights": steps(visible=lambda p, g: draw(p, g).long()),
    "cannot go on from your v, of float32": steps(visible=lambda p, g: draw(p, g).float()),
    "Return the new v alone; yours are 2 things": lambda v, W, a, b, g: (v, v),
    "has changed `v`": lambda v, W, a, b, g: v.copy_(steps()(v, W, a, b, g)),
    "returns nothing": lambda v, W, a, b, g: print(end=""),
}


@pytest.mark.parametrize("hint", GIBBS_STEPS)
def test_a_wrong_gibbs_step_gets_its_hint(capsys, hint):
    assert hint.lower() in verdict(capsys, check.gibbs_step, GIBBS_STEPS[hint]).lower()


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


def outer_products(v, w, W, b):
    """By a loop over the images."""
    means = []
    for x in (v, w):
        total = torch.zeros_like(W)
        for image in x:
            total += torch.outer(image, (image @ W + b).sigmoid())
        means.append(total / len(x))
    return means


RIGHT_STATISTICS = {
    "the solution": SOLUTIONS["cd_statistics"],
    "stacked": lambda *x: torch.stack(SOLUTIONS["cd_statistics"](*x)),
    "arrays": lambda *x: [half.numpy() for half in SOLUTIONS["cd_statistics"](*x)],
    "in float32": lambda *x: [half.float() for half in SOLUTIONS["cd_statistics"](*x)],
    "by einsum": lambda v, w, W, b: [torch.einsum("ni,nj->nij", x, (x @ W + b).sigmoid()).mean(0) for x in (v, w)],
    "by a loop": outer_products,
    "one array": lambda *x: np.stack([half.numpy() for half in SOLUTIONS["cd_statistics"](*x)]),
}


@pytest.mark.parametrize("name", RIGHT_STATISTICS)
def test_right_statistics_pass(capsys, name):
    assert verdict(capsys, check.cd_statistics, RIGHT_STATISTICS[name]).startswith("✓")


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
    "not for 1 of 4": lambda v, w, W, b: tuple(x.T @ (x @ W + b).sigmoid() / 5 for x in (v, w)),
    "divided by the pixels too": lambda v, w, W, b: tuple(x.T @ (x @ W + b).sigmoid() / x.numel() for x in (v, w)),
    "the number of visible units": lambda v, w, W, b: tuple(x.T @ (x @ W + b).sigmoid() / len(W) for x in (v, w)),
    "the number of hidden units": lambda v, w, W, b: tuple(x.T @ (x @ W + b).sigmoid() / len(b) for x in (v, w)),
    "the product of two means": lambda v, w, W, b: tuple(
        torch.outer(x.mean(0), (x @ W + b).sigmoid().mean(0)) for x in (v, w)
    ),
    "yours is (3,)": lambda v, w, W, b: (v.mean(0), w.mean(0)),
    "with 1 of 4, your code raised": lambda v, w, W, b: tuple(
        sum(torch.outer(x[i], (x[i] @ W + b).sigmoid()) for i in range(5)) / 5 for x in (v, w)
    ),
    "has changed `v_data`": None,
    "Your code raised": lambda v, w, W, b: v @ w,
    "returns nothing": lambda v, w, W, b: print(end=""),
}


def changes_the_data(v_data, v_chain, W, b):
    v_data -= v_data.mean(0)
    return SOLUTIONS["cd_statistics"](v_data, v_chain, W, b)


STATISTICS["has changed `v_data`"] = changes_the_data


@pytest.mark.parametrize("hint", STATISTICS)
def test_wrong_statistics_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.cd_statistics, STATISTICS[hint])


@pytest.fixture(scope="module")
def machine():
    """One on which CD-k needs more than one step, on patterns of 3 x 3 pixels."""
    return random_rbm(9, 3, seed=1, std=5.0), bars_and_stripes(3).flatten(1)


def test_the_solution_of_the_smallest_k_is_right_and_one_less_and_one_more_are_not(capsys, machine):
    k = SOLUTIONS["smallest_k"](*machine)
    assert k > 1
    assert verdict(capsys, check.smallest_k, k, *machine).startswith("✓")
    assert f"CD-{k - 1} is not there yet" in verdict(capsys, check.smallest_k, k - 1, *machine)
    assert f"so will CD-{k}" in verdict(capsys, check.smallest_k, k + 1, *machine)


@pytest.mark.parametrize("form", [float, np.int64, np.float32, torch.tensor, lambda k: torch.tensor([k]), np.array])
def test_a_right_k_passes_as_any_kind_of_number(capsys, machine, form):
    k = SOLUTIONS["smallest_k"](*machine)
    assert verdict(capsys, check.smallest_k, form(k), *machine).startswith("✓")


NO_K = {0: "1 or more", -3: "1 or more", 2.5: "whole number of Gibbs steps", "five": "of type str"}


@pytest.mark.parametrize("answer", NO_K)
def test_what_is_no_k_gets_its_hint(capsys, machine, answer):
    assert NO_K[answer] in verdict(capsys, check.smallest_k, answer, *machine)


@pytest.mark.parametrize("answer", [True, [5], None, float("inf"), torch.ones(3), {}])
def test_what_is_no_number_is_no_k(capsys, machine, answer):
    assert not verdict(capsys, check.smallest_k, answer, *machine).startswith("✓")


def test_far_too_large_a_k_is_refused_before_it_takes_long(capsys, machine):
    assert "far more than this machine needs" in verdict(capsys, check.smallest_k, 10**6, *machine)


@pytest.mark.parametrize("stub", [None, ...])
def test_an_untouched_k_is_not_answered_yet(capsys, machine, stub):
    assert verdict(capsys, check.smallest_k, stub, *machine).startswith("○")


# The open task

PLANS = {
    "the solution": (SOLUTIONS["plan"], {10}, "282,000 Gibbs steps of at most 300,000, in 1,150 updates"),
    "k grows, as a tensor": (torch.tensor([[500, 1, 1, 0.5], [300, 10, 1, 0.5]]), {5, 8, 10}, "-4.5 or more"),
    "CD-1 of ten chains, as in the text": ([(1000, 1, 10, 0.3)], {2}, "300,000 Gibbs steps"),
    "a rate of nothing": (np.array([[10, 1, 1, 1e-9]]), {2}, "-11."),
    "a rate beyond all bounds": ([(200, 1, 1, 1e308)], {2}, "the rate is too high"),
}
NO_PLANS = {
    "costs 300,300 Gibbs steps and 1,001 updates": [(1001, 1, 10, 0.3)],
    "costs 90,030 Gibbs steps and 3,001 updates": [(3000, 1, 1, 0.3), (1, 1, 1, 0.3)],
    "A plan is a list of phases": "CD-10",
    "brackets of its own": (1000, 1, 10, 0.3),
    "4 numbers here; yours has 3": [(1000, 1, 0.3)],
    "whole numbers, 1 or more; yours are 1000, 0, 10": [(1000, 0, 10, 0.3)],
    "yours are 0.5, 1, 10": [(0.5, 1, 10, 0.3)],
    "A rate is above 0; yours is -0.3": [(1000, 1, 10, -0.3)],
    "of type str": [(1000, "one", 10, 0.3)],
    "list of phases": [],
    "Not answered yet": ...,
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_gets_its_points(capsys, name):
    handed_in, wanted, said = PLANS[name]  # rounding decides which samples are drawn, so a plan half-way may differ
    got, printed = points(capsys, check.plan, handed_in)
    assert got in wanted, printed
    assert said in printed


@pytest.mark.parametrize("hint", NO_PLANS)
def test_what_is_no_plan_gets_no_points_and_a_hint(capsys, hint):
    got, printed = points(capsys, check.plan, NO_PLANS[hint])
    assert got == 0
    assert hint in printed
