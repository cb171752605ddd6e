"""Normalisation over rows that several ranks have: they exchange counts, means and squared deviations.

Sums of squares would lose all digits where a mean is large. Source: Chan, Golub, LeVeque 1983, Algorithms for computing
the sample variance, §2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.autograd import copy_to_ranks, gather_from_ranks
from dlkit.distributed.batch_norm import (
    OverRanks,
    Part,
    batch_norms,
    combined,
    computed_dtype,
    exchanged_bytes,
    shared_statistics,
)
from dlkit.distributed.group import Group, ring_bytes
from dlkit.strategies.graph.exchanges import Layout
from dlkit.strategies.spatial.bands import Ranges
from dlkit.strategies.spatial.resize import has_rows_of_maps
from dlkit.strategies.spatial.site import Site


@dataclass(frozen=True)
class Moments:
    """Means and squared deviations of all ranks, of a value of which there are `of` numbers for each of these."""

    of: int
    name = "statistics"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        return partial(all_moments, group=group)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        own = 2 * size // self.of
        return (world_size - 1) * own, ring_bytes(world_size * own, world_size, passes=2)


def all_moments(own: Tensor, group: Group) -> Tensor:
    """(ranks, 2 x groups): of all ranks, each of which goes on with them to normalise its rows."""
    return copy_to_ranks(gather_from_ranks(own[None], [1] * group.world_size, 0, group), group)


def normalised(x: Tensor, counts: Tensor, eps: float, group: Group) -> Tensor:
    """x (groups, values) less the means of groups, over their deviations. counts (ranks,): of values of a group."""
    dtype, x = x.dtype, x.to(computed_dtype(x))
    if x.shape[1]:
        mean = x.mean(1)
        own = torch.cat([mean, (x - mean[:, None]).square().sum(1)])
    else:
        own = torch.cat([x.sum(1)] * 2)
    total, mean, squares = combined(torch.cat([counts.to(x)[:, None], all_moments(own, group)], 1))
    return ((x - mean[:, None]) * (squares / total + eps).rsqrt()[:, None]).to(dtype)


@dataclass(frozen=True)
class BatchMoments:
    """What BatchNorm's ranks exchange for a layer, in float64."""

    norm: nn.Module
    name = "statistics of the batch"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        raise NotImplementedError("the layer exchanges them itself")

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return exchanged_bytes(self.norm, world_size)


def batch_norm(site: Site) -> bool:
    """Statistics of the batch are those of all rows, and running averages too."""
    if site.bands is None or site.bands.dim < 2 or site.source.images_dim != 0:
        return False

    def run(group: Group, module: Any, x: Tensor) -> Tensor:
        with shared_statistics(module, OverRanks(group, [""]), Part()):
            return module(x)

    if batch_norms(site.module):
        site.walk.noted(site.source, BatchMoments(site.module))
    site.step(site.bands, {site.source: site.walk.as_it_is(site.source)}, lambda group: partial(run, group))
    return True


def group_norm(site: Site) -> bool:
    """nn.GroupNorm, F.group_norm and nn.InstanceNorm2d, whose groups are maps of one image."""
    if not has_rows_of_maps(site):
        return False
    module, source, node = site.module, site.source, site.node
    groups, eps = source.shape[1], getattr(module, "eps", 1e-5)
    others = ()
    if isinstance(module, nn.InstanceNorm2d) and module.track_running_stats:
        return site.step_whole("its running averages are of whole maps: it sees all")
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups
    elif module is None:
        groups, eps = node.argument(1, "num_groups"), node.argument(4, "eps", 1e-5)
        others = (node.argument(2, "weight"), node.argument(3, "bias"))
    counts = _counts(site.split.parts, source.shape[1] // groups * source.shape[3])

    def run(group: Group, *args: Any) -> Tensor:
        module, x, *others = args if site.module is not None else (None, *args)
        weight, bias = others if module is None else (module.weight, module.bias)
        normal = normalised(_rows_of(x, len(x) * groups), counts, eps, group).view_as(x)
        found = normal if weight is None else normal * weight.view(1, -1, 1, 1)
        return found if bias is None else found + bias.view(1, -1, 1, 1)

    _note(site, groups * source.shape[0])
    taken = {source: site.walk.as_it_is(source)}
    site.step(site.bands, taken, lambda group: partial(run, group), args=(source, *others), kwargs={})
    return True


def layer_norm(site: Site) -> bool:
    """nn.LayerNorm and F.layer_norm: over values of one row, or over rows too."""
    node, source, bands, module = site.node, site.source, site.bands, site.module
    if bands is None or source.images_dim in (None, bands.dim):
        return False
    shape = module.normalized_shape if module is not None else node.argument(1, "normalized_shape")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    first = len(source.shape) - len(shape)
    taken = {source: site.walk.as_it_is(source)}
    if bands.dim < first:
        others = (node.argument(2, "weight"), node.argument(3, "bias"))
        if module is None and any(site.walk.layout(other) is not None for other in others):
            return False
        site.step(bands, taken)
        return True
    if module is None or (module.elementwise_affine and not site.is_alone):
        return False
    counts = _counts(bands.parts, prod(shape) // source.shape[bands.dim])
    cut = Layout(bands.dim - first, bands.parts)
    parameters = {f"{node.target}.{name}": cut for name, _ in module.named_parameters()}

    def run(group: Group, module: Any, x: Tensor) -> Tensor:
        normal = normalised(_rows_of(x, prod(x.shape[:first])), counts, module.eps, group).view_as(x)
        normal = normal if module.weight is None else normal * module.weight
        return normal if module.bias is None else normal + module.bias

    _note(site, prod(source.shape[:first]))
    site.step(bands, taken, lambda group: partial(run, group), parameters=parameters)
    return True


def _rows_of(x: Tensor, groups: int) -> Tensor:
    return x.reshape(groups, x.numel() // groups)


def _counts(parts: Ranges, of_row: int) -> Tensor:
    return torch.tensor([len(rows) * of_row for rows in parts], dtype=torch.float64)


def _note(site: Site, groups: int) -> None:
    """groups: of two images."""
    site.walk.noted(site.source, Moments(prod(site.source.shape) // groups))
