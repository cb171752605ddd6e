"""How a process joins its group of ranks, torchrun's or a cluster's, and how it leaves it.

torch is imported inside the functions: an engine calls `yield_on_wakeup` before it imports torch.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from dlkit.core.processes import is_alive, private_folder, process_key

WITH_NCCL = "cpu:gloo,cuda:nccl"  # the backend of a group whose ranks have a GPU each: CPU tensors go over gloo
STORE_TIMEOUT = timedelta(seconds=5)  # for the file to come back by which ranks met, if somebody has deleted it
MPI = {  # what torchrun calls these, by what Open MPI and MPICH call them
    "OMPI_COMM_WORLD_RANK": "RANK",
    "OMPI_COMM_WORLD_SIZE": "WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK": "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "LOCAL_WORLD_SIZE",
    "PMI_RANK": "RANK",
    "PMI_SIZE": "WORLD_SIZE",
    "MPI_LOCALRANKID": "LOCAL_RANK",
    "MPI_LOCALNRANKS": "LOCAL_WORLD_SIZE",
    "PMIX_NAMESPACE": "TORCHELASTIC_RUN_ID",
}
_own_group: ContextVar[Any] = ContextVar("own_group", default=None)
_run_groups: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # of each process group that has one


def has_ranks() -> bool:
    """Is this process in a process group, or started by torchrun or mpirun to join one?"""
    import torch.distributed as dist

    return dist.is_initialized() or "RANK" in _launched()


def ranks_here() -> int | None:
    """How many ranks torchrun or mpirun has put on this machine; None if neither has."""
    launched = _launched()
    return int(launched.get("LOCAL_WORLD_SIZE", launched["WORLD_SIZE"])) if "WORLD_SIZE" in launched else None


def enter_group() -> None:
    """Make sure that this process is in a process group, and torch's current GPU the one of this rank.

    It joins torchrun's or mpirun's group, if it has not joined one yet. RuntimeError where there is neither. Processes
    of one machine meet by a file and open no port. A process that joins here also calls `yield_on_wakeup`.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        bound = dist.distributed_c10d._get_default_group().bound_device_id
        if bound is not None:
            torch.cuda.set_device(bound)
        elif not torch.cuda.is_initialized():  # else the script has chosen
            _take_gpu()
        return
    launched = _launched()
    if "RANK" not in launched:
        raise RuntimeError(
            "a strategy needs a process for each rank: `cluster.run(experiment, strategy)` in a notebook, or a script "
            "that calls `experiment.run(strategy=...)` under `torchrun --nproc-per-node 2 script.py` or "
            "`mpirun -n 2 python script.py`."
        )
    rank, world_size, local = (int(launched[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    _take_gpu()
    yield_on_wakeup()
    if local < world_size:  # several machines: torchrun's environment says where they meet
        if "RANK" not in os.environ:
            raise RuntimeError(
                f"mpirun has put {local} of {world_size} ranks on this machine: ranks on several machines are for "
                "torchrun, which says where they meet."
            )
        store, rank, world_size = next(dist.rendezvous("env://", rank, world_size))
        _join(store, rank, world_size, agree_on_backend(store, rank, world_size))
        return
    run, attempt = launched["TORCHELASTIC_RUN_ID"], launched.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = hashlib.sha256(f"{run}-{attempt}".encode()).hexdigest()[:16]  # a run's id may be any text
    join_by_file(str(meeting_place() / f"{process_key(os.getppid())}-{name}"), rank, world_size)


def _launched() -> dict[str, str]:
    """The environment that torchrun gives a rank, or what mpirun gives it by other names."""
    own = dict(os.environ)
    if "RANK" in own:
        return own
    named = {theirs: own[name] for name, theirs in MPI.items() if name in own}
    return own | {"TORCHELASTIC_RUN_ID": ""} | named if "RANK" in named else own


def _take_gpu() -> None:
    """Make this rank's GPU torch's current one, in turn where there are more ranks than GPUs."""
    import torch

    gpus, launched = torch.cuda.device_count(), _launched()
    if gpus and "LOCAL_RANK" in launched:
        torch.cuda.set_device(int(launched["LOCAL_RANK"]) % gpus)


def agree_on_backend(store: Any, rank: int, world_size: int) -> str:
    """The backend of a group to be made: `WITH_NCCL` if each rank has a GPU of its own, else "gloo"; on all the same.

    NCCL takes one rank a GPU; parts of one (MIG) are one GPU to it. Rank 0 says it where GPUs are shared.
    """
    import torch
    import torch.distributed as dist

    gpu, part = "", "a part of a GPU"
    if torch.cuda.device_count() and dist.is_nccl_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = part if " MIG " in properties.name else str(properties.uuid)
    store.set(f"gpu of rank {rank}", gpu)
    gpus = [store.get(f"gpu of rank {other}").decode() for other in range(world_size)]
    if all(gpus) and len(set(gpus)) == world_size and part not in gpus:
        return WITH_NCCL
    if rank == 0 and any(gpus):
        print(f"{world_size} ranks have no GPU each: NCCL takes one rank a GPU, so gloo is used.", file=sys.stderr)
    return "gloo"


def run_group() -> Any:
    """torch's group for the exchanges of runs: all ranks. Made when first asked for, by all ranks together.

    It is not the group of torch's functions: a message that the reader's code sends in the middle of a run, and nobody
    receives, would be taken for one of the run's, and gloo fills a tensor from a shorter message without a word.
    """
    import torch.distributed as dist

    if (own := _own_group.get()) is not None:
        return own
    everyone = dist.distributed_c10d._get_default_group()
    if everyone not in _run_groups:
        _run_groups[everyone] = new_group()
    return _run_groups[everyone]


@contextlib.contextmanager
def runs_within(group: Any) -> Iterator[None]:
    """In this context the ranks of torch's `group` are all that a run has: others have runs of their own."""
    token = _own_group.set(group)
    try:
        yield
    finally:
        _own_group.reset(token)


def new_group(ranks: Sequence[int] | None = None) -> Any:
    """torch's group of these ranks, or of all, which also takes CPU tensors; all ranks make the same, in one order."""
    import torch
    import torch.distributed as dist

    from dlkit.distributed.gpu import takes_cuda

    nccl = takes_cuda()
    everyone: Any = dist.distributed_c10d._get_default_group()
    options = everyone._get_backend(torch.device("cuda" if nccl else "cpu")).options
    # Of its own the time-out would be torch's default. A script may have joined with "nccl" alone.
    return dist.new_group(ranks, timeout=options._timeout, backend=WITH_NCCL if nccl else None)


def meeting_place() -> Path:
    """The folder in which torchrun's ranks meet by a file; only its user can enter. Files of ended runs are deleted."""
    who = os.getuid() if hasattr(os, "getuid") else "user"
    folder = private_folder(Path(tempfile.gettempdir(), f"dlkit-torchrun-{who}"))
    for left in folder.iterdir():
        if not is_alive(left.name.split("-")[0]):
            left.unlink(missing_ok=True)
    return folder


def join_by_file(
    path: str, rank: int, world_size: int, backend: str | None = None, timeout: timedelta | None = None
) -> None:
    """Join a process group of this machine, whose ranks meet by a file: no port is opened but on loopback.

    path: the same on all ranks, and used by no group before. backend: by default what `agree_on_backend` says.
    timeout: how long a rank waits for the others, here and in each exchange; None is torch's own.
    """
    import torch.distributed as dist

    loopback = "lo" if sys.platform == "linux" else "lo0"
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}  # whatever they were
    store = dist.FileStore(path, world_size)
    _join(store, rank, world_size, backend or agree_on_backend(store, rank, world_size), timeout)
    store.set_timeout(STORE_TIMEOUT)


def _join(store: Any, rank: int, world_size: int, backend: str, timeout: timedelta | None = None) -> None:
    """Join the group that meets by this store.

    By NCCL all ranks connect here, on their current GPUs. By default they would in the first exchange, and a rank that
    comes to it `STORE_TIMEOUT` after another would find it gone.
    """
    import torch
    import torch.distributed as dist
    import torch.distributed.nn.functional  # imported later, its default arguments would hold the group

    gpu = torch.device("cuda", torch.cuda.current_device()) if backend == WITH_NCCL else None
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout, device_id=gpu)


def leave_group() -> None:
    """Leave the process group, if there is one: ranks that wait for this one over gloo get an error at once.

    NCCL's exchanges are aborted first: to leave without it waits for their end, and they have none if a rank is gone.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        from dlkit.distributed.gpu import abort_nccl

        for thread in abort_nccl():
            thread.join()
        dist.destroy_process_group()


def group_is_used() -> bool:
    """Were there exchanges in this process's group? Then a message may be left over. True where there is no group.

    Of what is sent by NCCL from one rank to another, torch keeps no count.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        return True
    group: Any = dist.distributed_c10d._get_default_group()
    backends = [group._get_backend(device) for device in group._device_types]  # the group's own count is of one alone
    return group in _run_groups or any(backend._get_sequence_number_for_group() > 0 for backend in backends)


def yield_on_wakeup() -> None:
    """From now on, when this thread or one that it starts wakes up, it does not interrupt the thread on its core.

    Linux only, and where it may. gloo's socket thread spins while another thread holds a connection's lock. On a core
    of their own, the thread that has just woken would keep the holder from going on until the kernel's next tick: 4 ms
    for an exchange that takes 0.2.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
