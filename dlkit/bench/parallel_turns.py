"""What the benches of split runs share: engines that take turns, and a clock that leaves their start out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch.distributed as dist
from tqdm.auto import tqdm

from dlkit.bench.timing import Seconds
from dlkit.cluster import Cluster
from dlkit.training.experiment import Experiment
from dlkit.training.history import History
from dlkit.training.run import Run
from dlkit.training.shard import Strategy

WARM = 20  # steps that are not counted, at the beginning of each run


def turns(tasks: Mapping[str, Callable[[], float]], what: str, rounds: int) -> Seconds:
    """The seconds that each task says it took, in each of `rounds` rounds, after one that is not counted."""
    seconds: Seconds = {name: [] for name in tasks}
    for _ in tqdm(range(rounds + 1), desc=what, unit="round", leave=False):
        for name, task in tasks.items():
            seconds[name].append(task())
    return {name: values[1:] for name, values in seconds.items()}


def clock(run: Run) -> dict[str, float]:
    """A callback: wall-clock time, which goes on between steps too, where `run.seconds` stands still."""
    return {"clock": time.perf_counter()}


def timed(experiment: Experiment) -> Experiment:
    return replace(experiment, row_every=WARM)


def taken(history: History) -> float:
    """Wall-clock seconds from the end of the warm-up to that of the last step."""
    first, *_, last = (float(row["clock"] or 0.0) for row in history.rows)
    return last - first


def split(cluster: Cluster, experiment: Experiment, strategy: Strategy, steps: int) -> float:
    """Seconds of wall clock that `steps` steps take on the cluster, after a warm-up, as rank 0 sees it."""
    run = cluster.run(timed(experiment), strategy, steps=WARM + steps, device="cpu", callbacks=[clock], progress=False)
    return taken(run.history)


def apart(cluster: Cluster, experiment: Experiment, ranks: Sequence[int], steps: int) -> float:
    """The same of runs that are not split, one on each of `ranks` at once, while other engines idle; the longest."""
    found = cluster.call(on_its_own, timed(experiment), list(ranks), WARM + steps)
    return max(taken(history) for history in found if history is not None)


def on_its_own(experiment: Experiment, ranks: list[int], steps: int) -> History | None:
    """What an engine does for `apart`."""
    if dist.get_rank() not in ranks:
        return None
    return experiment.run(steps=steps, device="cpu", callbacks=[clock], progress=False).history
