"""The coordinator of a Sandblaster run: it hands out portions, gives commands, and sees numbers."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dlkit.strategies.asynchronous.lines import Asking, as_values
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.replica import Parameters, take_values
from dlkit.strategies.asynchronous.serving import Serving
from dlkit.strategies.sandblaster.lbfgs import LBFGS
from dlkit.strategies.sandblaster.rank import TIMEOUT, Task
from dlkit.strategies.sandblaster.servers import PortionServer
from dlkit.strategies.sandblaster.vectors import Command, Coordinator, Vector
from dlkit.training.history import History
from dlkit.training.history import Row as HistoryRow
from dlkit.training.run import Run

POLL = 0.25  # seconds between two looks


class Stopped(Exception):
    """The run is to end before its end."""


class Coordination:
    """The coordinator of a run: it owns the queue, and gives the commands.

    look: called now and then while workers compute, and may raise Stopped. bill, seconds, wasted: as of SandblasterRun.
    """

    def __init__(
        self,
        task: Task,
        run: Run,
        look: Callable[["Coordination"], object],
        callbacks: Sequence[Callable[[Any], Any]] = (),
    ):
        self.task, self.run, self.look, self.callbacks = task, run, look, callbacks
        self.parameters = Parameters(run)
        self.settings = task.strategy.settings(run)
        self.portions = PortionServer()
        self.serving = Serving(task.wiring, task.strategy.servers, self.portions)
        self.asking = Asking(task.wiring)
        self.coordinator = Coordinator(self._send, self.parameters.dtype)
        self.history = History()
        self.seconds: list[float] = []
        self.lbfgs = LBFGS(Vector(self.coordinator, "x"), self._evaluate, self.settings)
        self._first: dict[str, float] | None = None  # metrics at the first point of a step
        self._messages = 0
        self._next_look = 0.0

    def __repr__(self) -> str:
        return f"Coordination({self.lbfgs}, {self.coordinator})"

    def learn(self) -> str | None:
        """All steps; or why it was stopped."""
        since: list[dict[str, float]] = []
        every = self.run.experiment.row_every or self.run.steps_per_epoch
        try:
            while self.run.step < self.run.total_steps:
                self._first = None
                self.lbfgs.step()
                self.run.step += 1
                since.append(self._first or {})
                if 0 in (self.run.step % every, self.run.step % self.run.steps_per_epoch) or (
                    self.run.step == self.run.total_steps
                ):
                    self._add_row(since)
                    since = []
        except Stopped as stopped:
            return str(stopped)
        return None

    def _add_row(self, since: list[dict[str, float]]) -> None:
        means = {name: sum(each.get(name, 0.0) for each in since) / len(since) for name in since[0]}
        row: HistoryRow = {"step": self.run.step, "epoch": self.run.epoch, **means, "lr": self.settings.lr}
        self.history.append(row)
        if self.callbacks:
            take_values(self.run, self.parameters, self.values())
        for callback in self.callbacks:
            columns = callback(self.run) or {}
            row.update({name: v.item() if hasattr(v, "item") else v for name, v in columns.items()})

    def values(self) -> torch.Tensor:
        """All servers' values of the parameters."""
        self.coordinator.flush()
        return torch.cat([as_values(self._asked(server, "get", vector="x")) for server in self._servers])

    @property
    def _servers(self) -> range:
        return range(self.task.strategy.servers)

    def _asked(self, server: int, kind: str, **fields: Any) -> Message:
        """A server's answer, however long it takes; `look` says when to give up."""
        while (answer := self.asking.ask(server, kind, TIMEOUT, **fields)) is None:
            self.look(self)
        return answer

    def _send(self, commands: list[Command]) -> list[list[float]]:
        self._messages += 1
        fields = {"message": self._messages, "commands": commands}
        return [self._asked(server, "commands", **fields).fields["numbers"] for server in self._servers]

    def _evaluate(self, point: Vector) -> tuple[float, Vector]:
        self.coordinator.flush()
        begun, portions = time.perf_counter(), self.portions
        portions.begin(self.task.strategy.queue(), self.run.step, point.name)
        while not self._done_soon() or time.monotonic() > self._next_look:
            self.serving.check()
            self.look(self)
            self._next_look = time.monotonic() + POLL
        sums = sorted(portions.sums)
        total = Counter[str]()
        for _, _, metrics in sums:
            total.update(metrics)
        gradient = Vector(self.coordinator)
        self.coordinator.order("collect", gradient.name, [key for _, key, _ in sums])
        self.coordinator.flush()
        self._first = self._first or dict(total)
        self.seconds.append(time.perf_counter() - begun)
        return total["loss"], gradient

    def _done_soon(self) -> bool:
        """Wait a while for all portions; workers report them meanwhile."""
        with self.portions.changed:
            return self.portions.changed.wait_for(lambda: self.portions.done, POLL)

    def end(self) -> None:
        """Let the servers end."""
        for server in self._servers:
            self.asking.ask(server, "end", TIMEOUT)

    def close(self) -> None:
        self.serving.close()
        self.asking.close()
