"""What runs on an engine: it keeps to its place, ends with the process that started it, and joins the group."""

import contextlib
import os
import shutil
import socket
import sys
import threading
import time
from datetime import timedelta

WATCH = 1.0  # seconds between two looks whether the owner is still there


def wake() -> None:
    """Called as the engine starts, before it answers: to its cores, and torch, which takes a second or two, at once."""
    cores = [int(core) for core in os.environ["DLKIT_CORES"].split(",") if core]
    if cores:
        os.sched_setaffinity(0, cores)
    threading.Thread(target=watch, name="dlkit-watch", daemon=True).start()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def watch() -> None:
    """End this engine, and the controller, when the process that started the cluster has ended, however it did."""
    owner, controller = (process(os.environ[name]) for name in ("DLKIT_OWNER", "DLKIT_CONTROLLER"))
    while alive(*owner):
        time.sleep(WATCH)
    if alive(*controller):
        end(controller[0])
    shutil.rmtree(os.environ["DLKIT_FOLDER"], ignore_errors=True)
    os._exit(0)


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


def join(folder: str, rank: int, world_size: int, backend: str, timeout: float) -> None:
    """Make the process group, by a file in `folder`: no port is opened for it, and gloo keeps to loopback."""
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    store = dist.FileStore(os.path.join(folder, "rendezvous"), world_size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout))


def facts() -> dict[str, object]:
    """What the table shows of this engine beside its place."""
    import torch

    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {"host": socket.gethostname(), "pid": os.getpid(), "gpu": gpu}
