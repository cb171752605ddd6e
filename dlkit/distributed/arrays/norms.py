"""Normalisation of arrays: ranks exchange counts, means and squared deviations.

Sums of squares would lose all digits where a mean is large. Source: Chan, Golub, LeVeque 1983, Algorithms for computing
the sample variance, §2.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.distributed.arrays.bill import statistics as statistics_bill
from dlkit.distributed.arrays.core import Call, DistributedArray, rule
from dlkit.distributed.autograd import copy_to_ranks, gather_from_ranks
from dlkit.distributed.batch_norm import OverRanks, combined, computed_dtype, exchanged_doubles, normalised_by


def normalised(x: DistributedArray, own: Tensor, per_place: int, eps: float) -> Tensor:
    """own (groups, values), those of this rank's tile, less their groups' means, over their deviations.

    per_place: how many of a group there are at each place.
    """
    group, dtype = x.grid.group, own.dtype
    counts = torch.tensor([tile.area * per_place for tile in x.tiles], dtype=torch.float64)
    own = own.to(computed_dtype(own))
    if own.shape[1]:
        mean = own.mean(1)
        moments = torch.cat([mean, (own - mean[:, None]).square().sum(1)])
    else:
        moments = torch.cat([own.sum(1)] * 2)
    x.grid.note(statistics_bill, moments.nbytes, group.world_size * moments.nbytes, own, group.world_size)
    every = copy_to_ranks(gather_from_ranks(moments[None], [1] * group.world_size, 0, group), group)
    total, mean, squares = combined(torch.cat([counts.to(own)[:, None], every], 1))
    return ((own - mean[:, None]) * (squares / total + eps).rsqrt()[:, None]).to(dtype)


def of_maps(call: Call, normal: Tensor, weight: Tensor | None, bias: Tensor | None) -> DistributedArray:
    found = normal if weight is None else normal * call.copied(weight).view(1, -1, 1, 1)
    return call.array.with_local(found if bias is None else found + call.copied(bias).view(1, -1, 1, 1))


@rule("batch_norm")
def batch_norm(call: Call) -> Any:
    """The statistics of the batch are those of all places, and running averages too."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    defaults = (None, None, None, None, None, False, 0.1, 1e-5)
    x, mean, variance, weight, bias, training, momentum, eps = (
        call.argument(*each) for each in zip(range(8), names, defaults, strict=True)
    )
    if call.maps() is None:
        return NotImplemented
    weight, bias = call.copied(weight), call.copied(bias)
    if not training:
        return x.with_local(F.batch_norm(x.local, mean, variance, weight, bias, False, momentum, eps))
    forward, backward = exchanged_doubles(x.shape[1])
    x.grid.note(statistics_bill, forward, backward, x.local, x.grid.group.world_size)
    if x.local.is_meta:
        return x.with_local(F.batch_norm(x.local, mean, variance, weight, bias, True, momentum, eps))
    averages = None if mean is None else (mean, variance, momentum)
    return x.with_local(normalised_by(OverRanks(x.grid.group, [""]), x.local, weight, bias, eps, averages))


@rule("group_norm")
def group_norm(call: Call) -> Any:
    if call.maps() is None:
        return NotImplemented
    return by_groups(
        call,
        call.argument(1, "num_groups"),
        call.argument(2, "weight"),
        call.argument(3, "bias"),
        call.argument(4, "eps", 1e-5),
    )


@rule("instance_norm")
def instance_norm(call: Call) -> Any:
    names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
    defaults = (None, None, None, None, None, True, 0.1, 1e-5)
    x, mean, _, weight, bias, uses_input, _, eps = (
        call.argument(*each) for each in zip(range(8), names, defaults, strict=True)
    )
    if call.maps() is None or mean is not None or not uses_input:
        return NotImplemented
    return by_groups(call, x.shape[1], weight, bias, eps)


def by_groups(call: Call, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> DistributedArray:
    """Over the maps of each group of an image."""
    x = call.array
    own = x.local.reshape(len(x) * groups, x.local.numel() // (len(x) * groups))
    normal = normalised(x, own, x.shape[1] // groups, eps)
    return of_maps(call, normal.view_as(x.local), weight, bias)


@rule("layer_norm")
def layer_norm(call: Call) -> Any:
    """Over the last dimensions: none of rows and columns, or both of them."""
    x, shape = call.array, tuple(call.argument(1, "normalized_shape"))
    weight, bias, eps = call.argument(2, "weight"), call.argument(3, "bias"), call.argument(4, "eps", 1e-5)
    first = x.ndim - len(shape)
    if len(call.arrays) > 1 or x.shape[first:] != shape:
        return NotImplemented
    if max(x.split_dims, default=-1) < first:
        return x.with_local(F.layer_norm(x.local, shape, call.copied(weight), call.copied(bias), eps))
    if min(x.dims) < first:
        return NotImplemented
    groups = prod(x.shape[:first])
    own = x.local.reshape(groups, x.local.numel() // groups)
    normal = normalised(x, own, prod(shape) // prod(x.size_of_maps), eps).view_as(x.local)
    dims = tuple(dim - first for dim in x.dims)
    if weight is not None:
        normal = normal * call.take(weight, x.tiles, dims)
    return x.with_local(normal if bias is None else normal + call.take(bias, x.tiles, dims))
