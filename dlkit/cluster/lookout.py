"""Ranks of a call that wait for each other for good: found by what each of them does, not by how long it takes."""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from dlkit.cluster.watch import REQUEST

PATIENCE = 5.0  # seconds in which no rank that has not ended computes anything, before it is asked where it waits
# The same for the thread that runs calls alone: gloo's own turns for good where a message was too short for its place.
SPIN_PATIENCE = 15.0
IDLE = 0.3  # seconds of a core that an engine, or its thread, may take meanwhile

REMEDY = "all ranks must make the same exchanges, in the same order"


class Still:
    """Have all ranks used next to nothing of a core for so many seconds?"""

    def __init__(self, patience: float):
        self.patience = patience
        self.before: dict[int, float] = {}
        self.begin()

    def begin(self) -> None:
        """Count the seconds anew."""
        self.seconds = 0.0

    def for_long(self, used: dict[int, float], changed: bool, seconds: float) -> bool:
        """used: seconds of a core that each rank has used so far. changed: are they other ranks than before?

        seconds: that have gone by since the last call.
        """
        self.seconds += seconds
        if changed or any(used[rank] - self.before[rank] > IDLE for rank in used):
            self.before = used
            self.begin()
        return self.seconds > self.patience


class Clock:
    """Seconds in which the ranks could have computed: on a busy machine, where they wait for a core, it goes slower."""

    def __init__(self) -> None:
        self.time = time.monotonic()
        self.before: dict[int, tuple[float, float]] = {}

    def tick(self, pids: dict[int, int]) -> float:
        """The seconds since the last tick, times the share of the time when they wanted a core in which they had one.

        That of the worst off; pids: of the ranks' processes.
        """
        now, before = time.monotonic(), self.before
        elapsed, self.time = now - self.time, now
        self.before = {rank: core_and_queue(pid) for rank, pid in pids.items()}
        share = 1.0
        for rank, (core, queue) in self.before.items():
            if rank in before:
                core, queue = core - before[rank][0], queue - before[rank][1]
                share = min(share, core / (core + queue) if core >= 0 and queue > 0 else 1.0)  # < 0: threads have ended
        return elapsed * share


def core_and_queue(pid: int) -> tuple[float, float]:
    """Seconds that all threads of a process have computed, and that they have waited for a core; 0 if unknown."""
    core = queue = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):  # Linux only
        with contextlib.suppress(OSError, ValueError):
            computed, waited = path.read_text().split()[:2]
            core, queue = core + int(computed), queue + int(waited)
    return core / 1e9, queue / 1e9


class Lookout:
    """Looks at the engines while they run a call. One that computes, or sleeps, for however long, may still come."""

    def __init__(self, engines: Any):
        self.engines = engines
        self.unfinished: list[int] = []
        self.still = {"process": Still(PATIENCE), "thread": Still(SPIN_PATIENCE)}
        self.clock = Clock()
        self.asked = 0  # the number of the request that is to be answered, or 0

    def look(self, pending: Sequence[Any]) -> str | None:
        """To be called now and then: who waits for whom, without the remedy, if none of the ranks can go on."""
        unfinished = [rank for rank, result in enumerate(pending) if not result.ready()]
        changed, self.unfinished = unfinished != self.unfinished, unfinished
        processes = self.engines.launcher.processes
        seconds = self.clock.tick({rank: processes[rank].pid for rank in unfinished if rank in processes})
        used = {rank: self._seconds_of_a_core(rank) for rank in unfinished}
        quiet = [
            still.for_long({rank: taken[name] for rank, taken in used.items()}, changed, seconds)
            for name, still in self.still.items()
        ]
        if not unfinished or not any(quiet):
            self.asked = 0
        elif self.asked:
            answers = {rank: self._answer(rank) for rank in unfinished}
            if None not in answers.values():
                self.asked = 0
                for still in self.still.values():
                    still.begin()
                if all(answers.values()):
                    return self._sentence(answers, len(pending))
        else:
            with contextlib.suppress(OSError):  # there is no room for the question
                self.asked = ask(self.engines, peers=[])
        return None

    def _seconds_of_a_core(self, rank: int) -> dict[str, float]:
        """That the rank's process has taken so far, and its thread that runs calls; that of the process if unknown."""
        with contextlib.suppress(psutil.Error, KeyError):
            process = self.engines.launcher.processes[rank]
            whole = sum(process.cpu_times()[:2])
            threads = {one.id: one.user_time + one.system_time for one in process.threads()} if psutil.LINUX else {}
            return {"process": whole, "thread": threads.get(process.pid, whole)}
        return {"process": 0.0, "thread": 0.0}

    def _answer(self, rank: int) -> Any:
        """That of `watch.waits_where`, empty where the rank does not wait; None if it has not answered yet."""
        path = Path(self.engines.folder, f"answer-{self.asked}-{rank}")
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text()) or ()
        return None

    def _sentence(self, where: dict[int, Any], count: int) -> str:
        describe = self.engines.describe
        waiting = [f"{describe(rank)} waits in {exchange} ({place})" for rank, (exchange, place) in where.items()]
        ended = [describe(rank) for rank in range(count) if rank not in where]
        if ended:
            have = "have" if len(ended) > 1 else "has"
            return f"{' and '.join(waiting)} for {' and '.join(ended)}, which {have} ended the call"
        return f"{' and '.join(waiting)}, and none of them can go on"


def ask(engines: Any, peers: list[int]) -> int:
    """Ask the engines' threads (watch.py) where they wait, or to cut their connections with `peers`: process ids.

    Gives the number of the request.
    """
    for answered in Path(engines.folder).glob("answer-*"):
        answered.unlink(missing_ok=True)
    engines.requests += 1
    path = engines.path(f"{REQUEST}.part")
    group = f"{engines.folder}/group-{engines.groups}"
    path.write_text(json.dumps({"number": engines.requests, "peers": peers, "group": group}))
    path.rename(engines.path(REQUEST))
    return engines.requests
