"""LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition: LeNet-5 on the digits.

All 60,000 digits for training, with and without distortions, drawn anew in each epoch. Beside it: LeNet-5 with a
softmax output instead of the ten drawn codes, and the survey's smaller network. Rates, batches, epochs and j were
chosen on 10,000 validation digits held out of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.recognition import by_net, error
from dlkit.core.reports import PaperRow
from dlkit.models import ConvNet, LeNet5
from dlkit.models.shipped import store
from dlkit.papers.reproduction import RESUMABLE, Result, cached, finished, mean_row
from dlkit.training import Affine, CrossEntropy, Experiment, linear_schedule

TITLE = "LeCun, Bottou, Bengio, Haffner 1998: convolutional nets on MNIST, test errors in percent"
PAPER = "LeCun, Bottou, Bengio, Haffner 1998, §III"
SEEDS = 3


@dataclass(frozen=True)
class Training:
    """One row of the table: a net, how it is trained, and its published error in percent.

    Distorted digits are never the same twice, so that more epochs are worth while.
    """

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
    """How many images and seeds; no training has more epochs than `most_epochs`."""

    images: int = 60_000
    seeds: int = SEEDS
    most_epochs: int = 40


QUICK = Recipe(images=6_000, seeds=1, most_epochs=2)


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each net and kind of digits, from the results that `folder` has, if any."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    trainings = {re.sub("[^A-Za-z0-9-]+", "-", training.name): training for training in TRAININGS}
    return [row(*pair) for pair in train_all(trainings, recipe, folder)]


def row(training: Training, results: list[Result]) -> PaperRow:
    """The mean test error of a training, with the size of its net."""
    size = sum(p.numel() for p in training.net().parameters())
    name = f"{training.name}: {size:,} parameters, {training.epochs} epochs"
    return mean_row(name, training.published, PAPER if training.published else "", results)


def train_all(trainings: Mapping[str, Training], recipe: Recipe, folder: Path) -> list[tuple[Training, list[Result]]]:
    """Each training, with no more epochs than the recipe has, and its results, one a seed, in `folder`/KEY-SEED."""
    shortened = {key: replace(t, epochs=min(t.epochs, recipe.most_epochs)) for key, t in trainings.items()}
    results: dict[str, list[Result]] = {key: [] for key in shortened}
    tasks = [(seed, key) for seed in range(recipe.seeds) for key in shortened]
    for seed, key in tqdm(tasks, unit="net", disable=None):
        own_folder = folder / f"{key}-{seed}"
        task = partial(train, shortened[key], recipe.images, seed, own_folder)
        results[key].append(cached(own_folder / "result.json", task))
    return [(training, results[key]) for key, training in shortened.items()]


def train(training: Training, images: int, seed: int, folder: Path) -> Result:
    """Train one net and save it; its test error in percent, and the seconds that its training took."""
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
    run = finished(experiment.run(checkpoint=folder, **RESUMABLE), folder.name)
    store(run.model, folder / "net.safetensors", training.net.keywords)
    return {"error": error(by_net(run.model, mnist.test.images), mnist.test), "seconds": run.seconds}
