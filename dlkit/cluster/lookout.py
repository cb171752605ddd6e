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
IDLE = 0.3  # seconds of a core that an engine may take meanwhile

REMEDY = "all ranks must make the same exchanges, in the same order"


class Lookout:
    """Looks at the engines while they run a call. One that computes, or sleeps, for however long, may still come."""

    def __init__(self, engines: Any):
        self.engines = engines
        self.unfinished: list[int] = []
        self.used: dict[int, float] = {}
        self.since = 0.0
        self.asked = 0  # the number of the request that is to be answered, or 0

    def look(self, pending: Sequence[Any]) -> str | None:
        """To be called now and then: who waits for whom, without the remedy, if none of the ranks can go on."""
        unfinished = [rank for rank, result in enumerate(pending) if not result.ready()]
        used = {rank: self._seconds_of_a_core(rank) for rank in unfinished}
        if unfinished != self.unfinished or any(used[rank] - self.used[rank] > IDLE for rank in unfinished):
            self._begin(unfinished, used)
        elif self.asked:
            answers = {rank: self._answer(rank) for rank in unfinished}
            if None not in answers.values():
                self._begin(unfinished, used)
                if all(answers.values()):
                    return self._sentence(answers, len(pending))
        elif unfinished and time.monotonic() - self.since > PATIENCE:
            with contextlib.suppress(OSError):  # there is no room for the question
                self.asked = ask(self.engines, peers=[])
        return None

    def _begin(self, unfinished: list[int], used: dict[int, float]) -> None:
        self.unfinished, self.used, self.since, self.asked = unfinished, used, time.monotonic(), 0

    def _seconds_of_a_core(self, rank: int) -> float:
        with contextlib.suppress(psutil.Error, KeyError):
            times = self.engines.launcher.processes[rank].cpu_times()
            return times.user + times.system
        return 0.0

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
