"""The exercises of notebook 02 that are answered by a plan: an Experiment which the check trains and examines."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlkit import Experiment
from dlkit.analysis.diagnostics import examine
from dlkit.analysis.likelihood import exact_log_z, log_probability
from dlkit.analysis.rbm_statistics import hidden_probabilities, reconstruction_error
from dlkit.exercises import Hint, Points, exercise, students_code, task
from dlkit.models import RBM
from dlkit.training import CD, PCD

KNOWS = 0.9  # of the mean image's error: an RBM with a smaller one has learnt before its first step

UNITS = 16  # hidden units that the plan may have: log Z is exact
BUDGET = 500.0  # products of a batch of 100 images with W
LEVELS = (-184.0, -178.0, -173.0, -169.0, -166.0, -163.0)  # nats: a point for each that the plan reaches


@exercise(
    "an illness has signs, and each sign a usual cure",
    deeper="Some units are always on: what do such units do for an image? They add the same to every pixel's input, as "
    "a bias would. Look at the learner's settings for what could have taken the visible units' own bias from them.",
)
def cure(answer: Any, ill: Experiment, train: Tensor, validation: Tensor) -> None:
    """`answer` is an Experiment like `ill` whose RBM is healthy, of the same size and in no more steps."""
    if not isinstance(answer, Experiment):
        raise Hint("Give an Experiment: `replace(ill, ...)` is `ill` with some settings changed.")
    if answer is ill:
        raise Hint("That is `ill` as it was: read the verdict, and change what it names.")
    model, wanted = new_rbm(answer, train), ill.model()
    if (model.visible, model.hidden) != (wanted.visible, wanted.hidden):
        raise Hint(f"Another RBM is no cure: keep {wanted.visible} visible and {wanted.hidden} hidden units.")
    steps, limit = (e.epochs * -(-len(train) // e.batch_size) for e in (answer, ill))
    if steps > limit:
        raise Hint(f"Yours takes {steps:,} steps, and {limit:,} are allowed: more treatment is not a better one.")
    with students_code():
        run = replace(answer, data=train).run(progress=False)
    health = examine(run.model, train, validation, run.optimizer)
    if not health.healthy:
        raise Hint(f"The verdict on yours: {health.verdict}")
    by_units, by_bias = kept_off_by(run.model, train)
    if by_units < by_bias:
        raise Hint(
            "The verdict is healthy, but the cause is still there. Pixels that are off in every digit are kept off by "
            f"the hidden units ({by_units:.1f} nats) more than by their own bias ({by_bias:.1f}): units do a bias's "
            "work. What would give the pixels a bias of their own, from the start or in each step?"
        )


def new_rbm(answer: Experiment, train: Tensor) -> RBM:
    """The RBM with which this experiment begins. Raises Hint if it is none, or has learnt before its first step."""
    with torch.random.fork_rng(devices=[]), students_code():
        model = answer.model()
    if not isinstance(model, RBM) or not model.binary_visible or not model.binary_hidden:
        raise Hint(f"It should train an RBM of binary units; yours trains a {type(model).__name__}.")
    if model.visible == train.shape[1]:
        mean_image = (train - train.mean(0)).square().sum(1).mean()
        if reconstruction_error(model, train).mean() < KNOWS * mean_image:
            raise Hint("Your RBM knows the digits before its first step: begin with new weights.")
    return model


@torch.no_grad()
def kept_off_by(rbm: RBM, train: Tensor) -> tuple[float, float]:
    """What hidden units, and the bias, add to the input of pixels that are off in every image: two means, in nats."""
    off = train.sum(0) == 0
    by_units = rbm.W @ hidden_probabilities(rbm, train).mean(1)
    return float(by_units[off].mean()), float(rbm.a[off].mean())


@task
def sixteen_units(answer: Any, train: Tensor, validation: Tensor) -> Iterator[Points]:
    """`answer` is an Experiment that trains an RBM of at most 16 hidden units within the budget."""
    if not isinstance(answer, Experiment):
        raise Hint("Give an Experiment: Experiment(partial(RBM, 784, 16), few, CD(), ...).")
    model = new_rbm(answer, train)
    if model.visible != train.shape[1]:
        raise Hint(f"A digit has {train.shape[1]} pixels; your RBM has {model.visible} visible units.")
    price = cost(answer, len(train))
    fits = model.hidden <= UNITS and price <= BUDGET
    units = f"{model.hidden} hidden units of at most {UNITS}"
    yield Points(2 if fits else 0, 2, f"within the limits: {units}, {price:,.0f} products of at most {BUDGET:,.0f}")
    if not fits:
        yield Points(0, 8, "health and log-probability are measured for a plan within the limits")
        return
    with students_code():
        run = replace(answer, data=train).run(progress=False)
    health = examine(run.model, train, validation, run.optimizer)
    yield Points(2 if health.healthy else 0, 2, f"healthy: {health.verdict}")
    nats = log_probability(run.model, validation, exact_log_z(run.model, progress=False)).value
    reached = sum(nats >= level for level in LEVELS)
    levels = ", ".join(f"{level:.0f}" for level in LEVELS)
    yield Points(
        reached, len(LEVELS), f"log-probability of validation digits {nats:.1f} nats; a point each at {levels}"
    )


def cost(plan: Experiment, images: int) -> float:
    """What this training costs, in products of a batch of 100 images with W. Raises Hint if it is not CD or PCD."""
    learner = plan.learner
    if not isinstance(learner, CD):
        raise Hint(f"The price of a step is known for CD and PCD; your learner is a {type(learner).__name__}.")
    steps = plan.epochs * -(-images // plan.batch_size)
    if not isinstance(learner, PCD):
        return steps * plan.batch_size * (3 + 2 * learner.k) / 100
    return steps * (2 * plan.batch_size + (2 + 2 * learner.k) * (learner.chains or plan.batch_size)) / 100
