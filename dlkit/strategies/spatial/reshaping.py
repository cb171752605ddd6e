"""What gives the same numbers in another shape: permutations, views, indices."""

from math import prod
from typing import Any

from torch import Tensor, nn

from dlkit.strategies.spatial.bands import Bands, scaled
from dlkit.strategies.spatial.resize import step_indexed
from dlkit.strategies.spatial.site import Site


def permuted(site: Site) -> bool:
    node, bands = site.node, site.bands
    if bands is None:
        return False
    ndim = len(site.source.shape)
    order = list(range(ndim))
    if site.kind == "permute":
        given = node.args[1:] if len(node.args) > 2 or isinstance(node.args[-1], int) else node.argument(1, "dims")
        order = [dim % ndim for dim in given]
    else:
        names = ("axis0", "axis1") if site.kind.startswith("swapaxes") else ("dim0", "dim1")
        one, other = (node.argument(place, name) % ndim for place, name in enumerate(names, 1))
        order[one], order[other] = order[other], order[one]
    site.step(bands.moved(order.index(bands.dim)), {site.source: site.walk.as_it_is(site.source)})
    return True


def reshaped(site: Site) -> bool:
    """A view, in which the rows stay a dimension, or are its first part: rows and columns as one, say."""
    bands, source, node = site.bands, site.source, site.node
    if bands is None or node.shape is None or len(node.inputs) > 1 or node.value.dtype != source.value.dtype:
        return False
    found = rows_in(source.shape, bands.dim, node.shape)
    if found is None or node.images_dim is None or source.images_dim in (None, bands.dim):
        return False
    dim, times = found
    if dim == node.images_dim:
        return False
    parts, of_images, to_images = scaled(bands.parts, times), source.images_dim, node.images_dim
    before, after = source.shape[of_images], node.shape[to_images]

    def work(group: Any) -> Any:
        shape = [*node.shape]
        shape[dim] = len(parts[group.rank])

        def run(*args: Any) -> Tensor:
            x = args[-1]
            return x.reshape(*shape[:to_images], x.shape[of_images] * after // before, *shape[to_images + 1 :])

        return run

    site.step(Bands(dim, parts), {source: site.walk.as_it_is(source)}, work, args=(source,), kwargs={})
    return True


def rows_in(shape: tuple[int, ...], dim: int, other: tuple[int, ...]) -> tuple[int, int] | None:
    """In which dimension of the other shape the rows are, and of how many values each is made; None if in none."""
    height, before, after = shape[dim], prod(shape[:dim]), prod(shape[dim + 1 :])
    for place, size in enumerate(other):
        times, left = divmod(size, height)
        if prod(other[:place]) == before and left == 0 and times and times * prod(other[place + 1 :]) == after:
            return place, times
    return None


def flattens(site: Site) -> bool:
    return reshaped(site) or site.step_whole("it makes one row of units of all rows")


def indexed(site: Site) -> bool:
    """x[...] by numbers, slices, None and Ellipsis; slices of rows are rows of other ranks."""
    bands, node = site.bands, site.node
    if bands is None:
        return False
    if not isinstance(site.source.value, Tensor):
        site.step(bands, {site.source: site.walk.as_it_is(site.source)})
        return True
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    if not all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in index):
        return False
    if any(isinstance(item, bool) for item in index) or any(not plain(item) for item in index):
        return False
    ndim, takes = len(site.source.shape), sum(item is not None and item is not Ellipsis for item in index)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (ndim - takes), *index[at + 1 :])
    else:
        index = (*index, *[slice(None)] * (ndim - takes))
    return _step_index(site, bands, index)


def plain(item: Any) -> bool:
    """Is a slice one of numbers?"""
    ends = (item.start, item.stop, item.step) if isinstance(item, slice) else ()
    return all(end is None or isinstance(end, int) for end in ends)


def _step_index(site: Site, bands: Bands, index: tuple[Any, ...]) -> bool:
    """index: for each dimension, and None for new ones."""
    dims, made = [place for place, item in enumerate(index) if item is not None], 0
    place = dims[bands.dim]
    item = index[place]
    if isinstance(item, int):
        return site.step_whole("it takes one row of all: it sees all")
    made = sum(not isinstance(one, int) for one in index[:place])
    height = site.source.shape[bands.dim]
    rows = range(height)[item]
    others = (*index[:place], slice(None), *index[place + 1 :])
    taken = {site.source: site.walk.as_it_is(site.source)}
    if rows == range(height):
        site.step(bands.moved(made), taken, args=(site.source, others))
        return True
    if len(rows) < site.ranks:
        return site.step_whole("it gives fewer rows than ranks: it sees all")
    plain_others = all(isinstance(one, slice) for one in others)
    if not plain_others:
        return False
    return step_indexed(site, list(rows), bands.dim, lambda x: x[others])


def narrowed(site: Site) -> bool:
    """narrow, and select of another dimension than that of rows."""
    bands, node = site.bands, site.node
    if bands is None or site.source.shape is None:
        return False
    dim = node.argument(1, "dim") % len(site.source.shape)
    if dim == bands.dim:
        if site.kind != "narrow":
            return False
        start, length = node.argument(2, "start"), node.argument(3, "length")
        if not isinstance(start, int) or length < site.ranks:
            return False
        start %= site.source.shape[dim]
        return step_indexed(site, list(range(start, start + length)), dim, lambda x: x)
    after = bands.moved(bands.dim - 1) if site.kind == "select" and dim < bands.dim else bands
    site.step(after, {site.source: site.walk.as_it_is(site.source)})
    return True


VIEWS = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "view_as",
        "reshape_as",
    ]
) | {nn.Flatten, nn.Unflatten}
PERMUTES = frozenset(["permute", "transpose", "swapaxes", "swapdims"])
