"""Ranks with a pretended GPU each: exchanges by a pretended NCCL, or, where they share one, by gloo; with no device."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pretended
import torch
import torch.distributed as dist
from pretended import OnGPU, TwoDevices
from torch.utils._pytree import tree_leaves, tree_map_only

EXCHANGES = ("all_reduce", "all_gather", "broadcast", "batch_isend_irecv")


def start() -> None:
    """`pretended.start`, on a rank; what it would wait for on CUDA is noted in `waits` too."""
    pretended.start()
    torch.cuda.synchronize = lambda: pretended.waits.append("synchronize")


@contextmanager
def exchanging(nccl: bool) -> Iterator[None]:
    """Context in which dlkit finds a GPU, and in its groups NCCL, or gloo alone."""
    import dlkit.distributed.group
    import dlkit.strategies.base as base

    with ExitStack() as stack:

        def replace(where: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(where, name, value))

        replace(dlkit.distributed.group, "takes_cuda", lambda group=None: nccl)
        replace(base, "is_on_gpu", lambda model: any(isinstance(p, OnGPU) for p in model.parameters()))
        replace(base, "check_exchanged", lambda group: None)
        for name in EXCHANGES:
            replace(dist, name, exchange(getattr(dist, name), nccl))
        yield


def exchange(function: Any, nccl: bool) -> Any:
    """One of torch's, on the values; TwoDevices where NCCL, or gloo, would refuse."""

    def called(*args: Any, **kwargs: Any) -> Any:
        messages = args[0] if function.__name__ == "batch_isend_irecv" else ()
        tensors = [message.tensor for message in messages] or [
            x for x in tree_leaves(args) if isinstance(x, torch.Tensor)
        ]
        there = [isinstance(tensor, OnGPU) for tensor in tensors]
        if any(there) and not (nccl and all(there)):
            raise TwoDevices(f"{function.__name__} by {'NCCL' if nccl else 'gloo'} of tensors on a GPU: {there}")
        if any(not tensor.is_contiguous() for tensor in tensors):
            raise ValueError(f"{function.__name__}: tensors must be contiguous")
        with torch._C._DisableTorchDispatch():
            for message in messages:
                message.tensor = unwrapped(message.tensor)
            return function(*unwrapped(args), **unwrapped(kwargs))

    return called


def unwrapped(item: Any) -> Any:
    return tree_map_only(OnGPU, lambda tensor: tensor.held, item)
