"""Hermans 2017, On scalable deep learning and parallelizing gradient descent: at how many workers does it break?

784-300-10 rectified linear units on 50,000 digits, one epoch of all workers together in batches of 32. Workers are
virtual, all in one process and in simulated time; two rows are of two engines whose gradients are held back. Rates were
chosen for ten workers on the 10,000 validation digits, among 0.01, 0.03, 0.1, 0.3, 1 and 3. The thesis has figures of
its errors, and says in words which runs converge: its numbers do not stand beside ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from time import perf_counter

from torch import nn
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.recognition import by_net, error
from dlkit.core.reports import PaperRow
from dlkit.papers.reproduction import Result, cached, mean_row
from dlkit.strategies import Adagrad, ByStaleness, Downpour, Plain, Rule, train_virtually
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.training import CrossEntropy, Experiment

TITLE = "Hermans 2017: asynchronous workers on MNIST, test errors in percent after one epoch"
THESIS = "Hermans 2017"
SEEDS = 3
RULES: dict[str, tuple[Callable[[], Rule], float]] = {
    "SGD": (Plain, 0.1),
    "DynSGD": (ByStaleness, 1.0),
    "Adagrad": (Adagrad, 0.03),
}
PUBLISHED = {("SGD", 10): "converges", ("SGD", 20): "diverges", ("DynSGD", 20): "converges"}


@dataclass(frozen=True)
class Recipe:
    """workers: how many, for the errors; stale: how many, for the mean staleness; forced: on engines."""

    images: int = 50_000
    workers: tuple[int, ...] = (1, 10, 20, 40)
    stale: tuple[int, ...] = (10, 20, 30, 60)
    forced: tuple[int, ...] = (10, 20)
    seeds: int = SEEDS


QUICK = Recipe(images=16_000, workers=(1, 10, 20), stale=(10, 20), forced=(20,), seeds=1)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each rule and number of workers, from the results that `folder` has, if any."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    virtual = {(rule, n): f"{rule}, {n} worker{'s' * (n > 1)}" for rule in RULES for n in recipe.workers}
    forced = {n: f"SGD, two engines, staleness of {n} workers" for n in recipe.forced}
    results: dict[str, list[Result]] = {}
    tasks: list[tuple[str, int, Callable[[], Result]]] = []
    for seed in range(recipe.seeds):
        tasks += [(f"{rule}-{n}", seed, partial(train, recipe, rule, n, seed)) for rule, n in virtual]
        tasks += [(f"staleness-{n}", seed, partial(train, recipe, "DynSGD", n, seed)) for n in recipe.stale]
        tasks += [(f"forced-{n}", seed, partial(train_on_engines, recipe, n, seed)) for n in recipe.forced]
    for key, seed, task in tqdm(tasks, unit="net", disable=None):
        results.setdefault(key, []).append(cached(folder / f"{key}-{seed}.json", task))
    rows = [
        mean_row(name, PUBLISHED.get(key, ""), THESIS if key in PUBLISHED else "", results[f"{key[0]}-{key[1]}"])
        for key, name in virtual.items()
    ]
    rows += [staleness_row(n, results[f"staleness-{n}"]) for n in recipe.stale]
    return rows + [mean_row(name, "", "", results[f"forced-{n}"]) for n, name in forced.items()]


def staleness_row(workers: int, results: list[Result]) -> PaperRow:
    found = [result["staleness"] for result in results]
    seconds = mean(result["seconds"] for result in results)
    spread = f"{min(found):.2f} to {max(found):.2f} over {len(found)} seed{'s' * (len(found) > 1)}"
    name = f"mean staleness with {workers} workers"
    return PaperRow(name, f"{workers - 1}", f"{THESIS}: n - 1", f"{mean(found):.2f}", spread, seconds)


def experiment(recipe: Recipe, lr: float, seed: int) -> Experiment:
    digits = data.load("mnist").train[: recipe.images]
    return Experiment(net, digits, CrossEntropy(), batch_size=32, epochs=1, lr=lr, seed=seed)


def result_of(run: AsynchronousRun, seconds: float) -> Result:
    test = data.load("mnist").test
    wrong = error(by_net(run.model, test.images), test)
    return {"error": wrong, "staleness": run.mean_staleness, "seconds": seconds}


def train(recipe: Recipe, rule: str, workers: int, seed: int) -> Result:
    """By virtual workers: the test error in percent, and the mean staleness."""
    begun = perf_counter()
    made, lr = RULES[rule]
    run = train_virtually(experiment(recipe, lr, seed), Downpour(rule=made, overlap=False), workers)
    return result_of(run, perf_counter() - begun)


def train_on_engines(recipe: Recipe, workers: int, seed: int) -> Result:
    """By two engines, whose gradients are held back until they are as stale as those of so many workers."""
    from dlkit.cluster import Cluster

    strategy = Downpour(rule=Plain, overlap=False, share=True, staleness=workers - 2)
    with Cluster(2) as cluster:
        run = cluster.run(experiment(recipe, RULES["SGD"][1], seed), strategy, progress=False)
    return result_of(run, run.seconds)
