"""Calls on engines that go on when one dies: it is told, started afresh in its place, and can be sent a call again."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from ipyparallel.error import EngineError, RemoteError

from dlkit.cluster import travel, worker
from dlkit.cluster.engine_set import EngineSet
from dlkit.cluster.engines import ClusterError
from dlkit.training.history import Row
from dlkit.training.run import Run

POLL = 0.1  # seconds between two looks at the engines
STARTS = 3  # how often an engine that dies while it starts is started


class Supervisor:
    """`pending`: calls that go on, by rank. `results`: of those that have ended. `starting`: how often engines that
    are on their way back were started. `faults`: a sentence for each that was lost or has come back.
    """

    def __init__(self, engines: EngineSet):
        self.engines = engines
        self.pending: dict[int, Any] = {}  # ipyparallel's
        self.results: dict[int, Any] = {}
        self.starting: dict[int, int] = {}
        self.faults: list[str] = []
        self._facts: dict[int, dict[str, Any]] = {}  # of engines that are starting, from before

    def __repr__(self) -> str:
        return f"Supervisor({len(self.pending)} calls, {len(self.starting)} engines starting)"

    def report(self, step: int, run: Run, rows: Sequence[Row]) -> dict[str, Any]:
        """What `on_progress` is told: as `ProgressPublisher` says it, and the faults. rows: of the history so far."""
        row: Row = rows[-1] if rows else {}
        at, seconds = row.get("step") or 0, row.get("seconds")
        rate = at * run.experiment.batch_size / seconds if seconds else None
        told = {"loss": row.get("loss"), "at": at, "rate": rate, "row": row or None, "faults": list(self.faults)}
        return {"step": step, "total": run.total_steps, **told}

    def send(self, rank: int, function: Callable[..., Any], *args: Any) -> bool:
        """Call the function on an engine; whether it was there to be called."""
        call = travel.pickle_call(function, *args)
        sent = self.engines.call_async([rank], worker.run_pickled_call, call, None)
        self.pending |= sent
        return rank in sent

    def poll(self, excused: Callable[[int], bool] = lambda rank: False, wait: float = POLL) -> None:
        """Wait so many seconds, and take the results that are there. ClusterError if the controller has died.

        What a call raised is raised, unless its rank is excused.
        """
        self.engines.client.wait(list(self.pending.values()), timeout=wait)
        self.engines._check_controller()
        for rank, result in list(self.pending.items()):
            if not result.ready():
                continue
            try:
                succeeded, pickled, _ = result.get()
            except (EngineError, RemoteError):
                continue  # it is lost, which `lost` finds
            del self.pending[rank]
            if succeeded:
                self.results[rank] = pickle.loads(pickled)
            elif not excused(rank):
                error, trace = pickle.loads(pickled)
                error.add_note(f"on {self.engines.describe(rank)}:\n{''.join(trace.format())}".rstrip())
                raise error

    def lost(self) -> list[int]:
        """Ranks whose engines have died since the last look."""
        gone = [rank for rank in self.pending if self.engines.state(rank) == "gone"]
        for rank in gone:
            del self.pending[rank]
        return gone

    def start_again(self, rank: int) -> None:
        self.starting[rank] = 0

    def back(self) -> list[int]:
        """Ranks whose engines have come back since the last look. ClusterError for one that dies again and again."""
        for rank, times in list(self.starting.items()):
            if self.engines.state(rank) == "gone":
                if times == STARTS:
                    raise ClusterError(f"{self.engines.describe(rank)} does not start again: `cluster.recover()`.")
                self.engines.kill([rank])
                self._facts[rank] = self.engines.facts.get(rank) or self._facts[rank]
                self.engines.launch([self.engines.plan[rank]])
                self.starting[rank] += 1
        back = [rank for rank in self.starting if rank in self.engines.client.ids]
        for rank in back:
            del self.starting[rank]
            assert self.engines.launcher is not None
            self.engines.facts[rank] = self._facts[rank] | {"pid": self.engines.launcher.processes[rank].pid}
            self.faults.append(f"engine {rank} has come back")
        return back

    def close(self, timeout: float) -> None:
        """Give calls that go on a while to end; if any engine was lost, the group is made anew before the next call."""
        if self.pending:
            self.engines.client.wait(list(self.pending.values()), timeout=timeout)
        if self.starting or self.faults or not all(result.ready() for result in self.pending.values()):
            self.engines.grouped = False
