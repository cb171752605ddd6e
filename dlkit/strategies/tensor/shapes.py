"""Functions that move, join, pick or add up what a tensor has, and leave the dimension alone that it is split along."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.group import Group
from dlkit.models.graph import Node
from dlkit.strategies.graph.exchanges import Layout, Several, even_layout
from dlkit.strategies.graph.plan import Call, Walk
from dlkit.strategies.tensor import layouts


def reshape(walk: Walk, node: Node) -> bool:
    """`view`, `flatten` and the like: each rank's part is reshaped to what it has of the output."""
    source, layout = _source(walk, node)
    if layout is None or node.shape is None or any(isinstance(arg, torch.dtype) for arg in node.args):
        return False
    after = layouts.reshaped(layout, source, node)
    if after is None:
        return False
    sizes = list(node.shape)
    if node.images_dim is not None:
        sizes[node.images_dim] = -1
    walk.step(node, layout=after, along="units", call=_to_sizes(sizes, after), args=(source,), kwargs={})
    return True


def _to_sizes(sizes: list[int], layout: Layout) -> Call:
    def make(net: nn.Module, group: Group) -> Callable[..., Tensor]:
        own = [*sizes[: layout.dim], layout.counts[group.rank], *sizes[layout.dim + 1 :]]
        return partial(_reshape, own)

    return make


def _reshape(sizes: list[int], *args: Any) -> Tensor:
    return args[-1].reshape(sizes)  # in front of it may be a module that does so


def permute(walk: Walk, node: Node) -> bool:
    source, layout = _source(walk, node)
    if layout is None or source.shape is None:
        return False
    dims = _permutation(node, len(source.shape))
    if dims is None:
        return False
    walk.step(node, layout=layouts.permuted(layout, dims), along="units")
    return True


def _permutation(node: Node, ndim: int) -> list[int] | None:
    """Which dimension of the input each of the output is."""
    given = (
        list(node.args[1]) if len(node.args) == 2 and isinstance(node.args[1], tuple | list) else list(node.args[1:])
    )
    if node.kwargs or any(type(dim) is not int for dim in given):
        return None
    if node.called == "permute":
        return given
    if len(given) != 2:
        return None
    one, other = (dim % ndim for dim in given)
    dims = list(range(ndim))
    if node.called in ("movedim", "moveaxis"):
        dims.insert(other, dims.pop(one))
    else:
        dims[one], dims[other] = dims[other], dims[one]
    return dims


def reduce(walk: Walk, node: Node, position: int = 1, default: Any = None) -> bool:
    """Sums, means and the like over other dimensions; the argument `dim` has this position."""
    source, layout = _source(walk, node)
    if layout is None or set(node.kwargs) - {"dim", "keepdim", "dtype", "correction", "unbiased", "p"}:
        return False
    given = node.argument(position, "dim", default)
    after = layouts.reduced(layout, source, given, node)
    if after is None:
        return False
    walk.step(node, layout=after if isinstance(node.value, Tensor) else Several(after), along="units")
    return True


def along(walk: Walk, node: Node, position: int = 1, default: Any = None) -> bool:
    """What looks along one other dimension, and keeps the shape, as a softmax does."""
    source, layout = _source(walk, node)
    if layout is None or node.shape != source.shape:
        return False
    dims = layouts.dimensions(node.argument(position, "dim", default), source)
    if dims is None or layout.dim in dims:
        return False
    walk.step(node, layout=layout, along="units")
    return True


def index(walk: Walk, node: Node) -> bool:
    """`x[...]`, and one of several tensors."""
    source = node.args[0]
    layout = walk.layout(source) if isinstance(source, Node) else None
    if isinstance(layout, Several) and type(node.args[1]) is int:
        walk.step(node, layout=layout.layout, along="units")
        return True
    if not isinstance(layout, Layout):
        return False
    after = layouts.indexed(layout, source, node.args[1])
    if after is None:
        return False
    walk.step(node, layout=after, along="units")
    return True


def divide(walk: Walk, node: Node) -> bool:
    """`chunk`, `split` and `unbind` along other dimensions."""
    source, layout = _source(walk, node)
    dim = node.argument(1 if node.called == "unbind" else 2, "dim", 0)
    shapes = {tuple(value.shape) for value in node.value} if isinstance(node.value, tuple | list) else set()
    if layout is None or type(dim) is not int or source.shape is None or not shapes:
        return False
    dim %= len(source.shape)
    if dim == layout.dim:
        return False
    after = Layout(layout.dim - (node.called == "unbind" and dim < layout.dim), layout.parts)
    walk.step(node, layout=Several(after), along="units")
    return True


