"""A Sandblaster run, however its commands and portions are carried out: one step of L-BFGS for each batch."""

import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from dlkit.strategies.asynchronous.replica import Parameters, take_values
from dlkit.strategies.sandblaster.by_portions import ByPortions
from dlkit.strategies.sandblaster.lbfgs import LBFGS
from dlkit.strategies.sandblaster.vectors import Command, Coordinator, Vector
from dlkit.training.experiment import Experiment
from dlkit.training.history import History, add_columns
from dlkit.training.history import Row as HistoryRow
from dlkit.training.run import Run

M = TypeVar("M", bound=nn.Module)


class Counted(NamedTuple):
    """A sum over some portions that counts: by `key` the servers know its gradient. metrics: the portions' shares."""

    portions: list[int]
    key: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class SandblasterRun(Generic[M]):
    """`bill`: of the coordinator's commands and messages. evaluations: of the loss of a batch. seconds: of each of
    them. wasted: portions that were computed and did not count. faults: a sentence for each engine that was lost.
    """

    experiment: Experiment[M]
    strategy: ByPortions
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


class Searching:
    """What all have: the coordinator, L-BFGS, the history. seconds: of each evaluation, by `clock`."""

    def __init__(self, run: Run, strategy: ByPortions, callbacks: Sequence[Callable[[Any], Any]] = ()):
        """ValueError as `Sandblaster.settings`."""
        self.run, self.strategy, self.callbacks = run, strategy, callbacks
        self.settings, self.parameters = strategy.settings(run), Parameters(run)
        self.coordinator = Coordinator(self.send, self.parameters.dtype)
        self.lbfgs = LBFGS(Vector(self.coordinator, "x"), self._evaluate, self.settings)
        self.history = History()
        self.seconds: list[float] = []
        self._first: dict[str, float] | None = None  # metrics at the point where a step began

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.lbfgs}, {self.coordinator})"

    # How it is carried out.

    @abstractmethod
    def send(self, commands: list[Command]) -> list[list[float]]:
        """Give commands to all servers; the numbers of each."""

    @abstractmethod
    def compute(self, point: str) -> list[Counted]:
        """The sums that count, of the batch of this step, at the vector of this name."""

    @abstractmethod
    def clock(self) -> float: ...

    @abstractmethod
    def values(self) -> Tensor:
        """All servers' values of the parameters."""

    # The run.

    def learn(self, stop: threading.Event | None = None) -> None:
        """All batches, or until `stop` is set."""
        run, since = self.run, list[dict[str, float]]()
        every = run.experiment.row_every or run.steps_per_epoch
        while run.step < run.total_steps and not (stop is not None and stop.is_set()):
            self._first = None
            self.lbfgs.step()
            run.step += 1
            since.append(self._first or {})
            if 0 in (run.step % every, run.step % run.steps_per_epoch) or run.step == run.total_steps:
                self._add_row(since)
                since = []

    def _add_row(self, since: list[dict[str, float]]) -> None:
        means = {name: sum(each.get(name, 0.0) for each in since) / len(since) for name in since[0]}
        row: HistoryRow = {"step": self.run.step, "epoch": self.run.epoch, **means, "lr": self.settings.lr}
        self.history.append(row)
        if self.callbacks:
            take_values(self.run, self.parameters, self.values())
            add_columns(row, self.callbacks, self.run)

    def _evaluate(self, point: Vector) -> tuple[float, Vector]:
        self.coordinator.flush()
        begun = self.clock()
        counted = sorted(self.compute(point.name))
        total = Counter[str]()
        for each in counted:
            total.update(each.metrics)
        gradient = Vector(self.coordinator)
        self.coordinator.order("collect", gradient.name, [each.key for each in counted])
        self.coordinator.flush()
        self._first = self._first or dict(total)
        self.seconds.append(self.clock() - begun)
        return total["loss"], gradient

    def result(self, values: Tensor, wasted: int, **told: Any) -> SandblasterRun:
        model = take_values(self.run, self.parameters, values)
        return SandblasterRun(
            self.run.experiment,
            self.strategy,
            model,
            self.history,
            self.coordinator.bill,
            self.lbfgs.evaluations,
            self.lbfgs.iterations,
            self.seconds,
            wasted,
            **told,
        )
