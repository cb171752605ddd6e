"""Notebook 11's checks: right answers of many styles, the usual mistakes with a hint for each."""

import numpy as np
import pytest
import torch
from answers import points, solutions, verdict

from dlkit.exercises import asynchronous as check
from dlkit.strategies.asynchronous.rules import Adagrad

NAMES = ["apply_push", "adagrad", "direction"]
SOLUTIONS = solutions("11_asynchronous")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", 1.0, None, torch.zeros(2, 7), float("nan"), True, (None, 1), [[1]], {}])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


def applied(values, version, gradient, computed_at, lr):
    return values - lr * gradient, version + 1, version - computed_at


def applied_in_place(values, version, gradient, computed_at, lr):
    age, values = version - computed_at, values.clone()
    values -= lr * gradient
    version += 1
    return [values, version, age]


def applied_by_numpy(values, version, gradient, computed_at, lr):
    return values.numpy() - lr * gradient.numpy(), np.int64(version + 1), torch.tensor(version - computed_at)


@pytest.mark.parametrize("right", [applied, applied_in_place, applied_by_numpy])
def test_a_stale_gradient_is_applied_and_its_age_counted(capsys, right):
    assert verdict(capsys, check.apply_push, right).startswith("✓")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda v, n, g, c, lr: (v - lr * g, n, n - c), "The version is still the same"),
        (lambda v, n, g, c, lr: (v - lr * g, n + 1, n + 1 - c), "One too old"),
        (lambda v, n, g, c, lr: (v - lr * g, n + 1, c - n), "A negative age"),
        (lambda v, n, g, c, lr: (v + lr * g, n + 1, n - c), "uphill"),
        (lambda v, n, g, c, lr: (v - g, n + 1, n - c), "lr times the gradient"),
        (lambda v, n, g, c, lr: (v - lr * g / (n - c + 1), n + 1, n - c), "You divide by the age"),
        (lambda v, n, g, c, lr: (v, n + 1, n - c) if n > c else (v - lr * g, n + 1, 0), "The values have not moved"),
        (lambda v, n, g, c, lr: (v - lr * g, n - c, n + 1), "exchanged"),
        (lambda v, n, g, c, lr: (v - lr * g, n + 1, 0), "the age is 3; yours is 0"),
        (lambda v, n, g, c, lr: v - lr * g, "Return values, version and age"),
        (lambda v, n, g, c, lr: (v - lr * g, n + 2, n - c), "the version is then 1; yours is 2"),
    ],
)
def test_usual_mistakes_with_a_push(capsys, wrong, hint):
    assert hint in verdict(capsys, check.apply_push, wrong)


def by_the_library(values, sums, gradient, lr):
    rule = Adagrad()
    rule.state["sum"] = sums.clone()
    values = values.clone()
    rule.step(values, gradient, lr, 0)
    return values, rule.state["sum"]


def with_a_small_number(values, sums, gradient, lr):
    sums = sums + gradient**2
    return values - lr * gradient / (sums.sqrt() + 1e-8), sums


@pytest.mark.parametrize("right", [by_the_library, with_a_small_number])
def test_adagrad_is_done_in_many_ways(capsys, right):
    assert verdict(capsys, check.adagrad, right).startswith("✓")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda v, s, g, lr: (v - lr * g, s + g**2), "plain SGD"),
        (lambda v, s, g, lr: (v - lr * g / (s + g**2), s + g**2), "by their square root"),
        (lambda v, s, g, lr: (v - lr * g / s.sqrt(), s + g**2), "from before this gradient"),
        (lambda v, s, g, lr: (v - lr * g / g.abs(), g**2), "this gradient's squares alone"),
        (lambda v, s, g, lr: (v - lr * g / (s + g).abs(), s + g), "Those are sums of gradients"),
        (lambda v, s, g, lr: (v - lr * g / (s + g.abs()), s + g.abs()), "absolute values"),
        (lambda v, s, g, lr: (v - lr * g / (s + g**2).sum().sqrt(), s + g**2), "by one number"),
        (lambda v, s, g, lr: (v + lr * g / (s + g**2).sqrt(), s + g**2), "uphill"),
        (lambda v, s, g, lr: (s + g**2, v - lr * g / (s + g**2).sqrt()), "exchanged"),
        (lambda v, s, g, lr: (v - lr * g / (s + g**2).sqrt(), s), "as they were"),
        (lambda v, s, g, lr: (v - lr * g / (s + g**2).sqrt(), (s + g**2).sqrt()), "Keep the sums themselves"),
    ],
)
def test_usual_mistakes_with_adagrad(capsys, wrong, hint):
    assert hint in verdict(capsys, check.adagrad, wrong)


