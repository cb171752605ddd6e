"""What the checks train: each learner on digits, in a size at which a rounding error can be told from a fault."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import ceil, log10
from typing import Any

import splitting
import torch
from splitting import difference, digits
from torch import nn

from dlkit import Experiment
from dlkit.models import DBN, GaussianRBM, LocalNet, RICAStage, SparseCoding
from dlkit.training import CD, CrossEntropy, DictionaryLearning, LineSearches, OwnCost, Reconstruction, Run, UpDown

ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-8}  # relative, between models of a dozen steps


@cache
def experiments() -> dict[str, Experiment]:
    """By name; batches of 100 and, at the end of an epoch, one of 50."""
    images, labels = digits()
    rows = images.flatten(1)
    untied = partial(DBN.of, [784, 60, 50], labels=10, untied=True)
    gaussian = partial(GaussianRBM, 784, 60, learn_variance=False)
    coding = partial(SparseCoding, 784, 60, penalty=0.2, steps=10)
    autoencoder = splitting.autoencoder
    return splitting.experiments() | {
        "LocalNet": Experiment(LocalNet, (images, labels), CrossEntropy(), lr=0.01, momentum=0.9),
        "CD, Gaussian": Experiment(gaussian, rows, CD(), lr=0.001, momentum=0.5),
        "up-down": Experiment(untied, (rows, labels), UpDown(), lr=0.05),
        "dictionary": Experiment(coding, rows, DictionaryLearning(), lr=0.5),
        "RICA": Experiment(partial(RICAStage, 1, 4, 5, (28, 28)), images, OwnCost(), lr=0.001, momentum=0.9),
        "line searches": Experiment(
            autoencoder, rows, Reconstruction(), lr=1.0, momentum=None, optimizer=LineSearches
        ),
    }  # fmt: skip


def train(experiment: Experiment, device: str, **settings: Any) -> Run:
    return experiment.run(device=device, progress=False, **{"steps": splitting.STEPS} | settings)


def agree(one: Callable[[Experiment], nn.Module], other: Callable[[Experiment], nn.Module], what: Experiment) -> str:
    """How far the models are apart that two ways of training give. AssertionError if it is more than rounding.

    In float32 one draw may turn out otherwise by a rounding error: float64 tells that from a fault.
    """
    off = difference(one(what), other(what))
    if off < ROUNDING[what.dtype]:
        return f"within 1e{ceil(log10(off))}" if off else "the same bits"
    exactly = replace(what, dtype=torch.float64)
    finer = off if what.dtype == torch.float64 else difference(one(exactly), other(exactly))
    assert finer < ROUNDING[torch.float64], f"models differ by {off:.1e}, and in float64 by {finer:.1e}"
    return f"by rounding {off:.1e}, in float64 {finer:.1e}"
