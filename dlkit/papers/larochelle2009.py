"""Larochelle, Bengio, Louradour, Lamblin 2009, Exploring strategies for training deep neural networks: five starts.

One net, 784-500-500-500-10, started in five ways and fine-tuned on 100, 1,000, 10,000 or 60,000 labels. The starts
are pre-trained on all 60,000 digits without labels. The autoassociators' rate (of 0.005, 0.01, 0.02) and the sparsity
cost (of 0.1, 1, 5) were chosen by the errors on 10,000 validation digits, of nets that were pre-trained on 20,000 other
digits and fine-tuned on 100 and 1,000 labels. The RBM's top layer learns by persistent CD: with 1,000 labels it left
5.9 and 6.3 % of those digits wrong, where CD left 7.6 % twice. All starts are fine-tuned alike, with a rate of 0.2 and
inputs dropped. That suited both the RBM (5.7 % of the validation digits wrong with 1,000 labels, 6.0 % without dropped
inputs) and the random start (8.7 and 10.7 %).
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.recognition import by_net, error
from dlkit.core.reports import PaperRow
from dlkit.models import RBM
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.unrolled import classifier
from dlkit.papers.reproduction import RESUMABLE, Result, cached, finished, mean_row
from dlkit.training import (
    CD,
    PCD,
    CrossEntropy,
    Experiment,
    InputDropout,
    Learner,
    Reconstruction,
    linear_schedule,
    piecewise_constant,
    pretrain,
)
from dlkit.training.fine_tuning import fine_tune
from dlkit.training.pretraining import layer_experiments

TITLE = "Larochelle, Bengio, Louradour, Lamblin 2009: test errors in percent; the seconds are of fine-tuning"
SIZES = (784, 500, 500, 500)
SEEDS = 3
LAROCHELLE = "Larochelle et al. 2009, quoted from memory and not checked; sizes chosen for each"
YELL = "yell/boltzmann-machines, RBM of 1,024 units and fine-tuning"
PUBLISHED = {
    ("random", 60_000): ("2.4", LAROCHELLE),
    ("RBM", 60_000): ("1.2", LAROCHELLE),
    ("autoassociator", 60_000): ("1.4", LAROCHELLE),
    ("random", 10_000): ("5.27", YELL),
    ("RBM", 10_000): ("2.73", YELL),
    ("random", 1_000): ("11.29", YELL),
    ("RBM", 1_000): ("6.35", YELL),
    ("random", 100): ("23.98", YELL),
    ("RBM", 100): ("18.3", YELL),
}


@dataclass(frozen=True)
class Start:
    """How the layers are pre-trained: their class, learner and rate, and the top layer's learner if it is another.

    Without a learner they are not pre-trained: a random start.
    """

    name: str
    layer: Any = Autoassociator
    learner: Learner | None = None
    rate: float = 0.0
    top: Learner | None = None


STARTS = (
    Start("random"),
    Start("RBM", RBM, CD(), 0.1, top=PCD()),
    Start("autoassociator", Autoassociator, Reconstruction(), 0.02),
    Start("denoising", Autoassociator, Reconstruction(corruption=0.25), 0.02),
    Start("sparse", Autoassociator, Reconstruction(sparsity_target=0.05, sparsity_cost=0.1), 0.01),
)


@dataclass(frozen=True)
class Recipe:
    """How many images, seeds and epochs; `labels` are (labelled digits, steps of fine-tuning on batches of 100)."""

    images: int = 60_000
    seeds: int = SEEDS
    greedy_epochs: int = 15
    labels: tuple[tuple[int, int], ...] = ((100, 500), (1_000, 1_000), (10_000, 3_000), (60_000, 12_000))


QUICK = Recipe(images=6_000, seeds=1, greedy_epochs=3, labels=((100, 200), (1_000, 400)))


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """One row for each start and number of labels, from the results that `folder` has, if any."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    results: dict[tuple[str, int], list[Result]] = {}
    tasks = [(start, seed) for seed in range(recipe.seeds) for start in STARTS]
    for start, seed in tqdm(tasks, unit="start", disable=None):
        own_folder = folder / f"{start.name}-{seed}"
        stack: list[Any] | None = None
        for labels, count in recipe.labels:
            path = own_folder / f"{labels}.json"
            if not path.exists() and stack is None:
                stack = pretrained_layers(recipe, start, seed, own_folder)
            task = partial(fine_tuned, recipe, stack or [], labels, count, seed, own_folder)
            results.setdefault((start.name, labels), []).append(cached(path, task))
    return [row(start.name, labels, results[start.name, labels]) for labels, _ in recipe.labels for start in STARTS]


def row(start: str, labels: int, results: list[Result]) -> PaperRow:
    """The mean test error of a start, after fine-tuning on so many labels."""
    published, source = PUBLISHED.get((start, labels), ("", ""))
    return mean_row(f"{labels:,} labels, {start}", published, source, results)


def pretrained_layers(recipe: Recipe, start: Start, seed: int, folder: Path) -> list[Any]:
    """The layers, pre-trained without labels; for a random start, with their initial weights."""
    if start.learner is None:
        generator = torch.Generator().manual_seed(seed)
        layers = [Autoassociator(*pair, generator=generator) for pair in pairwise(SIZES)]
        for layer in layers:
            layer.W.data *= 4  # Glorot's weights are for tanh; sigmoids want four times as much
        return layers
    epochs = recipe.greedy_epochs
    images = data.load("mnist").full_train.images[: recipe.images]
    first = Experiment(
        partial(start.layer, *SIZES[:2]),
        images,
        start.learner,
        epochs=epochs,
        lr=linear_schedule(start.rate, start.rate / 10, epochs),
        momentum=piecewise_constant({0: 0.5, 5: 0.9}),
        weight_decay=2e-4 if start.layer is RBM else 0.0,
        seed=seed,
    )
    stack = layer_experiments(SIZES, start.layer, first)
    if start.top is not None:
        stack[-1] = replace(stack[-1], learner=start.top, momentum=0.0)
    runs = pretrain(stack, checkpoint=folder, **RESUMABLE)
    finished(runs[-1], f"{start.name}, layer {len(runs)}")
    return [run.model for run in runs]


def fine_tuned(recipe: Recipe, stack: list[Any], labels: int, count: int, seed: int, folder: Path) -> Result:
    """Fine-tune a net that starts from these layers, in `count` steps; its test error in percent, and seconds.

    `labels`: how many digits have a label; the seed picks them.
    """
    mnist = data.load("mnist")
    net = classifier(stack, 10, generator=torch.Generator().manual_seed(seed))
    labelled = torch.randperm(recipe.images, generator=torch.Generator().manual_seed(seed))[:labels]
    batch = min(100, labels)
    epochs = max(1, count * batch // labels)
    tuning = Experiment(
        lambda: net,
        mnist.full_train[labelled],
        CrossEntropy(InputDropout(0.2)),
        batch_size=batch,
        epochs=epochs,
        lr=linear_schedule(0.2, 0.004, epochs),
        momentum=0.9,
        seed=seed,
    )
    runs = fine_tune(net, tuning, top_epochs=0, progress=False, checkpoint=folder / f"{labels}", **RESUMABLE)
    best = finished(runs[-1], f"fine-tuning on {labels} labels").model
    seconds = sum(run.seconds for run in runs)
    return {"error": error(by_net(best, mnist.test.images), mnist.test), "seconds": seconds}
