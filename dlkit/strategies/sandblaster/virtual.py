"""Sandblaster in one process and in simulated time: the same queue, commands and gradients, with workers by turns."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dlkit.strategies.asynchronous.replica import Parameters, take_values
from dlkit.strategies.asynchronous.server import split_values
from dlkit.strategies.sandblaster.lbfgs import LBFGS
from dlkit.strategies.sandblaster.portion_gradients import PortionGradients
from dlkit.strategies.sandblaster.portions import PortionQueue
from dlkit.strategies.sandblaster.sandblaster import Sandblaster
from dlkit.strategies.sandblaster.vectors import Command, Coordinator, Vector, VectorShard
from dlkit.training.experiment import Experiment
from dlkit.training.history import History
from dlkit.training.history import Row as HistoryRow
from dlkit.training.run import Run

M = TypeVar("M", bound=nn.Module)
Gradients = Callable[[int, int], tuple[dict[str, float], Tensor]]


class Sum(NamedTuple):
    """What a worker sends: the sum over some portions."""

    portions: list[int]
    metrics: dict[str, float]
    gradient: Tensor


@dataclass
class VirtualWorker:
    """duration: of a portion. busy_until: the time. kept: portions that it has computed and not sent."""

    number: int
    duration: float
    busy_until: float = 0.0
    at: int | None = None
    kept: list[int] = field(default_factory=list)


class VirtualWorkers:
    """Workers that compute the portions of batches. durations: of a portion, by worker. now: the time.

    kills: (evaluation, worker) at which one dies over its second portion; it is back for the next.
    """

    def __init__(self, durations: list[float], gradients: Gradients, kills: set[tuple[int, int]]):
        self.workers = [VirtualWorker(number, duration) for number, duration in enumerate(durations)]
        self.gradients, self.kills = gradients, kills
        self.now, self.evaluations, self.wasted = 0.0, 0, 0

    def __repr__(self) -> str:
        return f"VirtualWorkers({len(self.workers)} workers, at {self.now:.2f})"

    def compute(self, step: int, queue: PortionQueue) -> list[Sum]:
        """The sums that count, which have all portions of the batch."""
        counted: list[Sum] = []
        alive, taken = list(self.workers), Counter[int]()
        for worker in alive:
            worker.at, worker.kept = None, []
        while not queue.done:
            worker = min(alive, key=lambda each: (max(each.busy_until, self.now), each.at is None, each.number))
            self.now = max(worker.busy_until, self.now)
            if worker.at is not None:
                if taken[worker.number] == 2 and (self.evaluations, worker.number) in self.kills and len(alive) > 1:
                    queue.lose(worker.number)
                    alive.remove(worker)
                    continue
                worker.kept.append(worker.at)
                worker.at = None
            if worker.kept and queue.should_send(len(worker.kept)):
                if queue.deliver(worker.number, worker.kept):
                    counted.append(self._summed(step, worker.kept))
                worker.kept = []
            portion = None if queue.done else queue.take(worker.number, self.now, worker.kept)
            if portion is not None:
                worker.at, worker.busy_until = portion, self.now + worker.duration
                taken[worker.number] += 1
            elif not queue.done:  # it looks again when another has ended a portion
                others = [each.busy_until for each in alive if each.at is not None and each is not worker]
                worker.busy_until = min(others)
        self.evaluations += 1
        self.wasted += queue.wasted
        return counted

    def _summed(self, step: int, portions: list[int]) -> Sum:
        metrics, gradient = Counter[str](), None
        for portion in portions:
            shares, own = self.gradients(step, portion)
            metrics.update(shares)
            gradient = own if gradient is None else gradient + own
        assert gradient is not None
        return Sum(portions, dict(metrics), gradient)


@dataclass(frozen=True)
class SandblasterRun(Generic[M]):
    """`bill`: of the coordinator's commands and messages. evaluations: of the loss of a batch. seconds: of each of
    them. wasted: portions that were computed and did not count. faults: a sentence for each engine that was lost.
    """

    experiment: Experiment[M]
    strategy: Sandblaster
    model: M
    history: History
    bill: Counter[str]
    evaluations: int
    iterations: int
    seconds: list[float]
    wasted: int
    stopped: str | None = None
    faults: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        loss = f", loss {self.history['loss'][-1]:.4g}" if len(self.history) else ""
        return (
            f"SandblasterRun({type(self.model).__name__}, {self.strategy}, {self.iterations} iterations, "
            f"{self.evaluations} evaluations, {self.bill['messages']:,} messages to each server{loss})"
        )


def sandblast_virtually(
    experiment: Experiment[M],
    strategy: Sandblaster,
    workers: int,
    *,
    steps: int | None = None,
    slowed: dict[int, float] | None = None,
    kills: set[tuple[int, int]] | None = None,
) -> SandblasterRun[M]:
    """The experiment by so many workers in simulated time, in which a portion takes 1 over `portions`, so that a batch
    takes one worker 1.

    steps: batches, by default the experiment's epochs. slowed: how many times as long a worker's portions take. kills:
    (evaluation, worker) at which one dies. ValueError as `Sandblaster.settings`.
    """
    if workers < 1:
        raise ValueError(f"{workers} workers: at least 1.")
    run: Run = Run(experiment, steps, torch.device("cpu"), None, capture=False)
    settings, parameters = strategy.settings(run), Parameters(run)
    parts = split_values(parameters.count, strategy.servers)
    initial = parameters.get()
    shards = [VectorShard(initial[part.start : part.stop]) for part in parts]

    def send(commands: list[Command]) -> list[list[float]]:
        return [shard.carry_out(commands) for shard in shards]

    coordinator = Coordinator(send, parameters.dtype)
    gradients = PortionGradients(run, parameters, strategy.portions)
    durations = [(slowed or {}).get(worker, 1.0) / strategy.portions for worker in range(workers)]
    all_workers = VirtualWorkers(durations, gradients, kills or set())
    seconds: list[float] = []
    metrics: list[dict[str, float]] = []

    def evaluate(point: Vector) -> tuple[float, Vector]:
        coordinator.flush()
        parameters.set(torch.cat([shard.vectors[point.name] for shard in shards]))
        begun = all_workers.now
        sums = sorted(all_workers.compute(run.step, strategy.queue()))
        seconds.append(all_workers.now - begun)
        total = Counter[str]()
        for each in sums:
            total.update(each.metrics)
            for shard, part in zip(shards, parts, strict=True):
                shard.contributions[str(each.portions)] = each.gradient[part.start : part.stop]
        gradient = Vector(coordinator)
        coordinator.order("collect", gradient.name, [str(each.portions) for each in sums])
        metrics.append(dict(total))
        return total["loss"], gradient

    lbfgs, history = LBFGS(Vector(coordinator, "x"), evaluate, settings), History()
    since: list[dict[str, float]] = []  # the last row: what each batch gave at the point where its step began
    while run.step < run.total_steps:
        first = len(metrics)
        lbfgs.step()
        run.step += 1
        since.append(metrics[first])
        every = experiment.row_every or run.steps_per_epoch
        if 0 in (run.step % every, run.step % run.steps_per_epoch) or run.step == run.total_steps:
            means = {name: sum(each.get(name, 0.0) for each in since) / len(since) for name in since[0]}
            row: HistoryRow = {"step": run.step, "epoch": run.epoch, **means, "lr": settings.lr}
            history.append(row)
            since = []
    coordinator.flush()
    values = torch.cat([shard.vectors["x"] for shard in shards])
    model: Any = take_values(run, parameters, values)
    return SandblasterRun(
        experiment,
        strategy,
        model,
        history,
        coordinator.bill,
        lbfgs.evaluations,
        lbfgs.iterations,
        seconds,
        all_workers.wasted,
    )
