"""The open task of notebook 03: a stack trained without labels, in few steps, whose features a linear layer reads."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit import Experiment
from dlkit.data import Split
from dlkit.exercises import Hint, Points, students_code, task
from dlkit.training import features, pretrain

STEPS = 200  # of all layers together
IMAGES = 100  # in a batch, at most
UNITS = 256  # of the last layer, at most
DIGITS = 10_000  # to learn from
LEVELS = (20.0, 17.0, 15.0, 14.0, 13.0, 12.5, 12.1, 11.8)  # % of validation digits wrong: a point for each
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # of the ridge penalty; the best one counts
UNTRAINED = 18.0  # % wrong: features of a layer with random weights err more


@task
def best_features(answer: Any, train: Tensor, labels: Tensor, validation: Split) -> Iterator[Points]:
    """`answer` is a list of experiments, one a layer, which are trained on the first 10,000 digits of `train`.

    A linear layer is then fitted to the features of the first digits of `train`, whose `labels` are given.
    """
    stack = [answer] if isinstance(answer, Experiment) else answer
    if not isinstance(stack, list | tuple) or not all(isinstance(layer, Experiment) for layer in stack) or not stack:
        raise Hint("Give a list of experiments, one a layer, as for `pretrain`: [Experiment(...)].")
    stack = [replace(layer, data=None if i else train[:DIGITS]) for i, layer in enumerate(stack)]
    with torch.random.fork_rng(devices=[]), students_code():
        models = [layer.model() for layer in stack]
    if not all(hasattr(model, "hidden_given") for model in models):
        raise Hint("Each layer must go up: an RBM, an Autoassociator, or another model with `hidden_given`.")
    with students_code():
        units, untrained = climb(models, train[:1]).shape[1], read_out(models[:1], train, labels, validation)
    if untrained < UNTRAINED:
        raise Hint("Your first layer knows the digits before its first step: begin with new weights.")
    steps = sum(layer.epochs * -(-DIGITS // layer.batch_size) for layer in stack)
    images = max(layer.batch_size for layer in stack)
    fits = steps <= STEPS and images <= IMAGES and units <= UNITS
    said = f"{steps:,} steps of at most {STEPS}, {images:,} images in a batch of at most {IMAGES}"
    yield Points(2 if fits else 0, 2, f"within the limits: {said}, {units:,} features of at most {UNITS}")
    if not fits:
        yield Points(0, len(LEVELS), "the error is measured for a plan within the limits")
        return
    errors = []
    for more in (0, 1):  # not by the luck of one seed
        again = [replace(layer, seed=layer.seed + more) for layer in stack]
        with students_code():
            trained = [run.model for run in pretrain(again, progress=False)]
        errors.append(read_out(trained, train, labels, validation))
    wrong = sum(errors) / len(errors)
    levels = ", ".join(f"{level:g}" for level in LEVELS)
    reached = sum(wrong <= level for level in LEVELS)
    yield Points(
        reached,
        len(LEVELS),
        f"{wrong:.1f} % of validation digits wrong, the mean of two seeds; a point each at {levels}",
    )


def climb(layers: Sequence[nn.Module], images: Tensor) -> Tensor:
    """The features of the last of these layers."""
    for layer in layers:
        images = features(layer, images, progress=False)
    return images


@torch.no_grad()
def read_out(layers: Sequence[nn.Module], train: Tensor, labels: Tensor, validation: Split) -> float:
    """% of validation digits that a linear layer, by ridge regression, gets wrong from these features."""
    x, unseen = (climb(layers, images.flatten(1)).double() for images in (train[: len(labels)], validation.images))
    mean, targets = x.mean(0), F.one_hot(labels, 10).double()
    x, unseen, share = x - mean, unseen - mean, targets.mean(0)
    squares, products = x.T @ x, x.T @ (targets - share)
    found = []
    for strength in STRENGTHS:
        penalty = strength * squares.trace() * torch.eye(len(squares), dtype=squares.dtype)
        logits = unseen @ torch.linalg.solve(squares + penalty, products) + share
        found.append(100 * float((logits.argmax(1) != validation.labels).float().mean()))
    return min(found)