def concatenate(walk: Walk, node: Node) -> bool:
    """Branches split along one dimension, and those that are whole cut along it too."""
    branches, dim = node.argument(0, "tensors"), node.argument(1, "dim", 0)
    if not isinstance(branches, tuple | list) or type(dim) is not int or node.shape is None:
        return False
    if not all(isinstance(branch, Node) and branch.shape is not None for branch in branches):
        return False
    found = [walk.layout(branch) for branch in branches]
    first = next((layout for layout in found if layout is not None), None)
    if not isinstance(first, Layout) or any(len(branch.shape) != len(branches[0].shape) for branch in branches):
        return False
    stacks, dim = node.called == "stack", dim % len(node.shape)
    if dim != first.dim or stacks:
        after = Layout(first.dim + (stacks and dim <= first.dim), first.parts)
        walk.step(node, lambda branch: walk.part(branch, first), layout=after, along="units")
        return True
    wanted: dict[Node, Layout] = {}
    for branch, layout in zip(branches, found, strict=True):
        alike = isinstance(layout, Layout) and layout.dim == dim
        wanted[branch] = layout if alike else even_layout(dim, branch.shape[dim], walk.world_size)
        if not all(wanted[branch].counts):
            return False
    after = layouts.concatenated([wanted[branch] for branch in branches], [branch.shape[dim] for branch in branches])
    walk.step(node, lambda branch: walk.part(branch, wanted[branch]), layout=after, along="units")
    return True


def expand(walk: Walk, node: Node) -> bool:
    """To more images or places: the sizes in its arguments name the whole of the split dimension."""
    source, layout = _source(walk, node)
    given = node.args[1:]
    sizes = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else list(given)
    if layout is None or node.shape is None or source.shape is None or node.kwargs or len(sizes) != len(node.shape):
        return False
    after = layouts.broadcast(layout, source.shape, node.shape)
    if after is None:
        return False
    sizes[after.dim] = -1
    walk.step(node, layout=after, along="units", args=(source, *sizes))
    return True


def pad(walk: Walk, node: Node) -> bool:
    """Of the last dimensions."""
    source, layout = _source(walk, node)
    widths = node.argument(1, "pad")
    if layout is None or source.shape is None or not isinstance(widths, tuple | list):
        return False
    if layout.dim >= len(source.shape) - len(widths) // 2:
        return False
    walk.step(node, layout=layout, along="units")
    return True


def by_maps(walk: Walk, node: Node) -> bool:
    """What looks at each map alone, as pooling does."""
    source, layout = _source(walk, node)
    if layout is None or not has_maps(source) or layout.dim != 1 or node.shape is None:
        return False
    walk.step(node, layout=layout, along="units")
    return True


def has_maps(node: Node) -> bool:
    """Is it images of maps: (batch, maps, ...)?"""
    return node.shape is not None and len(node.shape) > 2 and node.images_dim == 0


def multiply(walk: Walk, node: Node) -> bool:
    """Products of matrices, and attention, of which each rank has some: split alike along a dimension before these."""
    split = [taken for taken in node.inputs if walk.layout(taken) is not None]
    if not split or node.shape is None or node.argument(3, "attn_mask") is not None or node.argument(4, "dropout_p"):
        return False
    layout, size = walk.layout(split[0]), len(node.shape)
    if not isinstance(layout, Layout) or layout.dim >= size - 2:
        return False
    if any(taken.shape is None or len(taken.shape) != size for taken in node.inputs):
        return False
    if any(taken.shape[layout.dim] != layout.whole for taken in node.inputs if taken.shape):
        return False
    walk.step(node, lambda taken: walk.part(taken, layout), layout=layout, along="units")
    return True


def _source(walk: Walk, node: Node) -> tuple[Any, Layout | None]:
    """The first argument, and how it is split; None if it is not, or if others are too."""
    source = node.args[0] if node.args else None
    layout = walk.layout(source)
    if not isinstance(layout, Layout) or any(
        walk.layout(taken) is not None for taken in node.inputs if taken is not source
    ):
        return source, None
    return source, layout
