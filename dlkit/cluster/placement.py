"""Which rank gets which GPU or CPU cores: a plan, made before anything starts."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

from dlkit.distributed.process_group import WITH_NCCL

# For glibc's malloc, whose thresholds otherwise depend on what a process has freed before: a step of a CNN took 1.2
# times as long on an engine on which other nets had been trained. Older versions take no more than 32 MiB.
KEEPS_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
# For NCCL, whose watching thread otherwise ends the process when an exchange fails or takes too long, after a minute in
# which it wants to write a report: an engine keeps what it holds, and the cluster frees it (watch.py). 2 is to end the
# exchanges alone. Source: torch's ProcessGroupNCCL.hpp.
OUTLIVES_EXCHANGES = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
}
PART = "MIG-"  # begins the name of a part of a GPU


@dataclass(frozen=True)
class Placement:
    """The device of one rank, and the CPU cores that its threads are pinned to; empty `cores`: not pinned.

    gpu: its index among those that this process may use. gpu_name: what CUDA_VISIBLE_DEVICES calls it.
    """

    rank: int
    gpu: int | None
    cores: tuple[int, ...]
    threads: int
    gpu_name: str = ""

    @property
    def device(self) -> str:
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"

    def environment(self) -> dict[str, str]:
        """Environment variables for the rank's process: its one GPU, its cores and threads; malloc's settings, NCCL's.

        With the former, malloc keeps the memory that a step frees; the system would have to clear it for the next step.
        """
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        own = {"CUDA_VISIBLE_DEVICES": self.gpu_name, "DLKIT_CORES": ",".join(map(str, self.cores))}
        return threads | KEEPS_MEMORY | own | ({} if self.gpu is None else OUTLIVES_EXCHANGES)


def placements(n: int, gpus: Sequence[str] | None = None, cores: Sequence[int] | None = None) -> list[Placement]:
    """A placement for each of `n` ranks: GPUs in turn where there are any, and cores in equal parts.

    gpus, cores: what CUDA_VISIBLE_DEVICES calls the GPUs, and which cores there are; by default those that this process
    may use. With more ranks than cores, ranks share them in turn. ValueError for no ranks.
    """
    if n < 1:
        raise ValueError(f"a cluster of {n} engines: at least 1.")
    gpus = gpus_here() if gpus is None else list(gpus)
    cores = cores_here() if cores is None else list(cores)
    plan = []
    for rank in range(n):
        if n <= len(cores):
            own = cores[rank * len(cores) // n : (rank + 1) * len(cores) // n]
        else:
            own = [cores[rank % len(cores)]]
        gpu = rank % len(gpus) if gpus else None
        name = "" if gpu is None else gpus[gpu]
        plan.append(Placement(rank, gpu, tuple(own) if can_pin() else (), len(own), name))
    return plan


def remarks(plan: Sequence[Placement]) -> list[str]:
    """A sentence for each thing that ranks share; none where every rank has a GPU, or cores, of its own."""
    n, cores = len(plan), {core for placement in plan for core in placement.cores}
    gpus = {placement.gpu_name for placement in plan if placement.gpu is not None}
    sentences = []
    if gpus and n > len(gpus):
        shared = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}"
        sentences.append(f"{n} engines share {shared}: NCCL takes one rank a GPU, so gloo is used.")
    elif n > 1 and any(name.startswith(PART) for name in gpus):
        sentences.append(f"{n} engines have parts of GPUs (MIG): NCCL takes one rank a GPU, so gloo is used.")
    if cores and n > len(cores):
        sentences.append(
            f"{n} engines share {len(cores)} core{'s' * (len(cores) > 1)}: more engines than cores save no time."
        )
    if not can_pin():
        sentences.append(f"{platform.system()} pins no process to cores: only the numbers of threads are set.")
    return sentences


def backend(plan: Sequence[Placement]) -> str:
    """NCCL for GPUs, and gloo for the CPU, where each rank has a GPU of its own, and not a part of one; else gloo."""
    import torch.distributed as dist

    gpus = {placement.gpu_name for placement in plan if placement.gpu is not None}
    whole = len(gpus) == len(plan) and not any(name.startswith(PART) for name in gpus)
    return WITH_NCCL if whole and dist.is_nccl_available() else "gloo"


def can_pin() -> bool:
    """Can a process be pinned to cores on this system?"""
    return hasattr(os, "sched_setaffinity")


def cores_here() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if can_pin() else list(range(os.cpu_count() or 1))


def gpus_here() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use, in torch's order: a number, or a UUID.

    Of parts of GPUs (MIG) torch counts one, as a process can use one; an engine can have each of those listed.
    """
    import torch

    count, listed = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(count)]
    names = [name.strip() for name in listed.split(",")]
    return [name for name in names if name.startswith(PART)] if count and names[0].startswith(PART) else names[:count]
