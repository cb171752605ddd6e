"""LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition: LeNet-5 on the digits.

All 60,000 digits for training, with and without distortions, drawn anew in each epoch; beside it LeNet-5 with a softmax
in place of the drawings, and the survey's smaller network. Rates, batches, epochs and j were chosen on 10,000
validation digits held out of them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.recognition import by_net, error
from dlkit.models import ConvNet, LeNet5
from dlkit.models.pretrained import store
from dlkit.papers import RESUMABLE, kept, over_seeds, whole
from dlkit.tables import PaperRow
from dlkit.training import Affine, CrossEntropy, Experiment, linear

TITLE = "LeCun, Bottou, Bengio, Haffner 1998: convolutional nets on MNIST, test errors in percent"
PAPER = "LeCun, Bottou, Bengio, Haffner 1998, §III"
SEEDS = 3


@dataclass(frozen=True)
class Training:
    """One row: which net, how; distorted digits are never the same twice, and so worth more epochs."""

    name: str
    net: Callable[..., nn.Module]
    published: str
    learner: CrossEntropy
    epochs: int
    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        return self.net(**self.options)


SOFTMAX = {"output": "softmax"}
TRAININGS = (
    Training("LeNet-5", LeNet5, "0.95", CrossEntropy(rubbish=5.0), 20, 0.003),
    Training("LeNet-5, distorted digits", LeNet5, "0.8", CrossEntropy(Affine(), rubbish=5.0), 40, 0.003),
    Training("LeNet-5 with softmax, distorted digits", LeNet5, "", CrossEntropy(Affine()), 40, 0.01, SOFTMAX),
    Training("the survey's network", ConvNet, "", CrossEntropy(), 20, 0.1),
    Training("the survey's network, distorted digits", ConvNet, "", CrossEntropy(Affine()), 40, 0.1),
)


@dataclass(frozen=True)
class Recipe:
    """How much of each; `most_epochs` cuts trainings short."""

    images: int = 60_000
    seeds: int = SEEDS
    most_epochs: int = 40


QUICK = Recipe(images=6_000, seeds=1, most_epochs=2)


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each net and kind of digits, from what is kept in `folder` where there is something."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    found: dict[str, list[dict[str, Any]]] = {training.name: [] for training in TRAININGS}
    tasks = [(seed, training) for seed in range(recipe.seeds) for training in TRAININGS]
    for seed, training in tqdm(tasks, unit="net", disable=None):
        place = folder / f"{re.sub('[^A-Za-z0-9-]+', '-', training.name)}-{seed}"
        cut = replace(training, epochs=min(training.epochs, recipe.most_epochs))
        found[training.name].append(kept(place / "result.json", partial(trained, cut, recipe.images, seed, place)))
    return [row(training, recipe, found[training.name]) for training in TRAININGS]


def row(training: Training, recipe: Recipe, found: list[dict[str, Any]]) -> PaperRow:
    size = sum(p.numel() for p in training.model().parameters())
    name = f"{training.name}: {size:,} parameters, {min(training.epochs, recipe.most_epochs)} epochs"
    return over_seeds(name, training.published, PAPER if training.published else "", found)


def trained(training: Training, images: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train one net, and keep it; its test error in percent."""
    mnist = data.load("mnist")
    experiment = Experiment(
        training.model,
        mnist.full_train[:images],
        training.learner,
        batch_size=50,
        epochs=training.epochs,
        lr=linear(training.lr, 0.02 * training.lr, training.epochs),
        momentum=0.9,
        seed=seed,
    )
    run = whole(experiment.run(checkpoint=folder, **RESUMABLE), folder.name)
    store(run.model, folder / "net.safetensors", training.options)
    return {"error": error(by_net(run.model, mnist.test.images), mnist.test), "seconds": run.seconds}
