"""The processes of a cluster: engines and controller, how they start, whether they are there, how they end."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ipyparallel import AsyncResult
from ipyparallel.error import NoEnginesRegistered

from dlkit.cluster import family
from dlkit.cluster.launchers import PlacedCluster
from dlkit.cluster.placement import Placement

# In seconds:
START_TIMEOUT = 60.0  # for engines to answer
NOTICE_TIMEOUT = 5.0  # for the controller to tell that an engine is gone
POLL, SHORT_POLL = 0.5, 0.05  # between two looks: at engines that compute, and at what takes no time

LOST = {"gone": "died", "stopped": "been stopped (SIGSTOP)", "starting": "not answered yet"}
RESTART = "`cluster.stop()`, then `cluster.start()`, starts all engines afresh"


class ClusterError(RuntimeError):
    """Engines are lost or not started; the message names them, and what to do."""


@dataclass(repr=False)
class Engines:
    """The processes of a cluster. facts: host, pid and GPU name of each rank."""

    plan: list[Placement]
    backend: str
    folder: str = ""
    launcher: PlacedCluster | None = None
    client: Any = None
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)

    def start_processes(self) -> None:
        """Start the controller and the engines, and connect to the controller. ClusterError if that fails."""
        try:
            self.folder = family.new_folder()
            family.start_janitor(self.folder)
        except OSError as error:
            raise ClusterError(f"the cluster has no folder for its files: {no_room(error)}.") from None
        self.launcher = launcher = PlacedCluster(self.plan, self.folder)
        try:
            launcher.start_cluster_sync()
            self.client = launcher.connect_client_sync()
        except (OSError, RuntimeError) as error:
            words = launcher.last_words() or error
            raise ClusterError(f"the controller did not start: {RESTART}; its last words: {words}") from None
        launcher.remember_files()

    def launch(self, plan: list[Placement]) -> None:
        """Start engines at these placements, beside those that are there."""
        assert self.launcher
        self.path("")
        for placement in plan:
            self.facts.pop(placement.rank, None)
        self.launcher.to_start = plan
        self.launcher.start_engines_sync(n=len(plan))

    def path(self, name: str) -> Path:
        """Of a file in the cluster's folder, which is made again if it is gone. ClusterError if it cannot be."""
        try:
            family.keep(self.folder)
            if self.launcher:
                self.launcher.restore_files()
        except OSError as error:
            raise ClusterError(f"the cluster cannot use its folder ({error}): {RESTART}, in another one.") from None
        return Path(self.folder, name)

    def wait_for_start(self) -> None:
        """Wait for engines that are starting. ClusterError, with its last words, if one ends."""
        assert self.launcher
        deadline = time.monotonic() + START_TIMEOUT
        while missing := [placement.rank for placement in self.plan if placement.rank not in self.client.ids]:
            dead = [rank for rank in missing if self.status(rank) == psutil.STATUS_DEAD]
            if dead:
                who, words = " and ".join(map(self.describe, dead)), self.launcher.last_words(dead[0])
                told = f"; {'its' if len(dead) == 1 else 'the first ones'} last words: {words}" if words else ""
                raise ClusterError(f"{who} ended while starting: {RESTART}{told}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{' and '.join(map(self.describe, missing))} did not answer in time: {RESTART}.")
            self._check_controller()
            time.sleep(SHORT_POLL)
        self.launcher.remember_controllers()

    def status(self, rank: int) -> str:
        """psutil's status of the rank's process; STATUS_DEAD for one that is no more."""
        try:
            return status_of(self.launcher.processes[rank]) if self.launcher else psutil.STATUS_DEAD
        except KeyError:
            return psutil.STATUS_DEAD

    def state(self, rank: int) -> str:
        """ready, stopped, gone or starting; an engine that the controller has lost sight of is gone, too."""
        status = self.status(rank)
        if status in (psutil.STATUS_DEAD, psutil.STATUS_STOPPED):
            return "gone" if status == psutil.STATUS_DEAD else "stopped"
        return "ready" if rank in self.client.ids else "gone" if rank in self.facts else "starting"

    def controller_state(self) -> str:
        """ready, stopped or gone: of the controller and the processes that it has started, the worst."""
        statuses = {status_of(process) for process in self.launcher.controllers} if self.launcher else set()
        return "gone" if psutil.STATUS_DEAD in statuses else "stopped" if psutil.STATUS_STOPPED in statuses else "ready"

    def continue_controller(self) -> None:
        """Let a controller go on that has been stopped (SIGSTOP)."""
        assert self.launcher
        for process in self.launcher.controllers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

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
        """Raise ClusterError, which names them, if engines or the controller have died or been stopped."""
        if self.client is None:
            raise ClusterError("the cluster has been stopped meanwhile: `cluster.start()` starts it again.")
        states = {placement.rank: self.state(placement.rank) for placement in self.plan}
        lost = [f"{self.describe(rank)} has {LOST[state]}" for rank, state in states.items() if state in LOST]
        if lost:
            remedy = "starts it afresh in its place" if len(lost) == 1 else "starts them afresh in their places"
            raise ClusterError(f"{' and '.join(lost)}: `cluster.recover()` {remedy}.")
        self._check_controller()

    def _check_controller(self) -> None:
        state = self.controller_state()
        if self.launcher and state in LOST:
            remedy = "starts it and all engines afresh" if state == "gone" else "lets it go on"
            who = f"the controller (pid {self.launcher.controllers[0].pid}), or a process of its own,"
            raise ClusterError(f"{who} has {LOST[state]}: `cluster.recover()` {remedy}.")

    def call_async(self, ranks: Iterable[int], function: Callable[..., Any], *args: Any) -> dict[int, AsyncResult]:
        """Call the function on those of the ranks that are there, and do not wait."""
        pending = {}
        for rank in ranks:
            with contextlib.suppress(IndexError, NoEnginesRegistered):
                pending[rank] = self.client[rank].apply_async(function, *args)
        return pending

    def polled(self, pending: list[AsyncResult]) -> Iterator[None]:
        """Yield twice a second until all results are there. ClusterError if an engine or the controller is lost."""
        self.check()
        while not all(result.ready() for result in pending):
            self.client.wait(pending, timeout=POLL)
            self.check()
            yield
        self.check()

    def kill(self, ranks: Iterable[int]) -> None:
        """Kill engines. Returns when they are gone and the controller has noticed, so that their ids are free."""
        assert self.launcher
        ranks = list(ranks)
        processes = [self.launcher.processes[rank] for rank in ranks if rank in self.launcher.processes]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=family.GONE_TIMEOUT)
        deadline = time.monotonic() + NOTICE_TIMEOUT
        while left := set(ranks).intersection(self.client.ids):
            if time.monotonic() > deadline:  # without the folder, the controller notices and does not tell
                for rank in left:
                    self.client._unregister_engine({"content": {"id": rank, "uuid": self.client._engines[rank]}})
            self._check_controller()
            time.sleep(SHORT_POLL)

    def stop(self) -> None:
        """End the engines and the controller, and delete the folder."""
        client, launcher, self.client, self.launcher = self.client, self.launcher, None, None
        if client is not None:
            client.close()
        if launcher is not None:
            family.kill_all(self.folder)
            launcher.stop_cluster_sync()  # there is none left: ipyparallel takes note
        shutil.rmtree(self.folder, ignore_errors=True)
        self.facts = {}


def status_of(process: psutil.Process) -> str:
    """psutil's status; STATUS_DEAD for a process that is no more."""
    try:
        status = process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD
    return psutil.STATUS_DEAD if status == psutil.STATUS_ZOMBIE else status


def no_room(error: Exception) -> str:
    """Why a file could not be written, and what to do."""
    return f"{error}; make room there, or set the environment variable TMPDIR to another folder and restart the kernel"
