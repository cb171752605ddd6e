"""Processes of a torch.distributed group, for tests: started once, and used by all tests that ask for some of them."""

import atexit
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import cloudpickle

from dlkit.core.imports import no_garbage_collection

with no_garbage_collection():
    import torch
    import torch.multiprocessing as mp

ALONE = 10.0  # seconds that ranks may go on after one has failed

_started: list["Rank"] = []
_team: "Team | None" = None


def team(n: int) -> "Team":
    """`n` ranks, over gloo on loopback, that met by a file."""
    global _team
    if _team is None or len(_team.ranks) != n or not _team.alive():
        _team = Team(n)
    return _team


@atexit.register
def stop_all() -> None:
    while _started:
        _started.pop().stop()


class Rank:
    """A process that calls what it is sent, in one team after the other: half a gigabyte, and seconds to start."""

    def __init__(self):
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()

    def alive(self) -> bool:
        return self in _started and self.process.is_alive()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


class Team:
    def __init__(self, n: int):
        if not all(rank.alive() for rank in _started):
            stop_all()
        _started.extend(Rank() for _ in range(n - len(_started)))
        self.ranks = _started[:n]
        self.folder = tempfile.TemporaryDirectory(prefix="dlkit-ranks-")  # groups inside this one meet in it too
        self._answers([(meet, (f"{self.folder.name}/rendezvous", rank, n), {}) for rank in range(n)])

    def alive(self) -> bool:
        return all(rank.alive() for rank in self.ranks)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What the function gives on each rank. The error of the lowest rank that has one is raised here."""
        return self._answers([(function, args, kwargs)] * len(self.ranks))

    def _answers(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]) -> list[Any]:
        pipes = [rank.pipe for rank in self.ranks]
        for pipe, call in zip(pipes, calls, strict=True):
            pipe.send_bytes(cloudpickle.dumps(call))
        answers: dict[int, tuple[Any, str]] = {}
        patience = None
        while len(answers) < len(pipes):
            ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in answers], patience)
            for rank, pipe in enumerate(pipes):
                if pipe in ready:
                    try:
                        answers[rank] = cloudpickle.loads(pipe.recv_bytes())
                    except EOFError:
                        stop_all()  # the others wait for a rank that is dead
                        raise
            if any(text for _, text in answers.values()):
                patience = ALONE
            if not ready:
                break
        failed = [answers[rank] for rank in sorted(answers) if answers[rank][1]]
        if failed:
            error, text = failed[0]
            error.add_note(text)
            if {str(one) for one, _ in failed} != {str(error)} or len(failed) < len(pipes):
                stop_all()  # collectives may be out of step now: not so if all refused the same
            raise error
        return [answers[rank][0] for rank in range(len(pipes))]


def meet(file: str, rank: int, world_size: int) -> None:
    """Leave the group of the team before and join this one's."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.FileStore(file, world_size), rank=rank, world_size=world_size)


def serve(pipe: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    while True:
        try:
            function, args, kwargs = cloudpickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (function(*args, **kwargs), "")
        except BaseException as error:  # an interrupt too: whoever called is told, and nobody waits for this rank
            answer = (error, traceback.format_exc())
        pipe.send_bytes(cloudpickle.dumps(answer))
