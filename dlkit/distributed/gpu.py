"""The GPU of a process, when its work is done, and which process groups exchange what is in its memory."""

import contextlib
import threading
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist

from dlkit.distributed.recorder import now

NCCL = "cuda:nccl"  # in a group's configuration: what exchanges tensors on GPUs
SPIN = 1e-3  # seconds for which a wait keeps the core: to be woken takes tens of microseconds, as long as an exchange

_aborted: WeakSet[Any] = WeakSet()  # groups by NCCL


def takes_cuda(process_group: Any = None) -> bool:
    """Does the group exchange tensors on GPUs as they are, by NCCL? By gloo they go through the memory of the CPU."""
    return NCCL in dist.get_backend_config(process_group)


def own_device(device: torch.device, *, as_rank: bool) -> torch.device:
    """The device, with the index of this process's GPU where it is "cuda".

    as_rank: does the process share its work with others? ValueError if there is no such GPU, or if it is not the one
    that this rank exchanges from.
    """
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f'device="{device}", but torch finds no CUDA GPU: leave device out to train on the CPU.')
    count, own = torch.cuda.device_count(), torch.device("cuda", torch.cuda.current_device())
    if device.index is not None and device.index >= count:
        raise ValueError(f'device="{device}", but the last GPU that torch finds is cuda:{count - 1}: give "cuda".')
    if device.index is not None and as_rank and device != own:
        raise ValueError(f'device="{device}", but the GPU of this rank is {own}: give "cuda", and each has its own.')
    return own if device.index is None else device


def wait_for_gpu(device: torch.device) -> None:
    """Wait until a GPU has computed what this thread has asked of it; on the CPU it has been computed."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def wait_for_exchange(device: torch.device) -> None:
    """The same where an exchange is all that is left to wait for; before long without using the CPU's core.

    What a rank that waits for another does could not be told from computing otherwise (`Lookout` in dlkit.cluster).
    """
    if device.type != "cuda":
        return
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    begin = now()
    while not event.query():
        if now() - begin > SPIN:
            event.synchronize()


def abort_nccl() -> list[threading.Thread]:
    """Begin to end all exchanges of this process by NCCL, on threads that are returned; those of gloo go on.

    What waits for such an exchange goes on with whatever is there: `check_exchanged` tells it. Each communicator has a
    thread: one after the other they might wait for ranks that go through them in another order. Source: NVIDIA, NCCL
    user guide, fault tolerance (ncclCommAbort).
    """
    threads = []
    for group, config in list(dist.distributed_c10d._world.pg_backend_config.items()):  # another thread may leave them
        if NCCL in config:
            _aborted.add(group)
            backend = group._get_backend(torch.device("cuda"))
            threads.append(threading.Thread(target=_abort, args=(backend,), name="dlkit-abort", daemon=True))
            threads[-1].start()
    return threads


def _abort(backend: Any) -> None:
    with contextlib.suppress(RuntimeError):  # it has been aborted, or does not end: then the process is not kept
        backend.abort()


def check_exchanged(process_group: Any) -> None:
    """RuntimeError if an exchange by NCCL was ended before its end, by `abort_nccl` or by torch: its result is none."""
    group = process_group or dist.distributed_c10d._get_default_group()
    if group in _aborted or group._get_backend(torch.device("cuda")).get_error().name != "SUCCESS":
        raise RuntimeError("this rank was freed from an exchange, as another one has failed, is gone or waits in vain.")
