"""Processes of a torch.distributed group, for tests: started once, and shared by all tests of the same world size."""

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

GRACE = 10.0  # seconds that other ranks may go on after one has failed

_teams: dict[int, "Team"] = {}


def team(world_size: int) -> "Team":
    """A team of so many ranks: over gloo on loopback, with a file as their rendezvous."""
    if world_size not in _teams or not _teams[world_size].alive():
        _teams[world_size] = Team(world_size)
    return _teams[world_size]


def stop_all() -> None:
    """End the processes of all teams."""
    while _teams:
        _teams.popitem()[1].stop()


class Team:
    """The processes, one a rank, each with a pipe to this one."""

    def __init__(self, world_size: int):
        context = mp.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory(prefix="dlkit-ranks-")
        self.pipes, self.processes = [], []
        for rank in range(world_size):
            near_end, far_end = context.Pipe()
            process = context.Process(target=serve, args=(far_end, rank, world_size, self.folder.name), daemon=True)
            process.start()
            self.pipes.append(near_end)
            self.processes.append(process)
        atexit.register(self.stop)

    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Call the function on all ranks; what it returns on each. Raises the error of the lowest rank that has one."""
        for pipe in self.pipes:
            pipe.send_bytes(cloudpickle.dumps((function, args, kwargs)))
        answers: dict[int, tuple[Any, str]] = {}
        patience = None
        while len(answers) < len(self.pipes):
            ready = wait([pipe for rank, pipe in enumerate(self.pipes) if rank not in answers], patience)
            for rank, pipe in enumerate(self.pipes):
                if pipe in ready:
                    answers[rank] = cloudpickle.loads(pipe.recv_bytes())
            if any(trace for _, trace in answers.values()):
                patience = GRACE
            if not ready:
                break
        failed = [answers[rank] for rank in sorted(answers) if answers[rank][1]]
        if failed:
            error, trace = failed[0]
            error.add_note(trace)
            if {str(other) for other, _ in failed} != {str(error)} or len(failed) < len(self.pipes):
                self.stop()  # some ranks may still wait in an exchange; not so if all raised the same error
            raise error
        return [answers[rank][0] for rank in range(len(self.pipes))]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()


def serve(pipe: Any, rank: int, world_size: int, folder: str) -> None:
    """What each process does: call the functions that come through its pipe, and send back (result, traceback)."""
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/rendezvous", world_size), rank=rank, world_size=world_size
    )
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
