"""An asynchronous run by the processes of a torch.distributed group, such as torchrun's, which all call it."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from dlkit.core.exactness import exact
from dlkit.distributed.group import Group
from dlkit.distributed.process_group import enter_group, run_group
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun, collected
from dlkit.strategies.asynchronous.observer import Observer
from dlkit.strategies.asynchronous.rank import RankResult, Task, run_rank
from dlkit.strategies.asynchronous.replica import Parameters
from dlkit.strategies.asynchronous.wiring import Wiring, wiring_here
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.experiment import Experiment
from dlkit.training.interrupt import StopRequest, on_interrupt
from dlkit.training.run import Run

POLL = 0.1  # seconds between two looks of the first rank


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
        **others: Any,
    ) -> AsynchronousRun:
        """What `Experiment.run` does with this strategy: the same result on all ranks. Callbacks are the first's.

        ValueError for settings that it does not have, and for ranks on several machines.
        """
        enter_group()
        if others := {name: value for name, value in others.items() if value}:
            raise ValueError(
                f"{' and '.join(f'{name}=' for name in others)} cannot be had with {type(self).__name__} under "
                "torchrun: leave it out, or use `cluster.run`."
            )
        if int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"))) < dist.get_world_size():
            raise ValueError(f"{type(self).__name__} under torchrun is for the ranks of one machine: use Cluster(...).")
        if self.partitions > 1:
            raise ValueError("replicas that are split want engines: use `cluster.run`, or leave partitions out.")
        everyone = Group(run_group())
        wiring: Wiring = everyone.gather_objects(wiring_here(self.servers) if everyone.rank == 0 else None)[0]
        task = Task(experiment, self, self.roles(everyone.world_size), wiring, steps)
        with exact(device):
            return Together(task, everyone, device, callbacks, stop).run()


class Together:
    """The ranks of a run, of which the first watches it."""

    def __init__(
        self,
        task: Task,
        everyone: Group,
        device: torch.device,
        callbacks: Sequence[Callable[[Any], Any]],
        stop: threading.Event | None,
    ):
        self.task, self.everyone, self.device, self.stop = task, everyone, device, StopRequest(stop)
        self.own: Run = Run(task.experiment, task.steps, torch.device("cpu"), None, capture=False)
        task.strategy.plan(self.own, Parameters(self.own), len(task.roles.replicas), None)
        name = everyone.gather_objects(os.urandom(8).hex())[0]
        self.store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())
        self.callbacks = callbacks
        self.result: RankResult | BaseException | None = None

    def __repr__(self) -> str:
        return f"Together({self.task.strategy}, rank {self.everyone.rank} of {self.everyone.world_size})"

    def run(self) -> AsynchronousRun:
        observer = Observer(self.task, self.own, self.callbacks) if self.everyone.rank == 0 else None
        thread = threading.Thread(target=self._learn, daemon=True)
        with on_interrupt(self.stop.interrupted):
            thread.start()
            while thread.is_alive():
                thread.join(POLL)
                if self.stop.why and not self.store.check(["stop"]):
                    self.store.set("stop", self.stop.why)
                if observer is not None:
                    self._watch(observer)
        if isinstance(self.result, BaseException):
            raise self.result
        results = self.everyone.gather_objects((self.result, observer.rows if observer else []))
        if observer is not None:
            observer.close()
        rows = results[0][1]
        return collected(self.task, self.own, [result for result, _ in results], rows)

    def _watch(self, observer: Observer) -> None:
        observer.look(self.store.get("stop").decode() if self.store.check(["stop"]) else None)
        if observer.all_done and self.store.add("over", 0) == len(self.task.roles.replicas):
            observer.end()

    def _learn(self) -> None:
        rank = self.everyone.rank
        try:
            with exact(self.device) if self.everyone.rank else nullcontext():
                number = self.task.roles.member_of(rank)
                self.result = run_rank(self.task, rank, number, self._ended, lambda: False, self.device)
        except BaseException as error:
            self.result = error

    def _ended(self) -> None:
        self.store.add("over", 1)
