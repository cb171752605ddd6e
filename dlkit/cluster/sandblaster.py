"""A Sandblaster run on the engines of a cluster: the coordinator is in the notebook's process."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dlkit.cluster.engine_set import EngineSet
from dlkit.cluster.engines import ClusterError
from dlkit.cluster.split_run import data_for_engines, device_here, own_files, with_data
from dlkit.cluster.supervisor import Supervisor
from dlkit.strategies.asynchronous.wiring import wiring_here
from dlkit.strategies.sandblaster.coordination import Coordination, Stopped
from dlkit.strategies.sandblaster.rank import Task, work
from dlkit.strategies.sandblaster.sandblaster import Sandblaster
from dlkit.strategies.sandblaster.searching import SandblasterRun
from dlkit.training.experiment import Experiment
from dlkit.training.interrupt import StopRequest, on_interrupt
from dlkit.training.run import Run

LAST_TIMEOUT = 6.0  # seconds for engines to end


def run_sandblaster(
    engines: EngineSet,
    experiment: Experiment,
    strategy: Sandblaster,
    *,
    resume: bool = False,
    steps: int | None = None,
    device: str | None = None,
    callbacks: Sequence[Callable[[Any], Any]] = (),
    progress: bool = True,
    on_progress: Callable[[dict[str, Any]], object] = lambda report: None,
    stop: threading.Event | None = None,
    **others: Any,
) -> SandblasterRun:
    """Run the experiment by L-BFGS on the engines, as `Cluster.run` says. All engines compute portions, and the first
    `servers` of them hold vectors too.

    callbacks see the run in this process, at each row. ClusterError if an engine with a server dies; one that only
    computes is started afresh. TypeError for settings that other runs have.
    """
    if others or resume:
        names = " and ".join(f"{name}=" for name in [*others, *(["resume"] if resume else [])])
        raise TypeError(f"{names} cannot be had with Sandblaster.")
    if strategy.servers > len(engines.plan):
        raise ValueError(f"{strategy} on {len(engines.plan)} engines: take fewer servers.")
    run: Run = Run(experiment, steps, torch.device("cpu"), None, capture=False)
    with own_files(engines) as (data_file, stop_file):
        sent = replace(experiment, data=data_for_engines(experiment.data, data_file, experiment.dtype))
        task = Task(sent, strategy, wiring_here(strategy.servers + 1), steps)
        watch = Watch(engines, task, StopRequest(stop), stop_file, device, on_progress)
        coordination = Coordination(task, run, watch, callbacks)
        try:
            with (
                on_interrupt(watch.stop.interrupted),
                tqdm(total=run.total_steps, disable=not progress, unit="batch", delay=1) as bar,
            ):
                watch.begin(bar)
                with suppress(Stopped):
                    coordination.learn()
                stopped, watch.ends = watch.stop.why, True
                values = coordination.values()
                coordination.end()
        finally:
            stop_file.touch()
            watch.calls.close(LAST_TIMEOUT)
            coordination.close()
    return coordination.result(values, coordination.portions.wasted, stopped=stopped, faults=watch.calls.faults)


class Watch:
    """Looked through while workers compute: who is lost and comes back, whether to stop."""

    def __init__(
        self,
        engines: EngineSet,
        task: Task,
        stop: StopRequest,
        stop_file: Path,
        device: str | None,
        on_progress: Callable[[dict[str, Any]], object],
    ):
        self.engines, self.task, self.stop, self.device = engines, task, stop, device
        self.stop_file, self.on_progress = stop_file, on_progress
        self.calls = Supervisor(engines)
        self.ends = False  # is the last thing under way, for which nothing is given up?
        self._bar: Any = None
        self._numbers, self._workers = count(), dict[int, int]()

    def __repr__(self) -> str:
        return f"Watch({self.calls})"

    def begin(self, bar: Any) -> None:
        """Let all engines begin."""
        self._bar = bar
        self.engines.check()
        for place in self.engines.plan:
            self._send(place.rank)

    def _send(self, rank: int) -> None:
        self._workers[rank] = next(self._numbers)
        self.calls.send(rank, work_on_engine, self.task, rank, self._workers[rank], str(self.stop_file), self.device)

    def __call__(self, coordination: Coordination) -> None:
        """Stopped if the run is to end; ClusterError if a server is lost; what a call raised is raised."""
        self.calls.poll(wait=0.0)
        for rank in self.calls.lost():
            who = self.engines.describe(rank)
            if rank < self.task.strategy.servers:
                raise ClusterError(
                    f"{who} has died, and with it the vectors of server {rank}: `cluster.recover()` starts it afresh, "
                    "then run again."
                )
            self.calls.faults.append(f"{who} has died, and with it a worker")
            coordination.portions.lose(self._workers[rank])
            self.calls.start_again(rank)
        for rank in self.calls.back():
            self._send(rank)
        self._bar.n = coordination.run.step
        self._bar.refresh()
        run = coordination.run
        self.on_progress(self.calls.report(run.step, run, coordination.history.rows))
        if self.stop.why is not None and not self.ends:
            raise Stopped(self.stop.why)


def work_on_engine(task: Task, rank: int, number: int, stop_file: str, device: str | None) -> int:
    """This engine's part of a run."""
    from dlkit.core.exactness import exact

    task, chosen = replace(task, experiment=with_data(task.experiment)), device_here(device)
    with exact(chosen):
        return work(task, rank, number, lambda: os.path.exists(stop_file), chosen)
