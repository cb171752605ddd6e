"""Dean and others 2012, Large scale distributed deep networks, Figure 5: how soon is an accuracy reached, by how many?

784-300-10 rectified linear units on 50,000 digits, to 5 % of the 10,000 test digits wrong. All begin with the same
weights, of a warm start by SGD. More replicas than cores are simulated: Downpour's batches of 256 one by one, with the
server's own rule and record, in seconds that are put together from parts measured here, on one thread: a batch's
gradient, a fetch or a push of all weights (on the loopback; a server is busy meanwhile), a command and its answer, a
portion of Sandblaster's batch. There is a server for every two replicas. They wait for what they fetch: it is soon
there, and to go on meanwhile would double the staleness. Sandblaster's evaluations are what one process computes, and
their time is: portions one after the other on each worker, fetches and sums of gradients one after the other on the
servers, and the coordinator's messages.
Rates were chosen on the 10,000 validation digits, for one replica and for four, by how soon 5 % are reached, and so was
Sandblaster's batch. The paper's figure has no numbers in its text; its order is said there.
"""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from dlkit import data
from dlkit.analysis.recognition import by_net, error
from dlkit.core.reports import PaperRow
from dlkit.papers.reproduction import Result, cached
from dlkit.strategies import Adagrad, Downpour, Plain, Rule, Sandblaster, sandblast_virtually, train_virtually
from dlkit.strategies.asynchronous.message_times import answer_seconds
from dlkit.training import CrossEntropy, Experiment

TITLE = "Dean 2012: seconds of simulated time until 5 % of the test digits are wrong"
PAPER = "Dean 2012, Fig. 5"
SEEDS = 3
BATCH, TARGET, WARM = 256, 5.0, 25  # images; percent; batches of the warm start
WARM_RATE, SGD_RATE = 0.1, 1.0
RULES: dict[str, tuple[Callable[[], Rule], float]] = {
    "Downpour, fixed rate": (Plain, 0.3),
    "Downpour, Adagrad": (Adagrad, 0.02),
}
SEARCHED, ITERATIONS = 10_000, 5  # images of Sandblaster's batch, L-BFGS' iterations on each
STRATEGY = Sandblaster(portions=64, together=4, backups=0)
SAYS = {
    "Downpour, Adagrad": "the fastest of all at up to 2,000 cores",
    "Downpour, fixed rate": "often too slow",
    "Sandblaster": "may be the fastest at 30,000 cores",
}


@dataclass(frozen=True)
class Recipe:
    """replicas: how many. epochs: after which a run has not reached it."""

    images: int = 50_000
    replicas: tuple[int, ...] = (1, 2, 4, 8, 16)
    epochs: int = 12
    target: float = TARGET
    seeds: int = SEEDS


QUICK = Recipe(images=16_000, replicas=(1, 4), epochs=2, target=9.0, seeds=1)


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))


def measure(folder: Path, quick: bool, seeds: int | None = None) -> list[PaperRow]:
    """A row for each way and number of replicas, from the results that `folder` has, if any."""
    recipe = QUICK if quick else Recipe()
    recipe = recipe if seeds is None else replace(recipe, seeds=seeds)
    results: dict[str, list[Result]] = {}
    parts = cached(folder / "parts.json", measure_parts)
    tasks: list[tuple[str, int, Callable[[], Result]]] = []
    for seed in range(recipe.seeds):
        tasks.append(("sgd", seed, partial(by_sgd, recipe, parts, seed)))
        tasks.append(("sandblaster", seed, partial(by_sandblaster, recipe, seed)))
        for rule in RULES:
            for n in recipe.replicas:
                tasks.append((f"{rule}-{n}", seed, partial(by_downpour, recipe, parts, rule, n, seed)))
    for key, seed, task in tqdm(tasks, unit="net", disable=None):
        results.setdefault(key, []).append(cached(folder / f"{key}-{seed}.json", task))
    rows = [time_row("SGD, one replica", "", results["sgd"])]
    for rule in RULES:
        rows += [
            time_row(f"{rule}, {n} replica{'s' * (n > 1)}", SAYS[rule], results[f"{rule}-{n}"]) for n in recipe.replicas
        ]
    for n in recipe.replicas:
        timed = [result | {"time": sandblaster_seconds(result, parts, n)} for result in results["sandblaster"]]
        rows.append(time_row(f"Sandblaster, {n} worker{'s' * (n > 1)}", SAYS["Sandblaster"], timed))
    return rows


def time_row(name: str, says: str, results: list[Result]) -> PaperRow:
    """The mean time, infinite unless all have reached it."""
    reached = [result for result in results if result["time"] != inf]
    times = [result["time"] for result in reached]
    found = "inf" if len(reached) < len(results) else f"{mean(times):.3g}"
    spread = f"{min(times):.3g} to {max(times):.3g}" if times else "none"
    updates = f", {mean(result['updates'] for result in reached):,.0f} updates" if reached else ""
    spread += f" of {len(reached)} of {len(results)} seed{'s' * (len(results) > 1)} that reached it{updates}"
    return PaperRow(name, says, PAPER if says else "", found, spread, mean(result["seconds"] for result in results))


