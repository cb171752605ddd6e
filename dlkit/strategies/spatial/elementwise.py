"""What gives a value of values at the same row alone: activations, sums, concatenations along maps, sums over maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dlkit.distributed.group import Group
from dlkit.models.graph import Node
from dlkit.strategies.graph.exchanges import Sum
from dlkit.strategies.graph.in_place import is_in_place
from dlkit.strategies.spatial.bands import Bands
from dlkit.strategies.spatial.site import Site, no_rows, shape_of


def alike(site: Site) -> bool:
    """The output has the shape of the input."""
    return site.source is not None and site.node.shape == site.source.shape and row_by_row(site)


def row_by_row(site: Site) -> bool:
    """Each rank computes of its rows of the input those of the output; the other inputs are whole."""
    if site.bands is None:
        return False
    if any(site.walk.layout(other) is not None for other in site.node.inputs if other is not site.source):
        return False
    site.step(site.bands, {site.source: site.walk.as_it_is(site.source)})
    return True


def converted(site: Site) -> bool:
    """To a dtype, which may be that of another tensor, however that is split."""
    others = {taken: site.walk.as_it_is(taken) for taken in site.node.inputs}
    along = "layer" if site.bands is None else "rows"
    if site.node.op != "method" or site.node.shape != site.source.shape:
        return False
    site.step(site.bands, others, along=along)
    return True


def of_maps(site: Site) -> bool:
    """Numbers of a map are the same for all its rows."""
    return site.bands is not None and site.bands.dim == 2 and len(site.source.shape) == 4 and alike(site)


def broadcast(site: Site) -> bool:
    """Values at the same index of several tensors, some of which may have one row for all, or no rows."""
    shape = site.node.shape
    split = [(taken, layout) for taken in site.node.inputs if (layout := site.walk.layout(taken)) is not None]
    tensors = [taken for taken in site.node.inputs if isinstance(taken.value, Tensor)]
    if shape is None or len(tensors) < len(site.node.inputs):
        return False
    if is_in_place(site.node) and site.bands is None:
        return False
    first, bands = next(((one, layout) for one, layout in split if one is site.source), split[0])
    dim = bands.dim + len(shape) - len(shape_of(first))
    if len(shape) < len(shape_of(first)):
        return False
    height, parts = shape[dim], bands.parts
    if height != shape_of(first)[bands.dim] or (
        first is site.source and is_in_place(site.node) and first.shape != shape
    ):
        return False
    inputs = {}
    for taken in tensors:
        own_dim = dim - len(shape) + len(shape_of(taken))
        if own_dim >= 0 and shape_of(taken)[own_dim] == height:
            inputs[taken] = site.rows(taken, own_dim, parts)
        else:
            inputs[taken] = site.whole_for_rows(taken)
    site.step(Bands(dim, parts), inputs)
    return True


def joined(site: Site) -> bool:
    """Concatenated along another dimension than that of rows, or stacked."""
    tensors, shape = site.node.argument(0, "tensors"), site.node.shape
    if not isinstance(tensors, tuple | list) or shape is None:
        return False
    stacks = site.kind == "stack"
    dim = site.node.argument(1, "dim", 0) % len(shape)
    bands = next(layout for tensor in tensors if (layout := site.walk.layout(tensor)) is not None)
    if any(len(tensor.shape) != len(shape) - stacks for tensor in tensors):
        return False
    after = bands.dim + (stacks and dim <= bands.dim)
    if after == dim and not stacks:
        return site.step_whole("it joins rows: it sees all")
    inputs = {tensor: site.rows(tensor, bands.dim, bands.parts) for tensor in tensors}
    site.step(Bands(after, bands.parts), inputs)
    return True


def reduced(site: Site) -> bool:
    """Over other dimensions than that of rows; or, of a mean or a sum, over rows too: all ranks' are added."""
    node, bands = site.node, site.bands
    if bands is None or node.shape is None or len(node.inputs) > 1:
        return False
    name, ndim = site.kind, len(site.source.shape)
    at = 2 if name == "normalize" else 1
    dims = node.argument(at, "dim", 1 if name == "normalize" else None)
    if isinstance(dims, bool):  # std(False) is over all, and it is what the variance is divided by
        return False
    dims = range(ndim) if dims is None or dims == () else [dims] if isinstance(dims, int) else dims
    if not all(isinstance(dim, int) for dim in dims):
        return False
    dims = sorted({dim % ndim for dim in dims})
    if bands.dim in dims:
        if name not in ("mean", "sum") or node.kwargs.get("dtype") is not None:
            return False
        return summed(site, dims, bool(node.argument(2, "keepdim", False)), name == "mean")
    before = sum(dim < bands.dim for dim in dims) if len(node.shape) < ndim else 0
    site.step(bands.moved(bands.dim - before), {site.source: site.walk.as_it_is(site.source)})
    return True


def summed(site: Site, dims: Sequence[int], keepdim: bool, is_mean: bool) -> bool:
    """The sum or mean over these dimensions, that of rows among them; it is whole on all ranks."""
    assert site.bands is not None
    sizes, rows = site.source.shape, site.source.shape[site.bands.dim]
    images = site.source.images_dim in dims
    size = prod(sizes[dim] for dim in dims if dim not in (site.bands.dim, site.source.images_dim))

    def run(*args: Any) -> Tensor:
        x = args[-1]
        total = x.sum(tuple(dims), keepdim=keepdim)
        return total / (rows * size * (x.shape[site.source.images_dim] if images else 1)) if is_mean else total

    taken = {site.source: site.walk.as_it_is(site.source)}
    site.step(None, taken, lambda group: run, args=(site.source,), kwargs={}, then=Sum())
    return True


def largest(site: Site) -> bool:
    """The largest value of each map of maps whose rows are split; of several the first, as torch's adaptive pooling."""
    assert site.bands is not None

    def work(group: Group) -> Callable[..., Tensor]:
        own = site.bands.parts[group.rank]
        return lambda *args: F.adaptive_max_pool2d(args[-1], 1) if own else no_rows(args[-1], site.shape, 2)

    taken = {site.source: site.walk.as_it_is(site.source)}
    parts = tuple(range(min(len(rows), 1)) for rows in site.bands.parts)
    site.step(None, taken, work, args=(site.source,), kwargs={}, then=Largest(Bands(2, parts)))
    return True


@dataclass(frozen=True)
class Largest:
    """The largest value of each map, of those that the ranks found: one each, or none where a rank has no rows."""

    found: Bands
    name = "largest"

    def on(self, group: Group) -> Callable[[Tensor], Tensor]:
        gathering = self.found.gathering().on(group)
        return lambda x: F.adaptive_max_pool2d(gathering(x), 1)

    def sent(self, size: int, rank: int, world_size: int) -> tuple[int, int]:
        return (world_size - 1) * size, 0


def parts_of_maps(site: Site) -> bool:
    """Several values, each some of another dimension: chunk, split, unbind."""
    bands, name = site.bands, site.kind
    if bands is None or len(site.node.inputs) > 1:
        return False
    dim = site.node.argument(1 if name == "unbind" else 2, "dim", 0) % len(site.source.shape)
    if dim == bands.dim:
        return False
    after = bands.moved(bands.dim - 1) if name == "unbind" and dim < bands.dim else bands
    site.step(after, {site.source: site.walk.as_it_is(site.source)})
    return True


def users_take_members(site: Site) -> bool:
    """Is each value that the node gives taken by its number?"""
    users: list[Node] = site.graph.users[site.node]
    return all(user.op == "function" and user.called == "getitem" and isinstance(user.args[1], int) for user in users)
