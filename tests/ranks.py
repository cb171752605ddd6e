"""Processes of a torch.distributed group, for tests: started once, and used by all tests that ask for so many."""

import atexit
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

import cloudpickle
import torch
import torch.multiprocessing as mp

ALONE = 10.0  # seconds that ranks may go on after one has failed

_teams: dict[int, "Team"] = {}


def team(n: int) -> "Team":
    """`n` ranks, over gloo on loopback, that met by a file."""
    if n not in _teams or not _teams[n].alive():
        _teams[n] = Team(n)
    return _teams[n]


def stop_all() -> None:
    while _teams:
        _teams.popitem()[1].stop()


class Team:
    def __init__(self, n: int):
        context = mp.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory(prefix="dlkit-ranks-")
        self.pipes, self.processes = [], []
        for rank in range(n):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, rank, n, self.folder.name), daemon=True)
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)
        atexit.register(self.stop)

    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What the function gives on each rank. The error of the lowest rank that has one is raised here."""
        for pipe in self.pipes:
            pipe.send_bytes(cloudpickle.dumps((function, args, kwargs)))
        answers: dict[int, tuple[Any, str]] = {}
        patience = None
        while len(answers) < len(self.pipes):
            ready = wait([pipe for rank, pipe in enumerate(self.pipes) if rank not in answers], patience)
            for rank, pipe in enumerate(self.pipes):
                if pipe in ready:
                    answers[rank] = cloudpickle.loads(pipe.recv_bytes())
            if any(text for _, text in answers.values()):
                patience = ALONE
            if not ready:
                break
        failed = [answers[rank] for rank in sorted(answers) if answers[rank][1]]
        if failed:
            error, text = failed[0]
            error.add_note(text)
            if {str(one) for one, _ in failed} != {str(error)} or len(failed) < len(self.pipes):
                self.stop()  # collectives may be out of step now: not so if all refused the same
            raise error
        return [answers[rank][0] for rank in range(len(self.pipes))]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def serve(pipe: Any, rank: int, n: int, folder: str) -> None:
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/rendezvous", n), rank=rank, world_size=n)
    while True:
        try:
            function, args, kwargs = cloudpickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (function(*args, **kwargs), "")
        except Exception as error:
            answer = (error, traceback.format_exc())
        pipe.send_bytes(cloudpickle.dumps(answer))
