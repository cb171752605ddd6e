"""Scherer, Müller, Behnke 2010, Evaluation of pooling operations in convolutional architectures: which way to halve?

LeNet-5 with a softmax output, the same but for its sub-sampling; the rate was chosen on 10,000 validation digits. The
paper's figures are of other data (NORB, Caltech-101), so none is beside ours: what can be compared is the order.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dlkit.models import LeNet5
from dlkit.papers import kept, lecun1998, over_seeds
from dlkit.tables import PaperRow
from dlkit.training import CrossEntropy

TITLE = "Scherer, Müller, Behnke 2010: LeNet-5 on MNIST by its sub-sampling, test errors in percent"
SEEDS = 3


@dataclass(frozen=True)
class Way:
    """One way of sub-sampling: a kind of `Subsample`, and its window."""

    name: str
    kind: str
    window: int = 2


WAYS = (
    Way("average", "average"),
    Way("trainable, LeNet-5's own", "trainable"),
    Way("strided: every second value", "strided"),
    Way("max", "max"),
    Way("max, windows of 3x3 that overlap", "max", 3),
)


@dataclass(frozen=True)
class Recipe:
    """How much of each."""

    images: int = 60_000
    seeds: int = SEEDS
    epochs: int = 20


QUICK = Recipe(images=6_000, seeds=1, epochs=2)


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each way, from what is kept in `folder` where there is something."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    found: dict[str, list[dict[str, Any]]] = {way.name: [] for way in WAYS}
    for seed, way in tqdm([(seed, way) for seed in range(recipe.seeds) for way in WAYS], unit="net", disable=None):
        place = folder / f"{way.kind}-{way.window}-{seed}"
        options = lecun1998.SOFTMAX | {"sub_sampling": way.kind, "window": way.window}
        training = lecun1998.Training(way.name, LeNet5, "", CrossEntropy(), recipe.epochs, 0.02, options)
        train = partial(lecun1998.trained, training, recipe.images, seed, place)
        found[way.name].append(kept(place / "result.json", train))
    return [over_seeds(way.name, "", "", found[way.name]) for way in WAYS]
