"""Exchanges that autograd goes back through: what comes back is exchanged in its turn.

Source: Shoeybi et al. 2019, Megatron-LM, §3 and figure 3, where `copy` is f and `reduce` is g.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.group import Group


def copy(x: Tensor, group: Group) -> Tensor:
    """What all ranks have alike, on its way into each rank's part of a layer; its gradient is the sum of theirs.

    Nothing is sent going forward, and nothing going back where `x` needs no gradient.
    """
    return _Copy.apply(x, group)


def reduce(x: Tensor, group: Group) -> Tensor:
    """The sum over all ranks, for what all then do alike; the gradient, which all have, goes back as it is."""
    return _Reduce.apply(x, group)


def gather(x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
    """The parts of all ranks, `counts` long along `dim`, for what all then do alike; the part's gradient goes back.

    What is done otherwise on each rank needs `copy` behind it.
    """
    return _Gather.apply(x, counts, dim, group)


def total(x: Tensor, group: Group) -> Tensor:
    """Laid out alike on all ranks, whatever the operator that made it left: sums are taken place by place."""
    found = x.clone(memory_format=torch.contiguous_format)
    group.all_reduce(found)
    return found


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return total(grad_outputs[0], ctx.group), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return total(x, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grad_outputs[0], None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
        ctx.part = dim, sum(counts[: group.rank]), counts[group.rank]
        return group.all_gather(x, counts, dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grad_outputs[0].narrow(*ctx.part), None, None, None
