"""What runs on an engine: it keeps to its cores, ends with its owner, joins the process group, and runs calls."""

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from traceback import TracebackException
from typing import Any

from dlkit.core.imports import no_garbage_collection
from dlkit.distributed.process_group import join_by_file, yield_on_wakeup

OWNER_POLL = 1.0  # seconds between two looks whether the owner is still there


def on_engine_start() -> None:
    """Called as the engine starts, before it runs calls: pins it to its cores and imports torch, a second or two."""
    cores = [int(core) for core in os.environ["DLKIT_CORES"].split(",") if core]
    if cores:
        os.sched_setaffinity(0, cores)
    yield_on_wakeup()
    threading.Thread(target=watch_owner, name="dlkit-watch", daemon=True).start()
    with no_garbage_collection():
        import ipyparallel.serialize
        import torch

    ipyparallel.serialize.use_cloudpickle()  # for those who call the client itself
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def watch_owner() -> None:
    """End this engine, and the controller, when the process that started the cluster has ended, however it did."""
    owner, controller = (os.environ[name] for name in ("DLKIT_OWNER", "DLKIT_CONTROLLER"))
    while is_alive(owner):
        time.sleep(OWNER_POLL)
    if is_alive(controller):
        kill_with_children(int(controller.split("@")[0]))
    shutil.rmtree(os.environ["DLKIT_FOLDER"], ignore_errors=True)
    kill_stopped_engines(os.environ["DLKIT_FOLDER"])
    os._exit(0)


def kill_stopped_engines(folder: str) -> None:
    """Kill the engines of the cluster with this folder that have been stopped (SIGSTOP): they cannot end themselves."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED and process.environ().get("DLKIT_FOLDER") == folder:
                process.kill()


def kill_with_children(pid: int) -> None:
    """Kill a process and all that it has started: a controller has a handful of schedulers, which outlive it."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def process_key(pid: int) -> str:
    """`pid@creation time` of a process: a later process may have the same pid, but not the same key."""
    import psutil

    return f"{pid}@{psutil.Process(pid).create_time()}"


def is_alive(key: str) -> bool:
    """Is there still the process with this `process_key`?"""
    import psutil

    pid, created = key.split("@")
    try:
        process = psutil.Process(int(pid))
        return process.create_time() == float(created) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def join_group(path: str, world_size: int, backend: str, timeout: float) -> None:
    """Join the process group of all engines by the file `path`; timeout: seconds to wait for the others."""
    join_by_file(path, int(os.environ["DLKIT_RANK"]), world_size, backend, timedelta(seconds=timeout))


def pickle_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    """A call for `run_pickled_call`. TypeError if the function, or what it needs, cannot be pickled."""
    import cloudpickle

    try:
        return cloudpickle.dumps((function, args, kwargs))
    except Exception as error:
        name = getattr(function, "__name__", repr(function))
        what = f"`{name}`, or an argument of it, cannot travel to the engines ({error})"
        raise TypeError(f"{what}: make that inside the function.") from None


def run_pickled_call(call: bytes) -> tuple[bool, bytes]:
    """Run a call: (True, its result) or (False, (its error, the traceback)); the second is pickled."""
    import cloudpickle

    name = "the function"
    try:
        function, args, kwargs = cloudpickle.loads(call)
        name = getattr(function, "__name__", name)
        result = function(*args, **kwargs)
    except BaseException as error:
        trace = TracebackException.from_exception(error, lookup_lines=False)  # the caller has the source of its cells
        del trace.stack[:1]  # this function
        return False, cloudpickle.dumps((picklable_error(error), trace))
    try:
        return True, cloudpickle.dumps(result)
    except Exception as error:
        wrong = TypeError(f"what `{name}` gives cannot travel back ({error}): give tensors, numbers or text.")
        return False, cloudpickle.dumps((wrong, TracebackException.from_exception(wrong)))


def picklable_error(error: BaseException) -> Exception:
    """The error; or a RuntimeError with its text, if it cannot be pickled, or would end the caller's process."""
    import cloudpickle

    try:
        if isinstance(error, Exception) and type(cloudpickle.loads(cloudpickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def host_facts() -> dict[str, object]:
    """Host, pid and GPU name of this engine, for the cluster's table."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {"host": socket.gethostname(), "pid": os.getpid(), "gpu": gpu}
