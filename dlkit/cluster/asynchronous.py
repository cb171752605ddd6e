"""An asynchronous run on the engines of a cluster: engines that die do not end it, and come back into it."""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dlkit.cluster import worker
from dlkit.cluster.engine_set import EngineSet
from dlkit.cluster.engines import ClusterError
from dlkit.cluster.split_run import data_for_engines, device_here, own_files, with_data
from dlkit.cluster.supervisor import Supervisor
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun, collected
from dlkit.strategies.asynchronous.kept_run import replicas_before, take_folder
from dlkit.strategies.asynchronous.observer import Observer
from dlkit.strategies.asynchronous.rank import RankResult, Task, run_rank
from dlkit.strategies.asynchronous.replica import Parameters
from dlkit.strategies.asynchronous.wiring import wiring_here
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.experiment import Experiment
from dlkit.training.interrupt import StopRequest, on_interrupt
from dlkit.training.run import Run

# In seconds:
END_TIMEOUT = 30.0  # for engines to end when the run is over
LAST_TIMEOUT = 6.0  # the same, when it has failed


def run_asynchronously(
    engines: EngineSet,
    experiment: Experiment,
    strategy: WithServers,
    *,
    resume: bool = False,
    steps: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    device: str | None = None,
    callbacks: Sequence[Callable[[Any], Any]] = (),
    progress: bool = True,
    on_progress: Callable[[dict[str, Any]], object] = lambda report: None,
    stop: threading.Event | None = None,
    **others: Any,
) -> AsynchronousRun:
    """Run the experiment by servers and replicas on the engines, as `Cluster.run` says.

    callbacks see the run in this process, at each row of the history, with the servers' values of then or a little
    later. steps: batches of all replicas together. TypeError for settings that only synchronous runs have.
    """
    if others:
        names = " and ".join(f"{name}=" for name in others)
        raise TypeError(f"{names} cannot be had with {type(strategy).__name__}, whose ranks take no common steps.")
    roles = strategy.roles(len(engines.plan))
    run = Run(experiment, steps, torch.device("cpu"), None, capture=False)
    strategy.plan(run, Parameters(run), len(roles.replicas), checkpoint_every)  # what it refuses, it refuses here
    own = Path(checkpoint) if checkpoint is not None else engines.path(f"servers-{uuid.uuid4().hex}")
    if resume and checkpoint is None:
        raise ValueError("resume needs checkpoint=, the folder in which the run was kept.")
    take_folder(own, run, strategy, resume=resume)
    with own_files(engines) as (data_file, stop_file):
        sent = replace(experiment, data=data_for_engines(experiment.data, data_file, experiment.dtype))
        task = Task(sent, strategy, roles, wiring_here(strategy.servers), steps, own.resolve(), checkpoint_every)
        conductor = Conductor(engines, task, run, StopRequest(stop), stop_file, device, callbacks, on_progress)
        try:
            with (
                on_interrupt(conductor.stop.interrupted),
                tqdm(total=run.total_steps, disable=not progress, unit="batch", delay=1) as bar,
            ):
                result = conductor.conduct(bar)
        finally:
            conductor.close()
            if checkpoint is None:
                shutil.rmtree(own, ignore_errors=True)
    return replace(result, experiment=experiment)


