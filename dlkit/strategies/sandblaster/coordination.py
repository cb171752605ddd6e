"""The coordinator of a Sandblaster run on ranks: it hands out portions, gives commands, and sees numbers."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dlkit.strategies.asynchronous.lines import Asking, as_values
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.serving import Serving
from dlkit.strategies.sandblaster.rank import TIMEOUT, Task
from dlkit.strategies.sandblaster.searching import Counted, Searching
from dlkit.strategies.sandblaster.servers import PortionServer
from dlkit.strategies.sandblaster.vectors import Command
from dlkit.training.run import Run

POLL = 0.25  # seconds between two looks


class Stopped(Exception):
    """The run is to end before its end."""


class Coordination(Searching):
    """Owns the queue of portions. look: called now and then while it waits; what it raises ends the run."""

    def __init__(
        self,
        task: Task,
        run: Run,
        look: Callable[["Coordination"], object],
        callbacks: Sequence[Callable[[Any], Any]] = (),
    ):
        super().__init__(run, task.strategy, callbacks)
        self.look = look
        self.portions = PortionServer()
        self.serving = Serving(task.wiring, task.strategy.servers, self.portions)
        self.asking = Asking(task.wiring)
        self._messages = 0
        self._next_look = 0.0

    def send(self, commands: list[Command]) -> list[list[float]]:
        self._messages += 1
        fields = {"message": self._messages, "commands": commands}
        return [self._asked(server, "commands", **fields).fields["numbers"] for server in self._servers]

    def compute(self, point: str) -> list[Counted]:
        self.portions.begin(self.strategy.queue(), self.run.step, point)
        while not self._done_soon() or time.monotonic() > self._next_look:
            self.serving.check()
            self.look(self)
            self._next_look = time.monotonic() + POLL
        return self.portions.counted

    def clock(self) -> float:
        return time.perf_counter()

    def values(self) -> torch.Tensor:
        self.coordinator.flush()
        return torch.cat([as_values(self._asked(server, "get", vector="x")) for server in self._servers])

    @property
    def _servers(self) -> range:
        return range(self.strategy.servers)

    def _asked(self, server: int, kind: str, **fields: Any) -> Message:
        """A server's answer, however long it takes; `look` says when to give up."""
        while (answer := self.asking.ask(server, kind, TIMEOUT, **fields)) is None:
            self.look(self)
        return answer

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
