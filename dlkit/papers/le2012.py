"""Le and others 2012, Building high-level features using large scale unsupervised learning, tried with digits: is there
a unit that tells a class, learned from images without labels?

The digits are 28x28, less their mean image, of unit variance over all pixels. Two nets of the paper's stage (filters
that share no weights, L2 pools, contrast normalisation, reconstruction with a sparse pooled code), sizes ours: one of
16 filters of 24x24 at each of 9 places, whose units are the filters' values; and one of 8 filters of 7x7, pools of 5x5
and contrast, and on these 256 units that see all of it. L-BFGS is Sandblaster's, by one simulated worker.
Unit, sign and threshold are those that are best for the labels of the 10,000 validation digits; measured on the 10,000
test digits is the mean of the share of a digit that is found and of the share of the rest that is not: chance is 50 %.
Sizes, sparsity and rates were chosen by this figure, with units chosen on one half of the validation digits and tried
on the other; the rate of training together was not searched. The paper's own figures are of faces, and stand in no row.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis import best_units
from dlkit.core.reports import PaperRow
from dlkit.models import RICAStack, RICAStage
from dlkit.papers.reproduction import RESUMABLE, Result, cached, finished
from dlkit.strategies import Sandblaster, sandblast_virtually
from dlkit.training import Experiment, OwnCost, pretrain

TITLE = "Le 2012: how well the best single unit tells a digit from the rest, in percent"
SEEDS = 3
SPARSITIES = {"wide": 2.0, "deep": 0.3}
RATES = {"wide": (3e-3,), "deep": (3e-4, 3e-4), "together": (1e-4,)}  # of SGD, by stages
SEARCHED, ITERATIONS, RATE = 5_000, 10, 1.0  # images of a batch of L-BFGS, its iterations on each, its first step
SANDBLASTER = Sandblaster(portions=10, together=5, backups=0)


@dataclass(frozen=True)
class Recipe:
    """images: of the training set. epochs: of SGD, of each stage; of L-BFGS one is made."""

    images: int = 20_000
    epochs: int = 3
    seeds: int = SEEDS


QUICK = Recipe(images=4_000, epochs=1, seeds=1)


def wide(seed: int) -> list[RICAStage]:
    """A stage whose filters see most of a digit, each at its own place, and each a pool of its own."""
    settings = {"stride": 2, "pool": (1, 1), "sparsity": SPARSITIES["wide"]}
    return [RICAStage(1, 16, 24, (28, 28), **settings, generator=torch.Generator().manual_seed(seed))]


def deep(seed: int) -> list[RICAStage]:
    """Two stages, of which the second sees all that the first one gives."""
    generator = torch.Generator().manual_seed(seed)
    first = RICAStage(1, 8, 7, (28, 28), pool=(5, 2), sparsity=SPARSITIES["deep"], generator=generator)
    maps, high, wide = first.output
    top = RICAStage(
        maps, 256, high, (high, wide), pool=(1, 1), contrast=None, sparsity=SPARSITIES["deep"], generator=generator
    )
    return [first, top]


@cache
def digits(images: int) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """So many training digits, and all validation and test digits with their labels: less the training digits' mean
    image, and divided by their deviation.
    """
    mnist = data.load("mnist")
    train = mnist.train.images[:images]
    average = train.mean(0)
    deviation = (train - average).std()
    held_out = []
    for part in (mnist.validation, mnist.test):
        assert part.labels is not None  # MNIST has them
        held_out.append(((part.images - average) / deviation, part.labels))
    return (train - average) / deviation, *held_out  # pyrefly: ignore[bad-return]


@torch.no_grad()
def top_values(stages: list[RICAStage], images: Float[Tensor, "images height width"]) -> Float[Tensor, "images units"]:
    """What the filters of the highest stage give."""
    found = []
    for part in images.split(1_000):
        for stage in stages[:-1]:
            part = stage.hidden_given(part)
        top = stages[-1]
        found.append(top.filters(top.as_maps(part)).flatten(1))
    return torch.cat(found)


def accuracies(recipe: Recipe, values: Callable[[Tensor], Tensor]) -> Result:
    """The accuracy of each digit's best unit."""
    _, validation, test = digits(recipe.images)
    best = best_units(values(validation[0]), validation[1])
    return {"accuracy": best.on(values(test[0]), test[1]).tolist()}


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each kind of unit, from the results that `folder` has, if any."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    tasks: dict[str, Callable[[int], Result]] = {
        "pixels": lambda seed: pixels(recipe),
        "wide, random": lambda seed: accuracies(recipe, partial(top_values, wide(seed))),
        "wide, SGD": lambda seed: by_sgd(folder, recipe, "wide", seed),
        "wide, L-BFGS": lambda seed: by_lbfgs(recipe, seed),
        "deep, random": lambda seed: accuracies(recipe, partial(top_values, deep(seed))),
        "deep, SGD": lambda seed: by_sgd(folder, recipe, "deep", seed),
        "deep, together": lambda seed: together(folder, recipe, seed),
    }
    results: dict[str, list[Result]] = {name: [] for name in tasks}
    for seed, name in tqdm([(seed, name) for seed in range(recipe.seeds) for name in tasks], unit="net", disable=None):
        if name == "pixels" and seed:
            continue  # the same for every seed
        file = folder / f"{name.replace(', ', '-')}-{seed}.json"
        results[name].append(cached(file, partial(timed, tasks[name], seed)))
    return [row(NAMES[name], found) for name, found in results.items()]