class Conductor:
    """Watches a run: who is lost, who comes back, whether it is over. Rows and values it has from the servers."""

    def __init__(
        self,
        engines: EngineSet,
        task: Task,
        run: Run,
        stop: StopRequest,
        stop_file: Path,
        device: str | None,
        callbacks: Sequence[Callable[[Any], Any]],
        on_progress: Callable[[dict[str, Any]], object],
    ):
        self.engines, self.task, self.run, self.stop, self.device = engines, task, run, stop, device
        self.stop_file = stop_file
        self.on_progress = on_progress
        self.observer = Observer(task, run, callbacks)
        self.name = uuid.uuid4().hex
        self.numbers = count(replicas_before(task.folder, task.strategy.servers))
        self.calls = Supervisor(engines)
        self.leading: set[int] = set()  # ranks that lead a replica which learns

    def __repr__(self) -> str:
        return f"Conductor({self.task.strategy}, {self.calls})"

    # What engines are sent.

    def _send(self, ranks: Sequence[int], *, learns: bool = True) -> None:
        """Let these ranks begin: those of a replica that is split meet first, in a group of their own."""
        roles = self.task.roles if learns else replace(self.task.roles, replicas=())
        replicas = sorted({member for rank in ranks if (member := roles.member_of(rank)) is not None})
        numbers = {replica: next(self.numbers) for replica in replicas}
        folder = self.engines.path("")
        for rank in ranks:
            self.observer.ended -= set(roles.servers_of(rank))
            member = roles.member_of(rank)
            number = None if member is None else numbers[member]
            group = None
            if member is not None and self.task.strategy.partitions > 1:
                own = roles.replicas[member]
                group = (f"{folder}/replica-{number}-{self.name}", own.index(rank), len(own))
            arguments = (self.task, rank, number, str(self.stop_file), group, self.device)
            if self.calls.send(rank, train_rank, *arguments):
                leads = member is not None and roles.replicas[member][0] == rank
                self.leading = self.leading | {rank} if leads else self.leading - {rank}

    def conduct(self, bar: Any) -> AsynchronousRun:
        """The run, from its beginning to its end. ClusterError if no replica is left, or engines do not end."""
        self.engines.check()
        self._send(range(len(self.engines.plan)))
        deadline = float("inf")
        while self.calls.pending or self.calls.starting:
            self.calls.poll(excused=self._partners_lost)
            if self.stop.why is not None:
                self.stop_file.touch()
            self._look_for_lost()
            self._let_come_back()
            self.observer.look(self.stop.why)
            self._tell(bar)
            if self._is_over():
                deadline = min(deadline, time.monotonic() + END_TIMEOUT)
                self.observer.end()
            if time.monotonic() > deadline:
                raise ClusterError("engines did not end with the run: `cluster.recover()` starts them afresh.")
        result = collected(
            self.task,
            self.run,
            [result for _, result in sorted(self.calls.results.items())],
            self.observer.rows,
            faults=self.calls.faults,
        )
        return replace(result, stopped=self.stop.why or result.stopped)

    def _partners_lost(self, rank: int) -> bool:
        member = self.task.roles.member_of(rank)
        ranks = () if member is None else self.task.roles.replicas[member]
        return any(other != rank and self.engines.state(other) != "ready" for other in ranks)

    def _look_for_lost(self) -> None:
        """Find engines that have died; one that does not come back is told too."""
        strategy, roles = self.task.strategy, self.task.roles
        for rank in self.calls.lost():
            held = [f"server {number}" for number in roles.servers_of(rank)]
            member = roles.member_of(rank)
            held += [] if member is None else [f"a replica of part {member}"]
            self.calls.faults.append(f"{self.engines.describe(rank)} has died, and with it {' and '.join(held)}")
            if strategy.revive or rank in roles.servers:
                self.calls.start_again(rank)
            elif not self.calls.pending.keys() - set(roles.servers) and not strategy.share:
                raise ClusterError("no replica is left: `cluster.recover()` starts engines afresh.")

    def _let_come_back(self) -> None:
        """Send engines that have started back into the run; those of a replica that is split all together."""
        for rank in self.calls.back():
            if self._no_more_to_learn():
                if rank in self.task.roles.servers:
                    self._send([rank], learns=False)
                continue
            member = self.task.roles.member_of(rank)
            ranks = [rank] if member is None else list(self.task.roles.replicas[member])
            self._send([rank, *(other for other in ranks if other != rank and other not in self.calls.pending)])

    def _no_more_to_learn(self) -> bool:
        """Have all servers what they need, or is the run stopped?"""
        return self.observer.all_done or self.stop.why is not None

    def _is_over(self) -> bool:
        """Has also every replica seen it, and is every server there to give its values?"""
        if not self._no_more_to_learn() or any(rank in self.calls.starting for rank in self.task.roles.servers):
            return False
        return all(result.data.get("done") for rank, result in self.calls.pending.items() if rank in self.leading)

    def _tell(self, bar: Any) -> None:
        observer = self.observer
        bar.n = observer.batches
        bar.refresh()
        self.on_progress(self.calls.report(observer.batches, self.run, observer.rows))

    def close(self) -> None:
        """After whatever has happened: no engine is left at the run."""
        self.stop_file.touch()
        self.observer.end()
        self.observer.close()
        if self.task.strategy.partitions > 1:
            self.engines.grouped = False
        self.calls.close(LAST_TIMEOUT)


def train_rank(
    task: Task, rank: int, number: int | None, stop_file: str, group: tuple[str, int, int] | None, device: str | None
) -> RankResult:
    """This engine's part of a run. group: the file by which the ranks of its replica meet, its place and how many."""
    from dlkit.core.exactness import exact
    from dlkit.distributed.process_group import join_by_file, leave_group

    task, chosen = replace(task, experiment=with_data(task.experiment)), device_here(device)
    if group is not None:
        leave_group()
        join_by_file(*group, timeout=worker.EXCHANGE_TIMEOUT)
    with exact(chosen):
        return run_rank(task, rank, number, publish_end, lambda: os.path.exists(stop_file), chosen)


def publish_end() -> None:
    """Tell the notebook that this rank's replica learns no more."""
    from ipyparallel.engine.datapub import publish_data

    publish_data({"done": True})
