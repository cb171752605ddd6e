"""An asynchronous run by the processes of a torch.distributed group, such as torchrun's, which all call it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dlkit.core.exactness import exact
from dlkit.distributed.group import Group
from dlkit.distributed.process_group import new_group, runs_within
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun, collected
from dlkit.strategies.asynchronous.kept_run import replicas_before, take_folder
from dlkit.strategies.asynchronous.observer import Observer
from dlkit.strategies.asynchronous.on_ranks import POLL, InThread, SharedStop, beside_a_run, ranks_of_one_machine
from dlkit.strategies.asynchronous.rank import RankResult, Task, run_rank
from dlkit.strategies.asynchronous.replica import Parameters
from dlkit.strategies.asynchronous.wiring import Wiring, wiring_here
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.experiment import Experiment
from dlkit.training.interrupt import on_interrupt
from dlkit.training.run import Run


class OnRanks(WithServers):
    """A strategy with servers that processes can carry out by themselves."""

    def run_on_ranks(
        self,
        experiment: Experiment,
        *,
        steps: int | None,
        device: torch.device,
        callbacks: Sequence[Callable[[Any], Any]],
        stop: threading.Event | None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
        **others: Any,
    ) -> AsynchronousRun:
        """What `Experiment.run` does with this strategy: the same result on all ranks. Callbacks are the first's.

        checkpoint: servers keep there what they need to go on with `resume`, after all processes have died.
        ValueError for settings that it does not have, and for ranks on several machines.
        """
        everyone = ranks_of_one_machine(self, others)
        if checkpoint is None and (checkpoint_every or resume):
            raise ValueError("checkpoint_every and resume need checkpoint=, the folder to keep the run in.")
        folder = None if checkpoint is None else Path(checkpoint).resolve()
        roles = self.roles(everyone.world_size)
        wiring: Wiring = everyone.gather_objects(wiring_here(self.servers) if everyone.rank == 0 else None)[0]
        task = Task(experiment, self, roles, wiring, steps, folder, checkpoint_every)
        with exact(device):
            return Together(task, everyone, device, callbacks, stop, resume=resume).run()


class Together:
    """The ranks of a run, of which the first watches it."""

    def __init__(
        self,
        task: Task,
        everyone: Group,
        device: torch.device,
        callbacks: Sequence[Callable[[Any], Any]],
        stop: threading.Event | None,
        *,
        resume: bool,
    ):
        self.task, self.everyone, self.device = task, everyone, device
        self.callbacks = beside_a_run(callbacks)
        self.own: Run = Run(task.experiment, task.steps, torch.device("cpu"), None, capture=False)
        task.strategy.plan(self.own, Parameters(self.own), len(task.roles.replicas), task.checkpoint_every)
        self.stop = SharedStop(everyone, stop)
        self.first = self._take_folder(resume=resume)

    def __repr__(self) -> str:
        return f"Together({self.task.strategy}, rank {self.everyone.rank} of {self.everyone.world_size})"

    def _take_folder(self, *, resume: bool) -> int:
        """The number of the first replica. What is refused is refused on all ranks."""
        refused, first, folder = None, 0, self.task.folder
        if folder is not None and self.everyone.rank == 0:
            try:
                take_folder(folder, self.own, self.task.strategy, resume=resume)
                first = replicas_before(folder, self.task.strategy.servers)
            except (OSError, ValueError) as error:
                refused = error
        refused, first = self.everyone.gather_objects((refused, first))[0]
        if refused is not None:
            raise refused
        return first

    def run(self) -> AsynchronousRun:
        observer = Observer(self.task, self.own, self.callbacks) if self.everyone.rank == 0 else None
        with self._own_group() as within, on_interrupt(self.stop.own.interrupted):
            part = InThread(lambda: self._learn(within))
            while part.runs(POLL):
                why = self.stop.why
                if observer is not None:
                    self._watch(observer, why)
        results = self.everyone.gather_objects((part.result(), observer.rows if observer else []))
        if observer is not None:
            observer.close()
        rows = results[0][1]
        return collected(self.task, self.own, [result for result, _ in results], rows)

    @contextmanager
    def _own_group(self) -> Iterator[Any]:
        """torch's group of this rank's replica, where replicas are split, as long as the run takes; else None."""
        own = None
        if self.task.strategy.partitions > 1:
            for ranks in self.task.roles.replicas:
                group = new_group(ranks)  # all ranks make each
                own = group if self.everyone.rank in ranks else own
        yield own
        if own is not None:
            dist.destroy_process_group(own)

    def _watch(self, observer: Observer, why: str | None) -> None:
        observer.look(why)
        if observer.all_done and self.stop.store.add("over", 0) == len(self.task.roles.replicas):
            observer.end()

    def _learn(self, within: Any) -> RankResult:
        member = self.task.roles.member_of(self.everyone.rank)
        number = None if member is None else self.first + member
        with nullcontext() if within is None else runs_within(within):
            return run_rank(self.task, self.everyone.rank, number, self._ended, lambda: False, self.device)

    def _ended(self) -> None:
        self.stop.store.add("over", 1)