NAMES = {
    "pixels": "raw pixels",
    "wide, random": "one stage, random filters",
    "wide, SGD": "one stage, trained by SGD",
    "wide, L-BFGS": "one stage, trained by Sandblaster L-BFGS",
    "deep, random": "two stages, random filters",
    "deep, SGD": "two stages, trained by SGD one by one",
    "deep, together": "two stages, then trained together",
}


def timed(task: Callable[[int], Result], seed: int) -> Result:
    begun = perf_counter()
    return task(seed) | {"seconds": perf_counter() - begun}


def row(name: str, results: list[Result]) -> PaperRow:
    """The mean over digits and seeds; each digit's, the mean over seeds."""
    of_digits = [mean(each) for each in zip(*(result["accuracy"] for result in results), strict=True)]
    means = [mean(result["accuracy"]) for result in results]
    spread = "digits 0 to 9: " + ", ".join(f"{accuracy:.1f}" for accuracy in of_digits)
    if len(results) > 1:
        spread += f"; {min(means):.1f} to {max(means):.1f} over {len(results)} seeds"
    return PaperRow(name, "", "", f"{mean(of_digits):.1f}", spread, mean(result["seconds"] for result in results))


# The runs.


def pixels(recipe: Recipe) -> Result:
    return accuracies(recipe, lambda images: images.flatten(1))


NETS = {"wide": wide, "deep": deep}


def by_sgd(folder: Path, recipe: Recipe, name: str, seed: int) -> Result:
    return accuracies(recipe, partial(top_values, pretrained(folder, recipe, name, seed)))


def pretrained(folder: Path, recipe: Recipe, name: str, seed: int) -> list[RICAStage]:
    """The stages of a net, one trained after the other. RuntimeError if that is interrupted."""
    layers = [experiment(recipe, stage, rate, seed) for stage, rate in zip(NETS[name](seed), RATES[name], strict=True)]
    runs = pretrain(layers, checkpoint=folder / f"{name}-{seed}", **RESUMABLE)
    return [finished(run, f"the {name} net").model for run in runs]


def experiment(recipe: Recipe, net: nn.Module, rate: float, seed: int) -> Experiment:
    return Experiment(
        partial(copy.deepcopy, net),
        digits(recipe.images)[0],
        OwnCost(),
        batch_size=100,
        epochs=recipe.epochs,
        lr=rate,
        momentum=0.9,
        seed=seed,
    )


def together(folder: Path, recipe: Recipe, seed: int) -> Result:
    """Both stages of the deep net at once, from where each was trained to by itself."""
    stack = RICAStack(pretrained(folder, recipe, "deep", seed))
    run = experiment(recipe, stack, *RATES["together"], seed).run(checkpoint=folder / f"together-{seed}", **RESUMABLE)
    stages = list(finished(run, "the stack").model.stages)
    return accuracies(recipe, partial(top_values, stages))


def by_lbfgs(recipe: Recipe, seed: int) -> Result:
    """One pass over the digits in large batches."""
    lbfgs = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=ITERATIONS)
    (net,) = wide(seed)
    described = replace(
        experiment(recipe, net, RATE, seed),
        optimizer=lbfgs,
        batch_size=min(SEARCHED, recipe.images),
        epochs=1,
        momentum=None,
        row_every=1,
    )
    run = sandblast_virtually(described, SANDBLASTER, 1)
    return accuracies(recipe, partial(top_values, [run.model])) | {"evaluations": run.evaluations}
