"""A thread on each engine: it ends with its owner, says where the engine waits, and frees it from an exchange.

The thread that runs calls can be reached by nothing while it waits for another rank, not even by a signal.
"""

import contextlib
import dis
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from dlkit.cluster import family
from dlkit.core.processes import is_alive

REQUEST = "request.json"  # in the cluster's folder: what the cluster last asked of these threads


class Joined:
    """The file by which this engine met the others of its group; connections of another group are not cut."""

    lock, path = threading.Lock(), ""


def joins(path: str) -> None:
    """To be called before the engine joins the group that meets by this file."""
    with Joined.lock:
        Joined.path = path


def start() -> None:
    """Start the thread, from the one that runs calls."""
    runs_calls = threading.get_ident()
    threading.Thread(target=watch, args=(runs_calls,), name="dlkit-watch", daemon=True).start()


def watch(runs_calls: int) -> None:
    """End this engine, and its cluster, when the owner has ended, however it did; answer requests meanwhile."""
    owner, folder, rank = (os.environ[name] for name in ("DLKIT_OWNER", family.MARK, "DLKIT_RANK"))
    answered = 0
    while is_alive(owner):
        time.sleep(family.OWNER_POLL)
        with contextlib.suppress(OSError, ValueError, KeyError):
            request = json.loads(Path(folder, REQUEST).read_text())
            if request["number"] != answered:
                answered = request["number"]
                if request["peers"]:
                    with Joined.lock:
                        if Joined.path == request["group"]:
                            free(request["peers"])
                else:
                    frame = sys._current_frames().get(runs_calls)
                    answer = Path(folder, f"answer-{answered}-{rank}")
                    Path(f"{answer}.part").write_text(json.dumps(waits_where(frame)))
                    Path(f"{answer}.part").rename(answer)
    family.end_all(folder)
    os._exit(0)


def free(peers: list[int]) -> None:
    """Let this engine's exchanges with others fail, by NCCL and by gloo. peers: the process ids of the engines."""
    from dlkit.distributed.gpu import abort_nccl

    abort_nccl()  # on threads of its own: this one goes on whatever becomes of them
    cut_connections(peers)


def cut_connections(peers: list[int]) -> None:
    """Shut down this process's connections with other engines: what waits in an exchange over one fails at once.

    peers: the process ids of the cluster's engines.
    """
    import psutil

    theirs = set()
    for pid in peers:
        if pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                theirs |= {connection.laddr for connection in psutil.Process(pid).net_connections("tcp")}
    for connection in psutil.Process().net_connections("tcp"):
        if connection.status == psutil.CONN_ESTABLISHED and connection.raddr in theirs:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as end:
                end.shutdown(socket.SHUT_RDWR)


def waits_where(frame: FrameType | None) -> tuple[str, str] | None:
    """The exchange in which a thread waits for another rank, and where it was called; None if it does something else.

    frame: the thread's innermost.
    """
    if frame is None:
        return None
    exchange = "wait" if calls_wait(frame) else None
    while frame is not None and of(frame, "torch", "dlkit.distributed"):
        name = frame.f_code.co_name
        if name == "wait_for_exchange":  # by NCCL: in `dist.all_reduce` itself nobody waits
            exchange = "an exchange"
        elif name == "_engine_run_backward":
            exchange = "the backward pass"
        elif of(frame, "torch.distributed") or (exchange and of(frame, "dlkit.distributed")):
            exchange = exchange if name == "wrapper" and exchange else name.strip("_")  # torch wraps exchanges
        frame = frame.f_back
    if exchange is None or frame is None:
        return None
    name = f"`{frame.f_code.co_name}`"
    module = frame.f_globals.get("__name__", "__main__")
    return exchange, f"line {frame.f_lineno} of {name}" + (f" in {module}" if module != "__main__" else "")


def of(frame: FrameType, *packages: str) -> bool:
    """Does the frame run code of one of these packages?"""
    module = f"{frame.f_globals.get('__name__', '')}."
    return any(module.startswith(f"{package}.") for package in packages)


def calls_wait(frame: FrameType) -> bool:
    """Is the frame at a call of a method named wait, such as that of the work that `dist.isend` gives?"""
    before: list[Any] = [step for step in dis.get_instructions(frame.f_code) if step.offset <= frame.f_lasti]
    names = [step.argval for step in before[-4:] if step.opname in ("LOAD_METHOD", "LOAD_ATTR")]
    return names[-1:] == ["wait"]
