"""What the benches of split runs share: runs that take turns on the engines, timed without their first steps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch.distributed as dist
from tqdm.auto import tqdm

from dlkit.bench.timing import Seconds
from dlkit.cluster import Cluster
from dlkit.distributed.links import Link
from dlkit.training.experiment import Experiment
from dlkit.training.history import History
from dlkit.training.run import Run
from dlkit.training.shard import Strategy

WARM = 20  # steps at the beginning of each run that are not timed


def in_turns(tasks: Mapping[str, Callable[[], float]], what: str, rounds: int) -> Seconds:
    """The seconds that each task returns, in each of `rounds` rounds, in turns, after one round that is not counted."""
    seconds: Seconds = {name: [] for name in tasks}
    for _ in tqdm(range(rounds + 1), desc=what, unit="round", leave=False):
        for name, task in tasks.items():
            seconds[name].append(task())
    return {name: values[1:] for name, values in seconds.items()}


def clock(run: Run) -> dict[str, float]:
    """A callback that notes the wall clock, in seconds; `run.seconds` leaves out the time between steps."""
    return {"clock": time.perf_counter()}


def with_clock_rows(experiment: Experiment, warm: int | None = None) -> Experiment:
    """The experiment with a row of history every `warm`, or WARM, steps: the first is written when the warm-up ends."""
    return replace(experiment, row_every=warm or WARM)


def seconds_after_warm_up(history: History) -> float:
    """Wall-clock seconds from the end of the warm-up to that of the last step."""
    first, *_, last = (float(row["clock"] or 0.0) for row in history.rows)
    return last - first


def split_run(
    cluster: Cluster,
    experiment: Experiment,
    strategy: Strategy,
    steps: int,
    warm: int | None = None,
    links: Link | None = None,
) -> float:
    """Wall-clock seconds on rank 0 that `steps` steps take when the cluster splits the run, after a warm-up.

    links: a link to emulate.
    """
    settings = {"steps": (warm or WARM) + steps, "device": "cpu", "callbacks": [clock], "progress": False}
    run = cluster.run(with_clock_rows(experiment, warm), strategy, links=links, **settings)
    return seconds_after_warm_up(run.history)


def separate_runs(
    cluster: Cluster, experiment: Experiment, ranks: Sequence[int], steps: int, warm: int | None = None
) -> float:
    """The same for runs that are not split, one on each of `ranks` at the same time: the seconds of the slowest.

    Other engines do nothing meanwhile.
    """
    histories = cluster.call(run_here, with_clock_rows(experiment, warm), list(ranks), (warm or WARM) + steps)
    return max(seconds_after_warm_up(history) for history in histories if history is not None)


def run_here(experiment: Experiment, ranks: list[int], steps: int) -> History | None:
    """On an engine: the history of a whole run, if this rank has one to do."""
    if dist.get_rank() not in ranks:
        return None
    return experiment.run(steps=steps, device="cpu", callbacks=[clock], progress=False).history
