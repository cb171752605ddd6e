"""Which rank sits on which GPU or CPU cores: a plan, made before anything starts."""

import contextlib
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# Of glibc's malloc, which else sets its thresholds by what a process has freed before: a step of a CNN took 1.2 times
# as long on an engine on which other nets had been trained. 32 MiB is the most that older ones take.
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}


@dataclass(frozen=True)
class Placement:
    """One rank's device and the CPU cores that it, and its torch threads, keep to; no cores: wherever it likes."""

    rank: int
    gpu: int | None
    cores: tuple[int, ...]
    threads: int

    @property
    def device(self) -> str:
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"

    def environment(self) -> dict[str, str]:
        """What the rank's process has to be started with: the one GPU that it may see, its number of threads, and that
        it keeps the memory that a step lets go of: handed back to the system it would be cleared for the next."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        gpu = "" if self.gpu is None else str(self.gpu)
        return threads | KEEPS_MEMORY | {"CUDA_VISIBLE_DEVICES": gpu, "DLKIT_CORES": ",".join(map(str, self.cores))}


def placements(n: int, gpus: int | None = None, cores: Sequence[int] | None = None) -> list[Placement]:
    """A place for each of `n` ranks: GPUs in turn where there are any, and cores in equal parts.

    gpus, cores: how many GPUs and which cores there are; by default this machine's. With more ranks than cores, ranks
    share them in turn. ValueError for no ranks.
    """
    if n < 1:
        raise ValueError(f"a cluster of {n} engines: at least 1.")
    gpus = gpus_here() if gpus is None else gpus
    cores = cores_here() if cores is None else list(cores)
    found = []
    for rank in range(n):
        own = cores[rank * len(cores) // n : (rank + 1) * len(cores) // n] or cores[rank % len(cores) :][:1]
        found.append(Placement(rank, rank % gpus if gpus else None, tuple(own) if pinning() else (), len(own)))
    return found


def remarks(plan: Sequence[Placement], gpus: int) -> list[str]:
    """What is shared, in a sentence each: nothing if every rank has a GPU, or cores, of its own."""
    n, cores = len(plan), {core for place in plan for core in place.cores}
    found = []
    if gpus and n > gpus:
        found.append(f"{n} engines share {gpus} GPU{'s' * (gpus > 1)}: NCCL takes one rank a GPU, so gloo is used.")
    if cores and n > len(cores):
        found.append(
            f"{n} engines share {len(cores)} core{'s' * (len(cores) > 1)}: more engines than cores save no time."
        )
    if not pinning():
        found.append(f"{platform.system()} pins no process to cores: only the numbers of threads are set.")
    return found


def backend(n: int, gpus: int) -> str:
    """NCCL where each rank has a GPU of its own, else gloo."""
    return "nccl" if 0 < n <= gpus else "gloo"


def pinning() -> bool:
    """Can a process be bound to cores here?"""
    return hasattr(os, "sched_setaffinity")


def yield_on_wakeup() -> None:
    """When this thread wakes, or one that it starts from now on, it no longer interrupts who runs on its core.

    Linux only, and where it may. gloo's thread for sockets spins while another holds a connection's lock. On a core of
    their own the one that has just been woken would keep the holder from going on, until the kernel's next tick: 4 ms
    for an exchange that takes 0.2.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def cores_here() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if pinning() else list(range(os.cpu_count() or 1))


def gpus_here() -> int:
    import torch

    return torch.cuda.device_count()
