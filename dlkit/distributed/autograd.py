"""Exchanges between ranks that autograd goes back through, and through its own backward pass again.

Each is the transpose of another, which its backward pass calls: gradients of gradients come out right too.
Source: Shoeybi et al. 2019, Megatron-LM, §3 and figure 3, where `copy_to_ranks` is f and `reduce_from_ranks` is g.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.group import Group


def copy_to_ranks(x: Tensor, group: Group) -> Tensor:
    """`x`, which all ranks have alike, as the input of each rank's part of a layer. Backward: the gradients' sum.

    Forward sends nothing; backward sends nothing where `x` needs no gradient.
    """
    return _CopyToRanks.apply(x, group) if _needs_grad(x) else x


def reduce_from_ranks(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' `x`, as the input of what all ranks compute alike. Backward: the gradient as it is."""
    return _ReduceFromRanks.apply(x, group)


def gather_from_ranks(x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
    """All ranks' `x`, one after another along `dim`, as the input of what all ranks compute alike.

    counts: the length of each rank's `x` along `dim`. Backward: this rank's part of the gradient. Where the ranks go on
    to compute different things, put `copy_to_ranks` behind it.
    """
    return _GatherFromRanks.apply(x, counts, dim, group)


def scatter_to_ranks(x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
    """This rank's part of `x`, which all ranks have alike. Backward: all ranks' gradients, one after another."""
    if _needs_grad(x):
        return _ScatterToRanks.apply(x, counts, dim, group)
    return x.narrow(dim, sum(counts[: group.rank]), counts[group.rank])


def _needs_grad(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def all_reduced(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' `x`, as a new contiguous tensor; `x` need not have the same strides on all ranks."""
    summed = x.clone(memory_format=torch.contiguous_format)
    group.all_reduce(summed)
    return summed


class _CopyToRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.clone()  # a view must not be changed in place, as an activation behind it may do

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return reduce_from_ranks(grad_outputs[0], ctx.group), None


class _ReduceFromRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return copy_to_ranks(grad_outputs[0], ctx.group), None


class _GatherFromRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
        ctx.arguments = counts, dim, group
        whole = group.all_gather(x, counts, dim)
        return whole.clone() if whole._is_view() else whole  # as above

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return scatter_to_ranks(grad_outputs[0], *ctx.arguments), None, None, None


class _ScatterToRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
        ctx.arguments = counts, dim, group
        return x.narrow(dim, sum(counts[: group.rank]), counts[group.rank]).clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return gather_from_ranks(grad_outputs[0], *ctx.arguments), None, None, None
