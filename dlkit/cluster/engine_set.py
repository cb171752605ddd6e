"""Engines that have started: their state, calls on them, and their process group."""

import contextlib
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ipyparallel import AsyncResult
from ipyparallel.error import NoEnginesRegistered

from dlkit.cluster import worker
from dlkit.cluster.launchers import PlacedCluster
from dlkit.cluster.placement import Placement
from dlkit.distributed.process_group import leave_group

# In seconds:
START_TIMEOUT = 60.0  # for engines to answer
GROUP_TIMEOUT = 60.0  # for ranks to wait for each other
KILL_TIMEOUT = 10.0  # for a killed process to be gone: one with a GPU has much to give back
FAILURE_GRACE = 2.0  # for ranks to go on after one has failed, before those that wait for it are freed
POLL, SHORT_POLL = 0.5, 0.05  # between two looks: at engines that compute, and at what takes no time

LOST = {"gone": "died", "stopped": "been stopped (SIGSTOP)", "starting": "not answered yet"}
RESTART = "`cluster.stop()`, then `cluster.start()`, starts all engines afresh"


class ClusterError(RuntimeError):
    """Engines are lost or not started; the message names them, and what to do."""


@dataclass(repr=False)
class EngineSet:
    """The engines of a cluster. All `Cluster`s that use the same engines share it, and so know when it has ended.

    `submit` sends a call to all engines; `wait` gives the results, or raises what went wrong.
    facts: host, pid and GPU name of each rank. groups: how many process groups were made. grouped: is there one now?
    """

    plan: list[Placement]
    backend: str
    folder: str
    launcher: PlacedCluster | None
    client: Any = None
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    groups: int = 0
    grouped: bool = False

    def __repr__(self) -> str:
        return f"EngineSet({len(self.plan)} engines, {self.backend}, {'grouped' if self.grouped else 'not grouped'})"

    def launch(self, plan: list[Placement]) -> None:
        """Start engines at these placements, beside those that are there."""
        assert self.launcher
        for placement in plan:
            self.facts.pop(placement.rank, None)
        self.launcher.to_start = plan
        self.launcher.start_engines_sync(n=len(plan))

    def assemble(self) -> Iterator[None]:
        """Wait for engines that are starting, then make a group of all; yields after each of the two."""
        deadline = time.monotonic() + START_TIMEOUT
        while missing := [placement.rank for placement in self.plan if placement.rank not in self.client.ids]:
            dead = [rank for rank in missing if self.status(rank) == psutil.STATUS_DEAD]
            if dead or time.monotonic() > deadline:
                who = " and ".join(map(self.describe, dead or missing))
                raise ClusterError(f"{who} {'ended while starting' if dead else 'did not answer in time'}: {RESTART}.")
            time.sleep(SHORT_POLL)
        yield
        self.regroup()
        self.facts = dict(enumerate(self.wait(self.submit(worker.host_facts))))
        yield

    def status(self, rank: int) -> str:
        """psutil's status of the rank's process; STATUS_DEAD for one that is no more."""
        try:
            status = self.launcher.processes[rank].status() if self.launcher else psutil.STATUS_DEAD
        except (KeyError, psutil.NoSuchProcess):
            return psutil.STATUS_DEAD
        return psutil.STATUS_DEAD if status == psutil.STATUS_ZOMBIE else status

    def state(self, rank: int) -> str:
        """ready, stopped, gone or starting; an engine that the controller has lost sight of is gone, too."""
        status = self.status(rank)
        if status in (psutil.STATUS_DEAD, psutil.STATUS_STOPPED):
            return "gone" if status == psutil.STATUS_DEAD else "stopped"
        return "ready" if rank in self.client.ids else "gone" if rank in self.facts else "starting"

    def lost_ranks(self) -> list[int]:
        """The ranks that are not ready. Each is called first: a process that has just been killed looks alive."""
        ranks = [placement.rank for placement in self.plan]
        self.client.wait(list(self.call_async(ranks, os.getpid).values()), timeout=POLL)
        return [rank for rank in ranks if self.state(rank) != "ready"]

    def describe(self, rank: int) -> str:
        """Such as `engine 1 (host lab-07, pid 4711, cpu)`."""
        at = "host {host}, pid {pid}, ".format(**self.facts[rank]) if rank in self.facts else ""
        return f"engine {rank} ({at}{self.plan[rank].device})"

    def check(self) -> None:
        """Raise ClusterError, which names them, if engines have died or been stopped."""
        states = {placement.rank: self.state(placement.rank) for placement in self.plan}
        lost = [f"{self.describe(rank)} has {LOST[state]}" for rank, state in states.items() if state in LOST]
        if lost:
            remedy = "starts it afresh in its place" if len(lost) == 1 else "starts them afresh in their places"
            raise ClusterError(f"{' and '.join(lost)}: `cluster.recover()` {remedy}.")

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[AsyncResult]:
        """Send a call to all engines, in their group. TypeError if it cannot be pickled; ClusterError as in `check`."""
        self.check()
        if not self.grouped:
            self.regroup()
        return self._send(function, *args, **kwargs)

    def wait(self, pending: Sequence[AsyncResult], on_poll: Callable[[], object] = lambda: None) -> list[Any]:
        """The results of a call, in the order of ranks; `on_poll` is called twice a second meanwhile.

        Raises what the function raised on the lowest rank where it did, and ClusterError if an engine is lost. A rank
        that fails while others go on leaves the group after a while: then those that wait for it in a collective fail
        too, and when all have ended the group is made anew. After an interrupt it is made anew before the next call.
        """
        failed, deadline = [], float("inf")
        try:
            for _ in self._poll(pending):
                on_poll()
                if self.grouped:
                    failed = [rank for rank, result in enumerate(pending) if has_failed(result)]
                    deadline = min(deadline, time.monotonic() + FAILURE_GRACE) if failed else deadline
                if self.grouped and time.monotonic() > deadline:
                    self.grouped = False
                    self.call_async(failed, leave_group)
        except KeyboardInterrupt:
            self.grouped = False
            raise
        if self.grouped:
            return self._results(pending)
        self.regroup()
        return self._results(pending, failed)

    def call_async(self, ranks: Iterable[int], function: Callable[..., Any], *args: Any) -> dict[int, AsyncResult]:
        """Call the function on those of the ranks that are there, and do not wait."""
        pending = {}
        for rank in ranks:
            with contextlib.suppress(IndexError, NoEnginesRegistered):
                pending[rank] = self.client[rank].apply_async(function, *args)
        return pending

    def regroup(self) -> None:
        """Make the process group anew, on all engines, as after a failure on one; waits for those still busy."""
        self.grouped = False
        self._call_all(leave_group)
        for used in Path(self.folder).glob("group-*"):
            used.unlink(missing_ok=True)
        self.groups += 1
        path = f"{self.folder}/group-{self.groups}"
        self._call_all(worker.join_group, path, len(self.plan), self.backend, GROUP_TIMEOUT)
        self.grouped = True

    def _send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[AsyncResult]:
        call = worker.pickle_call(function, *args, **kwargs)
        pending = self.call_async([placement.rank for placement in self.plan], worker.run_pickled_call, call)
        if len(pending) < len(self.plan):
            self.check()
        return [pending[placement.rank] for placement in self.plan]

    def _poll(self, pending: Sequence[AsyncResult]) -> Iterator[None]:
        """Yield twice a second until all results are there. ClusterError if an engine is lost."""
        while not all(result.ready() for result in pending):
            self.client.wait(pending, timeout=POLL)
            self.check()
            yield
        self.check()

    def _results(self, pending: Sequence[AsyncResult], failed: Sequence[int] = ()) -> list[Any]:
        """The results; or raise the error of the lowest of the `failed` ranks, or else of all."""
        answers = [result.get() for result in pending]
        for rank in failed or range(len(answers)):
            succeeded, pickled = answers[rank]
            if not succeeded:
                error, trace = pickle.loads(pickled)
                error.add_note(f"on {self.describe(rank)}:\n{''.join(trace.format())}".rstrip())
                raise error
        return [pickle.loads(pickled) for _, pickled in answers]

    def _call_all(self, function: Callable[..., Any], *args: Any) -> None:
        """Call the function on all engines, whether they are a group or not, and wait."""
        pending = self._send(function, *args)
        for _ in self._poll(pending):
            pass
        self._results(pending)

    def kill(self, ranks: Iterable[int]) -> None:
        """Kill engines. Returns when they are gone and the controller has noticed, so that their ids are free."""
        assert self.launcher
        ranks = list(ranks)
        processes = [self.launcher.processes[rank] for rank in ranks if rank in self.launcher.processes]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=KILL_TIMEOUT)
        deadline = time.monotonic() + START_TIMEOUT
        while self.client and not set(ranks).isdisjoint(self.client.ids):
            if time.monotonic() > deadline:
                raise ClusterError(f"the controller does not let go of engines that are gone: {RESTART}.")
            time.sleep(SHORT_POLL)

    def stop(self) -> None:
        """End the engines and the controller, and delete the folder."""
        client, launcher, self.client = self.client, self.launcher, None
        if client is not None:
            client.close()
        if launcher is not None:
            self.kill(rank for rank in launcher.processes if self.status(rank) == psutil.STATUS_STOPPED)
            self.launcher = None
            launcher.stop_cluster_sync()
        shutil.rmtree(self.folder, ignore_errors=True)


def has_failed(result: AsyncResult) -> bool:
    """Has this call ended in an error on its engine?"""
    return bool(result.ready() and result.successful() and not result.get()[0])
