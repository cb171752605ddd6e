"""A Sandblaster run by the processes of a torch.distributed group, such as torchrun's; the first coordinates too."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dlkit.core.exactness import exact
from dlkit.distributed.group import Group
from dlkit.strategies.asynchronous.on_ranks import POLL, InThread, SharedStop, beside_a_run, ranks_of_one_machine
from dlkit.strategies.asynchronous.replica import Parameters, take_values
from dlkit.strategies.asynchronous.wiring import Wiring, wiring_here
from dlkit.strategies.sandblaster.by_portions import ByPortions
from dlkit.strategies.sandblaster.coordination import Coordination, Stopped
from dlkit.strategies.sandblaster.rank import Task, work
from dlkit.strategies.sandblaster.searching import SandblasterRun
from dlkit.training.experiment import Experiment
from dlkit.training.interrupt import on_interrupt
from dlkit.training.run import Run


class OnRanks(ByPortions):
    """Portions that processes can compute by themselves."""

    def run_on_ranks(
        self,
        experiment: Experiment,
        *,
        steps: int | None,
        device: torch.device,
        callbacks: Sequence[Callable[[Any], Any]],
        stop: threading.Event | None,
        **others: Any,
    ) -> SandblasterRun:
        """What `Experiment.run` does with this strategy: the same result on all ranks. Callbacks are the first's.

        ValueError as `settings`, for more servers than ranks, for settings that only runs by common steps have, and
        for ranks on several machines.
        """
        everyone = ranks_of_one_machine(self, others)
        if self.servers > everyone.world_size:
            raise ValueError(f"{self} on {everyone.world_size} ranks: take fewer servers.")
        addresses = wiring_here(self.servers + 1) if everyone.rank == 0 else None
        wiring: Wiring = everyone.gather_objects(addresses)[0]
        with exact(device):
            return Together(Task(experiment, self, wiring, steps), everyone, device, stop).run(callbacks)


class Together:
    """The ranks of a run: all compute portions, and the first gives commands too."""

    def __init__(self, task: Task, everyone: Group, device: torch.device, stop: threading.Event | None):
        self.task, self.everyone, self.device = task, everyone, device
        self.own: Run = Run(task.experiment, task.steps, torch.device("cpu"), None, capture=False)
        task.strategy.settings(self.own)  # what is refused is refused on all ranks
        self.stop = SharedStop(everyone, stop)
        self.over = threading.Event()

    def __repr__(self) -> str:
        return f"Together({self.task.strategy}, rank {self.everyone.rank} of {self.everyone.world_size})"

    def run(self, callbacks: Sequence[Callable[[Any], Any]]) -> SandblasterRun:
        rank = self.everyone.rank
        with on_interrupt(self.stop.own.interrupted):
            part = InThread(lambda: work(self.task, rank, rank, self.over.is_set, self.device))
            found = self._coordinate(part, callbacks) if rank == 0 else None
            while part.runs(POLL):
                self._see_the_end()
        part.check()
        run, values = self.everyone.gather_objects(found)[0]
        model = take_values(self.own, Parameters(self.own), values)
        return replace(run, experiment=self.task.experiment, model=model)

    def _coordinate(self, part: InThread, callbacks: Sequence[Callable[[Any], Any]]) -> tuple[SandblasterRun, Tensor]:
        """The run, without what not all can be sent, and its values."""

        def look(_: Coordination) -> None:
            part.check()
            if self.stop.why is not None and not ends:
                raise Stopped

        ends = False
        coordination = Coordination(self.task, self.own, look, beside_a_run(callbacks))
        try:
            with suppress(Stopped):
                coordination.learn()
            stopped, ends = self.stop.why, True
            values = coordination.values()
            coordination.end()
        finally:
            self.stop.store.set("over", "")
            coordination.close()
        run = coordination.result(values, coordination.portions.wasted, stopped=stopped)
        return replace(run, experiment=None, model=None), values  # type: ignore[arg-type]

    def _see_the_end(self) -> None:
        _ = self.stop.why  # tells the others of this rank's
        if self.stop.store.check(["over"]):
            self.over.set()