# The runs.


def experiment(recipe: Recipe, lr: float, seed: int, **settings: Any) -> Experiment:
    settings = {"model": net, "batch_size": BATCH, "epochs": recipe.epochs, "row_every": 5, **settings}
    digits = data.load("mnist").train[: recipe.images]
    return Experiment(data=digits, learner=CrossEntropy(), lr=lr, seed=seed, **settings)


def warmed(recipe: Recipe, lr: float, seed: int, **settings: Any) -> Experiment:
    """One that begins where all do: after a warm start."""
    warm = experiment(recipe, WARM_RATE, seed).run(steps=WARM, progress=False).model
    return experiment(recipe, lr, seed, model=partial(copy.deepcopy, warm), **settings)


class UntilReached:
    """A callback that notes the run when the error of the test digits has come down to the target, and then lets it
    stop.
    """

    def __init__(self, target: float):
        self.target, self.digits = target, data.load("mnist").test
        self.stop = threading.Event()
        self.run: Any = None

    def __repr__(self) -> str:
        return f"UntilReached({self.target} %)"

    def __call__(self, run: Any) -> None:
        if self.run is None and error(by_net(run.model, self.digits.images), self.digits) <= self.target:
            self.run = copy.copy(run)
            self.stop.set()


def timed(recipe: Recipe, train: Callable[[UntilReached], Any], told: Callable[[Any, Any], Result]) -> Result:
    """What is told of the run when it reached the target, and of its end; an infinite time if it never did."""
    until, begun = UntilReached(recipe.target), perf_counter()
    ended = train(until)
    result = {"time": inf, "updates": 0} if until.run is None else told(until.run, ended)
    return result | {"seconds": perf_counter() - begun}


def by_sgd(recipe: Recipe, parts: Result, seed: int) -> Result:
    made = warmed(recipe, SGD_RATE, seed)
    return timed(
        recipe,
        lambda until: made.run(stop=until.stop, callbacks=[until], progress=False),
        lambda run, _: {"time": (WARM + run.step) * parts["batch"], "updates": run.step},
    )


def by_downpour(recipe: Recipe, parts: Result, rule: str, n: int, seed: int) -> Result:
    """By n simulated replicas."""
    made, rate = RULES[rule]
    described = warmed(recipe, rate, seed)
    strategy, service = Downpour(rule=made, servers=ceil(n / 2), overlap=False), parts["message"] / parts["batch"]
    return timed(
        recipe,
        lambda until: train_virtually(described, strategy, n, service=service, callbacks=[until], stop=until.stop),
        lambda run, _: {"time": (WARM + run.seconds) * parts["batch"], "updates": run.updates},
    )


def by_sandblaster(recipe: Recipe, seed: int) -> Result:
    """L-BFGS on large batches: what it has asked for when the target is reached."""
    lbfgs = partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=ITERATIONS)
    settings = {"batch_size": SEARCHED, "momentum": None, "optimizer": lbfgs, "row_every": 1, "epochs": 60}
    described = warmed(recipe, 1.0, seed, **settings)
    return timed(
        recipe,
        lambda until: sandblast_virtually(described, STRATEGY, 1, callbacks=[until], stop=until.stop),
        lambda _, search: {
            "time": 0.0,
            "updates": search.iterations,
            "evaluations": search.evaluations,
            "messages": search.bill["messages"],
        },
    )


def sandblaster_seconds(result: Result, parts: Result, workers: int) -> float:
    """By so many workers, with a server for every two."""
    if result["time"] == inf:
        return inf
    servers, portions = ceil(workers / 2), STRATEGY.portions
    sums = max(portions // STRATEGY.together, workers)
    computing = ceil(portions / workers) * parts["portion"]
    evaluation = computing + (workers + sums) * parts["message"] / servers
    return WARM * parts["batch"] + result["evaluations"] * evaluation + result["messages"] * parts["command"]


# The parts.


def measure_parts() -> Result:
    """Seconds of the gradients of a batch and of a portion, of a fetch or a push of all weights, of a command."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sizes = {"batch": BATCH, "portion": ceil(SEARCHED / STRATEGY.portions)}
        rounds = [{name: step_seconds(size) for name, size in sizes.items()} for _ in range(6)][1:]
    finally:
        torch.set_num_threads(threads)
    found = {name: median(each[name] for each in rounds) for name in sizes}
    return found | answer_seconds(sum(parameter.numel() for parameter in net().parameters()))


STEPS = 50


def step_seconds(size: int) -> float:
    run = experiment(Recipe(images=size * STEPS), WARM_RATE, 0, batch_size=size, epochs=1).run(progress=False)
    return run.seconds / run.step
