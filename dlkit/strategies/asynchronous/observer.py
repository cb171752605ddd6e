"""One that looks at a run from outside: asks the servers how far they are, and lets callbacks see their values."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dlkit.strategies.asynchronous.lines import Asking
from dlkit.strategies.asynchronous.rank import Task
from dlkit.strategies.asynchronous.replica import Parameters, take_values
from dlkit.training.history import Row as HistoryRow
from dlkit.training.history import add_columns
from dlkit.training.run import Run

TIMEOUT = 0.3  # seconds for a server to answer


class Observer:
    """`rows` of the history so far, with the callbacks' columns; `batches` that the first server has had; `done`: the
    servers that want no more; `ended`: those that know that they may end, and answer no more.

    run: of the same experiment, in this process; callbacks see it with the servers' values of a moment later.
    """

    def __init__(self, task: Task, run: Run, callbacks: Sequence[Callable[[Any], Any]]):
        self.run, self.callbacks = run, callbacks
        self.rows: list[HistoryRow] = []
        self.batches = 0
        self.done: set[int] = set()
        self.ended: set[int] = set()
        self.servers = range(task.strategy.servers)
        self._parameters = Parameters(run)
        self._asking = Asking(task.wiring)
        self._life = 0

    def __repr__(self) -> str:
        return f"Observer({self.batches:,} of {self.run.total_steps:,} batches)"

    @property
    def all_done(self) -> bool:
        return len(self.done) == len(self.servers)

    @property
    def _going(self) -> list[int]:
        return [server for server in self.servers if server not in self.ended]

    def look(self, stop: str | None = None) -> None:
        """Ask all servers that have not ended. stop: tell them to stop, and why."""
        for server in self._going:
            if stop is not None:
                self._asking.ask(server, "stop", TIMEOUT, why=stop)
            since = len(self.rows) if server == 0 else 1 << 40
            answer = self._asking.ask(server, "rows", TIMEOUT, since=since)
            if answer is None:
                continue
            if answer.fields["done"]:
                self.done.add(server)
            if server == 0:
                self._take(answer.fields)

    def end(self) -> None:
        """Let all servers end."""
        for server in self._going:
            if self._asking.ask(server, "end", TIMEOUT) is not None:
                self.ended.add(server)

    def close(self) -> None:
        self._asking.close()

    def _take(self, told: dict[str, Any]) -> None:
        self.batches = told["batches"]
        if told["life"] != self._life:  # rows after its checkpoint are made again
            self._life, self.rows = told["life"], self.rows[: told["rows_in_all"]]
            return
        for row in told["rows"]:
            self.rows.append(row)
            if self.callbacks and (values := self._values()) is not None:
                take_values(self.run, self._parameters, values)
                self.run.step = int(row["step"] or 0)
                add_columns(row, self.callbacks, self.run)

    def _values(self) -> torch.Tensor | None:
        """The servers' values as they are now; None if one is away."""
        parts = []
        for server in self.servers:
            answer = self._asking.ask(server, "fetch", 10 * TIMEOUT)
            if answer is None or answer.values is None:
                return None
            parts.append(answer.values)
        return torch.cat(parts)
