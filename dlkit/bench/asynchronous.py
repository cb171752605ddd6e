"""Parameter servers: how fast values come and go, and what nobody's waiting is worth.

The references: a bare pyzmq socket that answers the same bytes, a copy in memory, one replica, synchronous ranks.
"""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import torch

from dlkit.bench.asynchronous_messages import messages
from dlkit.bench.parallel_data import LENET
from dlkit.bench.parallel_turns import in_turns, split_run
from dlkit.bench.timing import ratio, speed_row
from dlkit.cluster import Cluster, slowed
from dlkit.cluster.placement import gpus_here
from dlkit.core.reports import BenchRow
from dlkit.models import LeNet5
from dlkit.strategies import DataParallel, Downpour, Sandblaster
from dlkit.training import CrossEntropy, Experiment

TITLE = "Parameter servers: their messages, and two replicas on two engines of a core each"
SIZES = (60_000, 1_000_000, 10_000_000)  # values: LeNet-5 has the first
ROUNDS, BATCHES = 5, 60
SLOWED = (1, 2, 10)  # how many times as long one replica takes


def measure() -> list[BenchRow]:
    """Rows for messages of each size, then for runs. ValueError where torch can see GPUs."""
    if gpus_here():
        raise ValueError("this bench is of CPU cores: hide the GPUs, CUDA_VISIBLE_DEVICES= dlkit bench asynchronous.")
    rows = [row for size in SIZES for row in messages(size, ROUNDS)]
    with contextlib.redirect_stdout(sys.stderr), Cluster(2) as cluster:
        rows += runs(cluster)
        rows += searches(cluster)
    return rows


# Runs on two engines.


def runs(cluster: Cluster) -> list[BenchRow]:
    """Two replicas beside one, and beside synchronous ranks of which one is slowed."""
    batches = LENET.batch_size
    tasks: dict[str, Callable[[], float]] = {
        "two": partial(asynchronous, cluster, LENET, Downpour(share=True)),
        "one": partial(asynchronous, cluster, LENET, Downpour()),
    }
    for times in SLOWED:
        slow = replace(LENET, learner=slowed(LENET.learner, times))
        tasks[f"asynchronous {times}"] = partial(asynchronous, cluster, slow, Downpour(share=True))
        tasks[f"synchronous {times}"] = partial(synchronous, cluster, slow)
    seconds = in_turns(tasks, "LeNet-5", ROUNDS)
    rows = [
        speed_row(
            f"LeNet-5, batches of {batches}, two replicas, the server with one of them",
            seconds,
            "two",
            "one",
            "one replica, the server on the other engine",
            BATCHES * batches,
            "ratio at least 1.7",
        )
    ]
    for times in SLOWED:
        name = "Downpour, two replicas" + (f", one slowed {times} times" if times > 1 else "")
        what = "synchronous data parallel, the same batches"
        images = BATCHES * batches
        rows.append(speed_row(name, seconds, f"asynchronous {times}", f"synchronous {times}", what, images))
    return rows


def searches(cluster: Cluster) -> list[BenchRow]:
    """Evaluations of a batch by Sandblaster's portions, of which one of two workers takes ten times as long."""
    quick, slow = (replace(SEARCHED, learner=slowed(SEARCHED.learner, times)) for times in (1, 10))
    tasks = {
        "undisturbed": partial(searched, cluster, quick, Sandblaster()),
        "one slow": partial(searched, cluster, slow, Sandblaster()),
        "without backups": partial(searched, cluster, slow, Sandblaster(backups=0)),
        "cut in two": partial(searched, cluster, slow, Sandblaster(portions=2, together=1, backups=0)),
    }
    seconds = in_turns(tasks, "Sandblaster", ROUNDS)
    beside = median(seconds["undisturbed"])
    return [
        BenchRow(
            f"Sandblaster, two workers, one ten times as slow{rest}",
            median(seconds[task]),
            "s",
            f"a batch with both as fast: {beside:.3f} s",
            ratio(seconds, task, "undisturbed"),
            goal,
        )
        for task, rest, goal in (
            ("one slow", "", "ratio at least 0.48 (no more than 1.82 times 1.15 the time)"),
            ("without backups", ", nothing given out twice", ""),
            ("cut in two", ", the batch in two portions", ""),
        )
    ]


SEARCHED = Experiment(
    LeNet5,
    "mnist",
    CrossEntropy(),
    batch_size=4096,
    lr=1.0,
    momentum=None,
    optimizer=partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=4),
)


def searched(cluster: Cluster, experiment: Experiment, strategy: Sandblaster) -> float:
    """The median of the seconds that an evaluation of a batch takes; the first is not counted."""
    run = cluster.run(experiment, strategy, steps=1, progress=False)
    return median(run.seconds[1:])


WARM = 20  # batches of a run that are not timed


def asynchronous(cluster: Cluster, experiment: Experiment, strategy: Downpour) -> float:
    """Seconds that BATCHES batches of all replicas take, by the first server's clock, after a warm-up."""
    made = replace(experiment, row_every=WARM, lr=0.001, momentum=0.0)
    run = cluster.run(made, strategy, steps=WARM + BATCHES, progress=False)
    first, *_, last = run.history.rows
    batches = (last["step"] or 0) - (first["step"] or 0)
    return ((last["seconds"] or 0.0) - (first["seconds"] or 0.0)) * BATCHES / batches


def synchronous(cluster: Cluster, experiment: Experiment) -> float:
    """The same images by DataParallel: each rank has as many of a step's as a replica has in a batch."""
    made = replace(experiment, batch_size=2 * experiment.batch_size, lr=0.001, momentum=0.0)
    return split_run(cluster, made, DataParallel(), BATCHES // 2, WARM // 2)
