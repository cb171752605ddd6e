"""Exchanges between ranks that autograd goes back through.

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
    return _CopyToRanks.apply(x, group)


def reduce_from_ranks(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' `x`, as the input of what all ranks compute alike. Backward: the gradient as it is."""
    return _ReduceFromRanks.apply(x, group)


def gather_from_ranks(x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
    """All ranks' `x`, one after another along `dim`, as the input of what all ranks compute alike.

    counts: the length of each rank's `x` along `dim`. Backward: this rank's part of the gradient. Where the ranks go on
    to compute different things, put `copy_to_ranks` behind it.
    """
    return _GatherFromRanks.apply(x, counts, dim, group)


def all_reduced(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' `x`, as a new contiguous tensor; `x` need not have the same strides on all ranks."""
    summed = x.clone(memory_format=torch.contiguous_format)
    group.all_reduce(summed)
    return summed


class _CopyToRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return all_reduced(grad_outputs[0], ctx.group), None


class _ReduceFromRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        return all_reduced(x, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grad_outputs[0], None


class _GatherFromRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], dim: int, group: Group) -> Tensor:
        ctx.own_slice = dim, sum(counts[: group.rank]), counts[group.rank]
        return group.all_gather(x, counts, dim)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        return grad_outputs[0].narrow(*ctx.own_slice), None, None, None