def plus(u, number, v):
    return [a + number * b for a, b in zip(u, v, strict=True)]


def two_loops(gradient, pairs, scale, dot):
    q = plus(gradient, -2, gradient)
    alphas = []
    for y, s in reversed(pairs):
        alphas.append(dot(s, q) / dot(y, s))
        q = plus(q, -alphas[-1], y)
    r = [scale * part for part in q]
    for (y, s), alpha in zip(pairs, reversed(alphas), strict=True):
        r = plus(r, alpha - dot(y, r) / dot(y, s), s)
    return r


def by_matrices(gradient, pairs, scale, dot):
    sizes = [len(part) for part in gradient]
    eye = torch.eye(sum(sizes)).double()
    inverse = scale * eye
    for y, s in [(torch.cat(y), torch.cat(s)) for y, s in pairs]:
        rho = 1 / y.dot(s)
        inverse = (eye - rho * s.outer(y)) @ inverse @ (eye - rho * y.outer(s)) + rho * s.outer(s)
    return tuple((-inverse @ torch.cat(gradient)).split(sizes))


@pytest.mark.parametrize("right", [two_loops, by_matrices])
def test_the_direction_is_had_in_two_ways(capsys, right):
    assert verdict(capsys, check.direction, right).startswith("✓")


def minus(parts):
    return [-part for part in parts]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda g, p, c, dot: minus(two_loops(g, p, c, dot)), "points uphill"),
        (lambda g, p, c, dot: two_loops(g, p[::-1], c, dot), "the wrong order"),
        (lambda g, p, c, dot: [-c * part for part in g], "the pairs have done nothing"),
        (lambda g, p, c, dot: two_loops(g, p, 1.0, dot), "the scale is missing"),
        (lambda g, p, c, dot: two_loops(g, p[1:] if len(p) > 1 else p, c, dot), "is not the one that the pairs give"),
        (lambda g, p, c, dot: torch.cat(two_loops(g, p, c, dot)), "Return a list of parts"),
    ],
)
def test_usual_mistakes_with_the_direction(capsys, wrong, hint):
    assert hint in verdict(capsys, check.direction, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_are_right(capsys, name):
    assert verdict(capsys, getattr(check, name), SOLUTIONS[name]).startswith("✓")


# The open task: (plan, points, and what is said).

FIVE = SOLUTIONS["plan"]
PLANS = {
    "the solution": (FIVE, 10, "300 batches send 191 MB"),
    "another rate": (FIVE | {"lr": 0.03}, 10, "10 of 10 points"),
    "numpy's numbers": ({name: x if name == "rule" else np.float64(x) for name, x in FIVE.items()}, 10, ""),
    "all of them": (FIVE | {"workers": 16, "lr": 0.01, "predicted": 15}, 7, "786 batches send 500 MB"),
    "rarely": (FIVE | {"workers": 16, "fetch": 3, "push": 3, "lr": 0.005, "predicted": 15}, 7, "167 MB"),
    "a wrong prediction": (FIVE | {"predicted": 5}, 7, "the mean staleness is 4.0; predicted: 5"),
    "plain": (FIVE | {"rule": "plain", "lr": 0.1}, 8, "2 of 4"),
    "far too long steps": (FIVE | {"rule": "plain", "lr": 1e9}, 6, "100.0 % of the held-out digits are wrong: loss is"),
    "the example": (
        {"workers": 2, "fetch": 1, "push": 1, "rule": "plain", "lr": 0.1, "predicted": 5},
        3,
        "1.0; predicted",
    ),
    "too many workers": (FIVE | {"workers": 17}, 0, "workers is 17: there are 16"),
    "half a worker": (FIVE | {"workers": 2.5}, 0, "workers: It should be a whole number"),
    "never": (FIVE | {"push": 0}, 0, "fetch and push are 1 or more"),
    "too rarely": (FIVE | {"fetch": 61}, 0, "A worker has about 60 batches"),
    "no such rule": (FIVE | {"rule": "momentum"}, 0, "rule is 'momentum': it is one of plain, adagrad, staleness"),
    "uphill": (FIVE | {"lr": -0.1}, 0, "lr is more than 0"),
    "no rate": ({name: x for name, x in FIVE.items() if name != "lr"}, 0, "A plan is a dict with workers, fetch"),
    "nonsense": ("fast", 0, "A plan is a dict"),
    "untouched": (..., 0, "Not answered yet"),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_gets_its_points(capsys, name):
    plan, most, said = PLANS[name]
    given, printed = points(capsys, check.plan, plan)
    assert said in printed
    assert given == most
