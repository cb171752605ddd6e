"""What runs on an engine: it keeps to its place, ends with its owner, joins the group, and answers calls."""

import contextlib
import gc
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from traceback import TracebackException
from typing import Any

from dlkit.cluster.placement import yield_on_wakeup

WATCH = 1.0  # seconds between two looks whether the owner is still there


def on_engine_start() -> None:
    """Called as the engine starts, before it answers: to its cores, and torch, which takes a second or two, at once."""
    cores = [int(core) for core in os.environ["DLKIT_CORES"].split(",") if core]
    if cores:
        os.sched_setaffinity(0, cores)
    yield_on_wakeup()
    threading.Thread(target=watch, name="dlkit-watch", daemon=True).start()
    import ipyparallel.serialize
    import torch

    ipyparallel.serialize.use_cloudpickle()  # for those who call the client itself
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def watch() -> None:
    """End this engine, and the controller, when the process that started the cluster has ended, however it did."""
    owner, controller = (process(os.environ[name]) for name in ("DLKIT_OWNER", "DLKIT_CONTROLLER"))
    while alive(*owner):
        time.sleep(WATCH)
    if alive(*controller):
        end(controller[0])
    shutil.rmtree(os.environ["DLKIT_FOLDER"], ignore_errors=True)
    end_stopped(os.environ["DLKIT_FOLDER"])
    os._exit(0)


def end_stopped(folder: str) -> None:
    """Kill the engines of this cluster that have been stopped (SIGSTOP): they cannot end themselves."""
    import psutil

    for found in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if found.status() == psutil.STATUS_STOPPED and found.environ().get("DLKIT_FOLDER") == folder:
                found.kill()


def end(pid: int) -> None:
    """Kill a process and all that it has started: a controller has a handful of schedulers, which outlive it."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def mark(pid: int) -> str:
    """A process by its number and its birth, so that a later one of the same number is not taken for it."""
    import psutil

    return f"{pid}@{psutil.Process(pid).create_time()}"


def process(mark: str) -> tuple[int, float]:
    pid, born = mark.split("@")
    return int(pid), float(born)


def alive(pid: int, born: float) -> bool:
    import psutil

    try:
        found = psutil.Process(pid)
        return found.create_time() == born and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def join_group(path: str, world_size: int, backend: str, timeout: float) -> None:
    """Make the process group, by a file that was not used before: no port is opened, and gloo keeps to loopback."""
    import torch.distributed as dist
    import torch.distributed.nn.functional  # noqa: F401  imported later, its default arguments would hold the group

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    rank, seconds = int(os.environ["DLKIT_RANK"]), timedelta(seconds=timeout)
    store = dist.FileStore(path, world_size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=seconds)


def leave_group() -> None:
    """Leave the process group, if there is one: peers that wait for this rank in a collective get an error at once."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    gc.collect()  # a traceback may hold a frame that holds the group


def pack(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    """For `answer`. TypeError if the function, or what it needs, cannot travel."""
    import cloudpickle

    try:
        return cloudpickle.dumps((function, args, kwargs))
    except Exception as error:
        name = getattr(function, "__name__", repr(function))
        what = f"`{name}`, or an argument of it, cannot travel to the engines ({error})"
        raise TypeError(f"{what}: make that inside the function.") from None


def answer(packed: bytes) -> tuple[bool, bytes]:
    """Call what was packed: (True, what it gave) or (False, (its error, the traceback)), pickled."""
    import cloudpickle

    name = "the function"
    try:
        function, args, kwargs = cloudpickle.loads(packed)
        name = getattr(function, "__name__", name)
        value = function(*args, **kwargs)
    except BaseException as error:
        trace = TracebackException.from_exception(error, lookup_lines=False)  # a cell's source is where it was asked
        del trace.stack[:1]  # this function
        return False, cloudpickle.dumps((portable(error), trace))
    try:
        return True, cloudpickle.dumps(value)
    except Exception as error:
        wrong = TypeError(f"what `{name}` gives cannot travel back ({error}): give tensors, numbers or text.")
        return False, cloudpickle.dumps((wrong, TracebackException.from_exception(wrong)))


def portable(error: BaseException) -> Exception:
    """The error, or a RuntimeError with its text: if it would not arrive whole, or would end who asked."""
    import cloudpickle

    try:
        if isinstance(error, Exception) and type(cloudpickle.loads(cloudpickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def facts() -> dict[str, object]:
    """What the table shows of this engine beside its place."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {"host": socket.gethostname(), "pid": os.getpid(), "gpu": gpu}
