"""Ranks of a call that wait for each other for good: found by what each of them does, not by how long it takes."""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from dlkit.cluster.watch import REQUEST

PATIENCE = 5.0  # seconds in which no rank that has not ended computes anything, before it is asked where it waits
# The same for the thread that runs calls alone: gloo's own turns for good where a message was too short for its place.
SPIN_PATIENCE = 15.0
IDLE = 0.3  # seconds of a core that an engine, or its thread, may take meanwhile
TURNS = 10  # on a core that the thread that runs calls may have meanwhile

REMEDY = "all ranks must make the same exchanges, in the same order"


class Use(NamedTuple):
    """Of a rank so far: seconds of a core; how often its thread that runs calls has had one; whether it wants one now.

    On a machine with too much to do, a rank takes next to no seconds and yet goes on, in many short turns.
    """

    seconds: float = 0.0
    turns: int = 0
    wants: bool = False


class Still:
    """Have all ranks used next to nothing of a core for so many seconds, in next to no turns, and wanted none?"""

    def __init__(self, patience: float):
        self.patience = patience
        self.before: dict[int, Use] = {}
        self.begin()

    def begin(self) -> None:
        """Count the seconds anew."""
        self.since = time.monotonic()

    def for_long(self, used: dict[int, Use], changed: bool) -> bool:
        """used: by each rank, so far. changed: are they other ranks than before?"""
        if changed or any(self._goes_on(self.before[rank], use) for rank, use in used.items()):
            self.before = used
            self.begin()
        return time.monotonic() - self.since > self.patience

    def _goes_on(self, before: Use, use: Use) -> bool:
        return use.wants or use.seconds - before.seconds > IDLE or use.turns - before.turns > TURNS


class Lookout:
    """Looks at the engines while they run a call. One that computes, or sleeps, for however long, may still come."""

    def __init__(self, engines: Any):
        self.engines = engines
        self.unfinished: list[int] = []
        self.still = {"process": Still(PATIENCE), "thread": Still(SPIN_PATIENCE)}
        self.asked = 0  # the number of the request that is to be answered, or 0

    def look(self, pending: Sequence[Any]) -> str | None:
        """To be called now and then: who waits for whom, without the remedy, if none of the ranks can go on."""
        unfinished = [rank for rank, result in enumerate(pending) if not result.ready()]
        changed, self.unfinished = unfinished != self.unfinished, unfinished
        used = {rank: self._used(rank) for rank in unfinished}
        quiet = [
            still.for_long({rank: uses[name] for rank, uses in used.items()}, changed)
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

    def _used(self, rank: int) -> dict[str, Use]:
        """By the rank's process, and by its thread that runs calls; by the process if that is unknown."""
        with contextlib.suppress(psutil.Error, KeyError):
            process = self.engines.launcher.processes[rank]
            whole = sum(process.cpu_times()[:2])
            threads = {one.id: one.user_time + one.system_time for one in process.threads()} if psutil.LINUX else {}
            turns, wants = turns_of(process.pid)
            return {"process": Use(whole, turns, wants), "thread": Use(threads.get(process.pid, whole), turns, wants)}
        return {"process": Use(), "thread": Use()}

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


def turns_of(pid: int) -> tuple[int, bool]:
    """How often a process's first thread has had a core, and whether it has, or wants, one now; 0, False if unknown."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()  # Linux only
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        switches = int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
        return switches, status["State"][0] in "RD"
    return 0, False
