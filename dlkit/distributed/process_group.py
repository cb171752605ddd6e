"""How a process joins its group of ranks, torchrun's or a cluster's, and how it leaves it.

torch is imported inside the functions: an engine calls `yield_on_wakeup` before it imports torch.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from dlkit.core.processes import is_alive, private_folder, process_key

STORE_TIMEOUT = timedelta(seconds=5)  # for the file to come back by which ranks met, if somebody has deleted it
_run_groups: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # of each process group that has one


def enter_group() -> None:
    """Make sure that this process is in a process group: join torchrun's, if it has not joined one yet.

    RuntimeError where there is neither. Processes of one machine meet by a file and open no port. A process that
    joins here also calls `yield_on_wakeup`.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        raise RuntimeError(
            "a strategy needs a process for each rank: `cluster.run(experiment, strategy)` in a notebook, or a script "
            "that calls `experiment.run(strategy=...)` under `torchrun --nproc-per-node 2 script.py`."
        )
    rank, world_size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    backend = "nccl" if 0 < local <= gpus else "gloo"
    yield_on_wakeup()
    if local < world_size:  # several machines: torchrun's environment says where they meet
        dist.init_process_group(backend, rank=rank, world_size=world_size)
        return
    run, attempt = os.environ["TORCHELASTIC_RUN_ID"], os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = hashlib.sha256(f"{run}-{attempt}".encode()).hexdigest()[:16]  # a run's id may be any text
    join_by_file(str(meeting_place() / f"{process_key(os.getppid())}-{name}"), rank, world_size, backend)


def run_group() -> Any:
    """torch's group for the exchanges of runs: all ranks. Made when first asked for, by all ranks together.

    It is not the group of torch's functions: a message that the reader's code sends in the middle of a run, and nobody
    receives, would be taken for one of the run's, and gloo fills a tensor from a shorter message without a word.
    """
    import torch
    import torch.distributed as dist

    everyone = dist.distributed_c10d._get_default_group()
    if everyone not in _run_groups:
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
        timeout = everyone._get_backend(device).options._timeout  # of its own it would be torch's default
        _run_groups[everyone] = dist.new_group(timeout=timeout)
    return _run_groups[everyone]


def meeting_place() -> Path:
    """The folder in which torchrun's ranks meet by a file; only its user can enter. Files of ended runs are deleted."""
    who = os.getuid() if hasattr(os, "getuid") else "user"
    folder = private_folder(Path(tempfile.gettempdir(), f"dlkit-torchrun-{who}"))
    for left in folder.iterdir():
        if not is_alive(left.name.split("-")[0]):
            left.unlink(missing_ok=True)
    return folder


def join_by_file(path: str, rank: int, world_size: int, backend: str, timeout: timedelta | None = None) -> None:
    """Join a process group of this machine, whose ranks meet by a file: no port is opened, and gloo keeps to loopback.

    path: the same on all ranks, and used by no group before. timeout: how long a rank waits for the others, here and
    in each exchange; None is torch's own.
    """
    import torch.distributed as dist
    import torch.distributed.nn.functional  # noqa: F401  imported later, its default arguments would hold the group

    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"  # whatever it was
    store = dist.FileStore(path, world_size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    store.set_timeout(STORE_TIMEOUT)


def leave_group() -> None:
    """Leave the process group, if there is one: ranks that wait for this one in a collective get an error at once."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def group_is_used() -> bool:
    """Were there exchanges in this process's group? Then a message may be left over. True where there is no group."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return True
    group: Any = dist.distributed_c10d._get_default_group()
    return group in _run_groups or group._get_sequence_number_for_group() > 0


def yield_on_wakeup() -> None:
    """From now on, when this thread or one that it starts wakes up, it does not interrupt the thread on its core.

    Linux only, and where it may. gloo's socket thread spins while another thread holds a connection's lock. On a core
    of their own, the thread that has just woken would keep the holder from going on until the kernel's next tick: 4 ms
    for an exchange that takes 0.2.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
