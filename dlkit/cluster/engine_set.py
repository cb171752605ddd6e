"""Engines that have started: calls on them, one after another, and their process group."""

import contextlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipyparallel import AsyncResult

from dlkit.cluster import travel, worker
from dlkit.cluster.engines import ClusterError, Engines
from dlkit.cluster.lookout import REMEDY, Lookout, ask
from dlkit.distributed.process_group import group_is_used, leave_group

# In seconds:
FAILURE_GRACE = 1.0  # for ranks to go on after one has failed, before those that wait for it are freed
TURN_POLL = 0.2  # between two looks whether to wait on for a turn
ROOM = 1 << 14  # bytes that the file by which engines meet may take

WAITS = "The cluster is at another call or run: this one waits for its turn."


@dataclass(repr=False)
class EngineSet(Engines):
    """The engines of a cluster. All `Cluster`s that use the same engines share it, and so know when it has ended.

    `submit` sends a call to all engines; `wait` gives the results, or raises what went wrong; both within `turn`.
    groups: how many process groups were made. grouped: is there one now? used: may messages have been left over in it?
    """

    groups: int = 0
    grouped: bool = False
    used: bool = False
    requests: int = 0  # of lookout.py
    _turn: threading.RLock = field(default_factory=threading.RLock)
    _sent: int = 0  # messages of the client, after the latest call: others are sent by %%px

    def __repr__(self) -> str:
        return f"EngineSet({len(self.plan)} engines, {self.backend}, {'grouped' if self.grouped else 'not grouped'})"

    @contextmanager
    def turn(self, stop: threading.Event | None = None, say: Callable[[str], object] = print) -> Iterator[None]:
        """The context of one that calls the engines: others, from other threads, wait until it ends, and `say` so.

        ClusterError if `stop` is set meanwhile.
        """
        waited = False
        while not self._turn.acquire(timeout=TURN_POLL):
            if stop is not None and stop.is_set():
                raise ClusterError("the run was stopped while it waited for its turn, before its first step.")
            if not waited:
                say(WAITS)
            waited = True
        try:
            yield
        finally:
            self._turn.release()

    def start(self) -> Iterator[None]:
        """Start all processes, and make a group of the engines; yields after each of three steps."""
        self.grouped = False
        self.start_processes()
        yield
        yield from self.assemble()

    def assemble(self) -> Iterator[None]:
        """Wait for engines that are starting, then make a group of all; yields after each of the two."""
        self.wait_for_start()
        yield
        self.regroup()
        self.facts = dict(enumerate(self.wait(self.submit(worker.host_facts))))
        yield

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[AsyncResult]:
        """Send a call to all engines, in a group in which no message is left over.

        TypeError if it cannot be pickled; ClusterError as in `check`.
        """
        self.check()
        call = travel.pickle_call(function, *args, **kwargs)
        if not self.grouped:
            self.regroup()
        return self._send(call, self._new_group() if self.may_have_leftovers() else None)

    def wait(self, pending: list[AsyncResult], on_poll: Callable[[], object] = lambda: None) -> list[Any]:
        """The results of a call, in the order of ranks; `on_poll` is called twice a second meanwhile.

        Raises what the function raised on the lowest rank where it did, and ClusterError if an engine is lost, or if
        ranks wait for each other for good. Once a rank has failed for a while, and others go on, these are freed from
        the exchanges in which they wait for it. After a failure the group is made anew, after an interrupt before the
        next call.
        """
        failed, deadline, freed, stuck = [], float("inf"), False, None
        lookout = Lookout(self)
        try:
            for _ in self.polled(pending):
                on_poll()
                waiting = lookout.look(pending)
                if waiting and freed:
                    raise ClusterError(f"{waiting}, also when freed: `cluster.recover()` starts them afresh.")
                if not freed:
                    stuck = waiting
                    failed = [rank for rank, result in enumerate(pending) if has_failed(result)]
                    deadline = min(deadline, time.monotonic() + FAILURE_GRACE) if failed else deadline
                    if stuck or time.monotonic() > deadline:
                        self.free()
                        freed = True
        except BaseException:  # an interrupt, a lost engine, or what `on_poll` raised
            self.free()
            raise
        have_failed = any(has_failed(result) for result in pending)
        if have_failed or freed:
            with contextlib.suppress(ClusterError):  # the failure is what is to be told
                self.regroup()
        if stuck and have_failed and not failed:  # if none has failed, they did go on
            raise ClusterError(f"{stuck}: {REMEDY}.")
        return self._results(pending, failed)

    def free(self) -> None:
        """Cut the connections of the group, so that what waits in an exchange fails, on whichever engine."""
        self.grouped = False
        if self.launcher is not None:
            with contextlib.suppress(ClusterError, OSError):  # without a folder they cannot be reached
                ask(self, [process.pid for process in self.launcher.processes.values()])

    def regroup(self) -> None:
        """Make the process group anew, on all engines, as after a failure on one; waits for those still busy."""
        self.grouped = False
        self._call_all(leave_group)
        self._results(self._await(self._send(travel.pickle_call(int), self._new_group())))
        self.grouped, self.used = True, False

    def may_have_leftovers(self) -> bool:
        """Were there exchanges in the group since it was made, by calls or by %%px, or has its file been deleted?"""
        self.used = self.used or not Path(self.folder, f"group-{self.groups}").exists()
        if not self.used and len(self.client.history) != self._sent:
            self.used = any(self._call_all(group_is_used))
        return self.used

    def _new_group(self) -> tuple[str, int, str]:
        """The arguments of `worker.join_group`, for a group that is to be made."""
        for used in Path(self.folder).glob("group-*"):
            if used.name != f"group-{self.groups}":  # which engines may still be in
                used.unlink(missing_ok=True)
        self.groups += 1
        path = self.path(f"group-{self.groups}")
        try:
            path.write_bytes(bytes(ROOM))
            os.truncate(path, 0)
        except OSError as error:
            raise ClusterError(f"the engines cannot meet in the cluster's folder: {error}; make room there.") from None
        return str(path), len(self.plan), self.backend

    def _send(self, call: bytes, group: tuple[str, int, str] | None = None) -> list[AsyncResult]:
        pending = self.call_async([place.rank for place in self.plan], worker.run_pickled_call, call, group)
        self._sent = len(self.client.history)
        if len(pending) < len(self.plan):
            self.check()
        self.used = group is None and self.used
        return [pending[placement.rank] for placement in self.plan]

    def _call_all(self, function: Callable[..., Any]) -> list[Any]:
        """Call the function on all engines, whether they are a group or not, and wait."""
        return self._results(self._await(self._send(travel.pickle_call(function))))

    def _await(self, pending: list[AsyncResult]) -> list[AsyncResult]:
        """The same, when all have ended. ClusterError if they wait for each other for good."""
        lookout = Lookout(self)
        for _ in self.polled(pending):
            if waiting := lookout.look(pending):
                raise ClusterError(f"{waiting}, from an earlier call: `cluster.recover()` starts them afresh.")
        return pending

    def _results(self, pending: Sequence[AsyncResult], failed: Sequence[int] = ()) -> list[Any]:
        """The results; or raise the error of the lowest of the `failed` ranks, or else of all."""
        answers = [result.get() for result in pending]
        self.used = self.used or any(used for _, _, used in answers)
        for rank in failed or range(len(answers)):
            succeeded, pickled, _ = answers[rank]
            if not succeeded:
                error, trace = pickle.loads(pickled)
                error.add_note(f"on {self.describe(rank)}:\n{''.join(trace.format())}".rstrip())
                raise error
        return [pickle.loads(pickled) for _, pickled, _ in answers]


def has_failed(result: AsyncResult) -> bool:
    """Has this call ended in an error on its engine?"""
    return bool(result.ready() and result.successful() and not result.get()[0])
