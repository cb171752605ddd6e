"""LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition: LeNet-5 on the digits.

All 60,000 digits for training, with and without distortions, drawn anew in each epoch; beside it LeNet-5 with a softmax
in place of the drawings, and the survey's smaller network. Rates, batches, epochs and j were chosen on 10,000
validation digits held out of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.recognition import by_net, error
from dlkit.core.reports import PaperRow
from dlkit.models import ConvNet, LeNet5
from dlkit.models.pretrained import store
from dlkit.papers import RESUMABLE, kept, over_seeds, whole
from dlkit.training import Affine, CrossEntropy, Experiment, linear_schedule

TITLE = "LeCun, Bottou, Bengio, Haffner 1998: convolutional nets on MNIST, test errors in percent"
PAPER = "LeCun, Bottou, Bengio, Haffner 1998, §III"
SEEDS = 3


@dataclass(frozen=True)
class Training:
    """One row: which net, how; distorted digits are never the same twice, and so worth more epochs."""

    name: str
    net: partial[nn.Module]
    published: str
    learner: CrossEntropy
    epochs: int
    lr: float


LENET, SOFTMAX, SURVEYS = partial(LeNet5), partial(LeNet5, output="softmax"), partial(ConvNet)
TRAININGS = (
    Training("LeNet-5", LENET, "0.95", CrossEntropy(rubbish=5.0), 20, 0.003),
    Training("LeNet-5, distorted digits", LENET, "0.8", CrossEntropy(Affine(), rubbish=5.0), 40, 0.003),
    Training("LeNet-5 with softmax, distorted digits", SOFTMAX, "", CrossEntropy(Affine()), 40, 0.01),
    Training("the survey's network", SURVEYS, "", CrossEntropy(), 20, 0.1),
    Training("the survey's network, distorted digits", SURVEYS, "", CrossEntropy(Affine()), 40, 0.1),
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
    trainings = {re.sub("[^A-Za-z0-9-]+", "-", training.name): training for training in TRAININGS}
    return [row(*pair) for pair in nets(trainings, recipe, folder)]


def row(training: Training, found: list[dict[str, Any]]) -> PaperRow:
    size = sum(p.numel() for p in training.net().parameters())
    name = f"{training.name}: {size:,} parameters, {training.epochs} epochs"
    return over_seeds(name, training.published, PAPER if training.published else "", found)


def nets(
    trainings: Mapping[str, Training], recipe: Recipe, folder: Path
) -> list[tuple[Training, list[dict[str, Any]]]]:
    """Each training, cut to the recipe's epochs, and what came of it with each seed, kept in `folder`/KEY-SEED."""
    cut = {key: replace(one, epochs=min(one.epochs, recipe.most_epochs)) for key, one in trainings.items()}
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in cut}
    tasks = [(seed, key) for seed in range(recipe.seeds) for key in cut]
    for seed, key in tqdm(tasks, unit="net", disable=None):
        place = folder / f"{key}-{seed}"
        found[key].append(kept(place / "result.json", partial(trained, cut[key], recipe.images, seed, place)))
    return [(training, found[key]) for key, training in cut.items()]


def trained(training: Training, images: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train one net, and keep it; its test error in percent."""
    mnist = data.load("mnist")
    experiment = Experiment(
        training.net,
        mnist.full_train[:images],
        training.learner,
        batch_size=50,
        epochs=training.epochs,
        lr=linear_schedule(training.lr, 0.02 * training.lr, training.epochs),
        momentum=0.9,
        seed=seed,
    )
    run = whole(experiment.run(checkpoint=folder, **RESUMABLE), folder.name)
    store(run.model, folder / "net.safetensors", training.net.keywords)
    return {"error": error(by_net(run.model, mnist.test.images), mnist.test), "seconds": run.seconds}
