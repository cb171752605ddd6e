"""Sandblaster in one process and in simulated time: the same queue, commands and gradients, with workers by turns."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

from dlkit.strategies.asynchronous.server import split_values
from dlkit.strategies.sandblaster.by_portions import ByPortions
from dlkit.strategies.sandblaster.portion_gradients import PortionGradients
from dlkit.strategies.sandblaster.searching import Counted, SandblasterRun, Searching
from dlkit.strategies.sandblaster.vectors import Command, VectorShard
from dlkit.training.experiment import Experiment
from dlkit.training.run import Run

M = TypeVar("M", bound=nn.Module)


@dataclass
class VirtualWorker:
    """duration: of a portion. busy_until: the time. kept: portions that it has computed and not sent."""

    number: int
    duration: float
    busy_until: float = 0.0
    at: int | None = None
    kept: list[int] = field(default_factory=list)


class VirtualSearch(Searching):
    """Servers are here, and workers by turns. durations: of a portion, by worker. now: the time.

    kills: (evaluation, worker) at which one dies over its second portion; it is back for the next.
    """

    def __init__(
        self,
        run: Run,
        strategy: ByPortions,
        durations: list[float],
        kills: set[tuple[int, int]],
        callbacks: Sequence[Callable[[Any], Any]] = (),
    ):
        super().__init__(run, strategy, callbacks)
        self.parts = split_values(self.parameters.count, strategy.servers)
        initial = self.parameters.get()
        self.shards = [VectorShard(initial[part.start : part.stop]) for part in self.parts]
        self.gradients = PortionGradients(run, self.parameters, strategy.portions)
        self.workers = [VirtualWorker(number, duration) for number, duration in enumerate(durations)]
        self.kills, self.now, self.wasted = kills, 0.0, 0

    def send(self, commands: list[Command]) -> list[list[float]]:
        return [shard.carry_out(commands) for shard in self.shards]

    def compute(self, point: str) -> list[Counted]:
        self.parameters.set(self._whole(point))
        queue, counted = self.strategy.queue(), list[Counted]()
        alive, taken = list(self.workers), Counter[int]()
        for worker in alive:
            worker.at, worker.kept = None, []
        while not queue.done:
            worker = min(alive, key=lambda each: (max(each.busy_until, self.now), each.at is None, each.number))
            self.now = max(worker.busy_until, self.now)
            if worker.at is not None:
                if taken[worker.number] == 2 and (len(self.seconds), worker.number) in self.kills and len(alive) > 1:
                    queue.lose(worker.number)
                    alive.remove(worker)
                    continue
                worker.kept.append(worker.at)
                worker.at = None
            if worker.kept and queue.should_send(len(worker.kept)):
                if queue.deliver(worker.number, worker.kept):
                    counted.append(self._summed(worker.kept))
                worker.kept = []
            portion = None if queue.done else queue.take(worker.number, self.now, worker.kept)
            if portion is not None:
                worker.at, worker.busy_until = portion, self.now + worker.duration
                taken[worker.number] += 1
            elif not queue.done:  # it looks again when another has ended a portion
                others = [each.busy_until for each in alive if each.at is not None and each is not worker]
                worker.busy_until = min(others)
        self.wasted += queue.wasted
        return counted

    def _summed(self, portions: list[int]) -> Counted:
        """The sum over these portions, whose gradient the servers then have."""
        metrics, gradient = Counter[str](), torch.zeros(self.parameters.count, dtype=self.parameters.dtype)
        for portion in portions:
            shares, own = self.gradients(self.run.step, portion)
            metrics.update(shares)
            gradient += own
        for shard, part in zip(self.shards, self.parts, strict=True):
            shard.contributions[str(portions)] = gradient[part.start : part.stop]
        return Counted(portions, str(portions), dict(metrics))

    def clock(self) -> float:
        return self.now

    def values(self) -> torch.Tensor:
        self.coordinator.flush()
        return self._whole("x")

    def _whole(self, name: str) -> torch.Tensor:
        return torch.cat([shard.vectors[name] for shard in self.shards])


def sandblast_virtually(
    experiment: Experiment[M],
    strategy: ByPortions,
    workers: int,
    *,
    steps: int | None = None,
    slowed: dict[int, float] | None = None,
    kills: set[tuple[int, int]] | None = None,
    callbacks: Sequence[Callable[[Any], Any]] = (),
    stop: threading.Event | None = None,
) -> SandblasterRun[M]:
    """The experiment by so many workers in simulated time, in which a portion takes 1 over `portions`, so that a batch
    takes one worker 1.

    steps: batches, by default the experiment's epochs. slowed: how many times as long a worker's portions take. kills:
    (evaluation, worker) at which one dies. stop: ends it early once it is set. ValueError as `Sandblaster.settings`.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers: at least 1.")
    run: Run = Run(experiment, steps, torch.device("cpu"), None, capture=False)
    durations = [(slowed or {}).get(worker, 1.0) / strategy.portions for worker in range(workers)]
    search = VirtualSearch(run, strategy, durations, kills or set(), callbacks)
    search.learn(stop)
    stopped = "stopped" if run.step < run.total_steps else None
    return search.result(search.values(), search.wasted, stopped=stopped)
