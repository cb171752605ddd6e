"""Which rank gets which GPU or CPU cores: a plan, made before anything starts."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

# For glibc's malloc, whose thresholds otherwise depend on what a process has freed before: a step of a CNN took 1.2
# times as long on an engine on which other nets had been trained. Older versions take no more than 32 MiB.
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}


@dataclass(frozen=True)
class Placement:
    """The device of one rank, and the CPU cores that its threads are pinned to; empty `cores`: not pinned."""

    rank: int
    gpu: int | None
    cores: tuple[int, ...]
    threads: int

    @property
    def device(self) -> str:
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"

    def environment(self) -> dict[str, str]:
        """Environment variables for the rank's process: its one GPU, its cores and threads, and malloc's settings.

        With these, malloc keeps the memory that a step frees; the system would have to clear it for the next step.
        """
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        gpu = "" if self.gpu is None else str(self.gpu)
        return threads | KEEPS_MEMORY | {"CUDA_VISIBLE_DEVICES": gpu, "DLKIT_CORES": ",".join(map(str, self.cores))}


def placements(n: int, gpus: int | None = None, cores: Sequence[int] | None = None) -> list[Placement]:
    """A placement for each of `n` ranks: GPUs in turn where there are any, and cores in equal parts.

    gpus, cores: how many GPUs and which cores there are; by default this machine's. With more ranks than cores, ranks
    share them in turn. ValueError for no ranks.
    """
    if n < 1:
        raise ValueError(f"a cluster of {n} engines: at least 1.")
    gpus = gpus_here() if gpus is None else gpus
    cores = cores_here() if cores is None else list(cores)
    plan = []
    for rank in range(n):
        own = cores[rank * len(cores) // n : (rank + 1) * len(cores) // n] or cores[rank % len(cores) :][:1]
        plan.append(Placement(rank, rank % gpus if gpus else None, tuple(own) if can_pin() else (), len(own)))
    return plan


def remarks(plan: Sequence[Placement], gpus: int) -> list[str]:
    """A sentence for each thing that ranks share; none where every rank has a GPU, or cores, of its own."""
    n, cores = len(plan), {core for placement in plan for core in placement.cores}
    sentences = []
    if gpus and n > gpus:
        sentences.append(f"{n} engines share {gpus} GPU{'s' * (gpus > 1)}: NCCL takes one rank a GPU, so gloo is used.")
    if cores and n > len(cores):
        sentences.append(
            f"{n} engines share {len(cores)} core{'s' * (len(cores) > 1)}: more engines than cores save no time."
        )
    if not can_pin():
        sentences.append(f"{platform.system()} pins no process to cores: only the numbers of threads are set.")
    return sentences


def backend(n: int, gpus: int) -> str:
    """NCCL where each rank has a GPU of its own, else gloo."""
    return "nccl" if 0 < n <= gpus else "gloo"


def can_pin() -> bool:
    """Can a process be pinned to cores on this system?"""
    return hasattr(os, "sched_setaffinity")


def cores_here() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if can_pin() else list(range(os.cpu_count() or 1))


def gpus_here() -> int:
    """The number of GPUs that this process may use."""
    import torch

    return torch.cuda.device_count()
