"""Scherer, Müller, Behnke 2010, Evaluation of pooling operations in convolutional architectures: which way to halve?

LeNet-5 with a softmax output; the nets differ only in their sub-sampling. The rate was chosen on 10,000 validation
digits. The paper's figures are of other data (NORB, Caltech-101), so they do not stand beside ours: only the order can
be compared.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from dlkit.core.reports import PaperRow
from dlkit.models import LeNet5
from dlkit.papers.lecun1998 import QUICK, Recipe, Training, train_all
from dlkit.papers.reproduction import mean_row
from dlkit.training import CrossEntropy

TITLE = "Scherer, Müller, Behnke 2010: LeNet-5 on MNIST by its sub-sampling, test errors in percent"
SEEDS = Recipe.seeds
WAYS = (  # a name, and the kind of a `Subsample` with the size of its window
    ("average", "average", 2),
    ("trainable, LeNet-5's own", "trainable", 2),
    ("strided: every second value", "strided", 2),
    ("max", "max", 2),
    ("max, windows of 3x3 that overlap", "max", 3),
)


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each way, from the results that `folder` has, if any."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    trainings = {}
    for name, kind, window in WAYS:
        net = partial(LeNet5, output="softmax", sub_sampling=kind, window=window)
        trainings[f"{kind}-{window}"] = Training(name, net, "", CrossEntropy(), 20, 0.02)
    return [mean_row(training.name, "", "", results) for training, results in train_all(trainings, recipe, folder)]
