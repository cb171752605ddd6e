"""Engines that are up: how they are, what they are asked, and the group that they make."""

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
from dlkit.cluster.launchers import Local
from dlkit.cluster.placement import Placement

STARTING, GROUP = 60.0, 60.0  # seconds: for engines to answer, and for ranks to wait for each other
KILLED = 10.0  # seconds for a killed process to be gone: one with a GPU has much to give back
ALONE = 2.0  # seconds that ranks may go on after one has failed, before those that wait for it are freed
LOOK, SOON = 0.5, 0.05  # seconds between two looks: at engines that compute, and at what takes no time
AMISS = {"gone": "died", "stopped": "been stopped (SIGSTOP)", "starting": "not answered yet"}
AFRESH = "`cluster.stop()`, then `cluster.start()`, starts all engines afresh"


class ClusterError(RuntimeError):
    """The engines are not as they should be; the message names them and the mend."""


@dataclass
class EngineSet:
    """What is up: shared by all that took up the same engines, so that all know when it has ended.

    `ask` sends a call to all engines and `wait` gives their answers, or raises what went wrong.
    """

    plan: list[Placement]
    backend: str
    folder: str
    cluster: Local | None
    client: Any = None
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    groups: int = 0  # made so far
    grouped: bool = False

    def launch(self, at: list[Placement]) -> None:
        """Start engines at these places, beside those that are there."""
        assert self.cluster
        for place in at:
            self.facts.pop(place.rank, None)
        self.cluster.at = at
        self.cluster.start_engines_sync(n=len(at))

    def assemble(self) -> Iterator[None]:
        """Wait for engines that are starting, then make a group of all: two steps."""
        late = time.monotonic() + STARTING
        while missing := [place.rank for place in self.plan if place.rank not in self.client.ids]:
            dead = [rank for rank in missing if self.status(rank) == psutil.STATUS_DEAD]
            if dead or time.monotonic() > late:
                who = " and ".join(map(self.describe, dead or missing))
                raise ClusterError(f"{who} {'ended while starting' if dead else 'did not answer in time'}: {AFRESH}.")
            time.sleep(SOON)
        yield
        self.regroup()
        self.facts = dict(enumerate(self.wait(self.ask(worker.facts))))
        yield

    def status(self, rank: int) -> str:
        """Of the rank's process: psutil's word, and "dead" for one that is no more."""
        try:
            status = self.cluster.processes[rank].status() if self.cluster else psutil.STATUS_DEAD
        except (KeyError, psutil.NoSuchProcess):
            return psutil.STATUS_DEAD
        return psutil.STATUS_DEAD if status == psutil.STATUS_ZOMBIE else status

    def state(self, rank: int) -> str:
        """ready, stopped, gone or starting; one that the controller has lost sight of is gone, too."""
        status = self.status(rank)
        if status in (psutil.STATUS_DEAD, psutil.STATUS_STOPPED):
            return "gone" if status == psutil.STATUS_DEAD else "stopped"
        return "ready" if rank in self.client.ids else "gone" if rank in self.facts else "starting"

    def lost_ranks(self) -> list[int]:
        """The ranks that are not ready. They are asked first: a process that has just been killed looks alive."""
        ranks = [place.rank for place in self.plan]
        self.client.wait(list(self.tell(ranks, os.getpid).values()), timeout=LOOK)
        return [rank for rank in ranks if self.state(rank) != "ready"]

    def describe(self, rank: int) -> str:
        at = "host {host}, pid {pid}, ".format(**self.facts[rank]) if rank in self.facts else ""
        return f"engine {rank} ({at}{self.plan[rank].device})"

    def check(self) -> None:
        """Raise ClusterError, with who they are, if engines have died or been stopped."""
        states = {place.rank: self.state(place.rank) for place in self.plan}
        lost = [f"{self.describe(rank)} has {AMISS[state]}" for rank, state in states.items() if state in AMISS]
        if lost:
            mend = "starts it afresh in its place" if len(lost) == 1 else "starts them afresh in their places"
            raise ClusterError(f"{' and '.join(lost)}: `cluster.recover()` {mend}.")

    def ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[AsyncResult]:
        """Send a call to all engines, which are a group. TypeError if it cannot travel; ClusterError as in `check`."""
        self.check()
        if not self.grouped:
            self.regroup()
        return self._send(function, *args, **kwargs)

    def wait(self, asked: Sequence[AsyncResult], look: Callable[[], object] = lambda: None) -> list[Any]:
        """What the engines answer, in the order of ranks; `look` is called twice a second meanwhile.

        Raises what the function raised on the lowest rank where it did, and ClusterError if an engine is lost. Where
        one fails and others go on, it leaves the group after a while: those that wait for it in a collective fail then,
        and when all have ended the group is made anew. So it is before the next call, if this one is interrupted.
        """
        failed, late = [], float("inf")
        try:
            for _ in self._watch(asked):
                look()
                if self.grouped:
                    failed = [rank for rank, one in enumerate(asked) if fails(one)]
                    late = min(late, time.monotonic() + ALONE) if failed else late
                if self.grouped and time.monotonic() > late:
                    self.grouped = False
                    self.tell(failed, worker.leave_group)
        except KeyboardInterrupt:
            self.grouped = False
            raise
        if self.grouped:
            return self._values(asked)
        self.regroup()
        return self._values(asked, failed)

    def tell(self, ranks: Iterable[int], function: Callable[..., Any], *args: Any) -> dict[int, AsyncResult]:
        """Have the function called on those of the ranks that are there, and do not wait."""
        told = {}
        for rank in ranks:
            with contextlib.suppress(IndexError, NoEnginesRegistered):
                told[rank] = self.client[rank].apply_async(function, *args)
        return told

    def regroup(self) -> None:
        """Make the process group anew, on all engines, as after a failure on one; waits for those still busy."""
        self.grouped = False
        self._all(worker.leave_group)
        for used in Path(self.folder).glob("group-*"):
            used.unlink(missing_ok=True)
        self.groups += 1
        self._all(worker.join_group, f"{self.folder}/group-{self.groups}", len(self.plan), self.backend, GROUP)
        self.grouped = True

    def _send(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[AsyncResult]:
        packed = worker.pack(function, *args, **kwargs)
        told = self.tell([place.rank for place in self.plan], worker.answer, packed)
        if len(told) < len(self.plan):
            self.check()
        return [told[place.rank] for place in self.plan]

    def _watch(self, asked: Sequence[AsyncResult]) -> Iterator[None]:
        """Until all have answered, a look whether they are still there."""
        while not all(one.ready() for one in asked):
            self.client.wait(asked, timeout=LOOK)
            self.check()
            yield
        self.check()

    def _values(self, asked: Sequence[AsyncResult], failed: Sequence[int] = ()) -> list[Any]:
        """What was answered; or raise what the lowest of `failed`, or else of all, did."""
        answers = [one.get() for one in asked]
        for rank in failed or range(len(answers)):
            fine, packed = answers[rank]
            if not fine:
                error, trace = pickle.loads(packed)
                error.add_note(f"on {self.describe(rank)}:\n{''.join(trace.format())}".rstrip())
                raise error
        return [pickle.loads(packed) for _, packed in answers]

    def _all(self, function: Callable[..., Any], *args: Any) -> None:
        asked = self._send(function, *args)
        for _ in self._watch(asked):
            pass
        self._values(asked)

    def kill(self, ranks: Iterable[int]) -> None:
        """Returns when they are gone, and the controller has noticed: their ids are free."""
        assert self.cluster
        ranks = list(ranks)
        processes = [self.cluster.processes[rank] for rank in ranks if rank in self.cluster.processes]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=KILLED)
        late = time.monotonic() + STARTING
        while self.client and not set(ranks).isdisjoint(self.client.ids):
            if time.monotonic() > late:
                raise ClusterError(f"the controller does not let go of engines that are gone: {AFRESH}.")
            time.sleep(SOON)

    def stop(self) -> None:
        client, cluster, self.client = self.client, self.cluster, None
        if client is not None:
            client.close()
        if cluster is not None:
            self.kill(rank for rank in cluster.processes if self.status(rank) == psutil.STATUS_STOPPED)
            self.cluster = None
            cluster.stop_cluster_sync()
        shutil.rmtree(self.folder, ignore_errors=True)


def fails(one: AsyncResult) -> bool:
    """Has this call ended in an error on its engine?"""
    return bool(one.ready() and one.successful() and not one.get()[0])
