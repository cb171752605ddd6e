"""Layers in turn, split by output units or maps: what passes between them is whole, or a part on each rank.

Source: Shoeybi et al. 2019, Megatron-LM, §3: a Linear by its outputs ("columns"), the next by its inputs ("rows").
"""

import copy
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.slices import slice_of
from dlkit.distributed.autograd import copy_to_ranks, gather_from_ranks, reduce_from_ranks
from dlkit.distributed.group import Group
from dlkit.models.layer_kinds import UNKNOWN, LayerKind, kind_of
from dlkit.models.sequence import has_hooks, is_sequential, modules_of, refuse_shared_parameters
from dlkit.strategies.checks import class_name


class Sharding(NamedTuple):
    """How a tensor is split: rank r has `counts[r]` of the units along `dim`."""

    dim: int
    counts: list[int]


Shardings = dict[str, Sharding]  # by the name of a parameter


def even_sharding(dim: int, whole: int, group: Group) -> Sharding:
    """Nearly equal parts, the larger ones first."""
    return Sharding(dim, [slice_of(whole, rank, group.world_size).count for rank in range(group.world_size)])


def shard_of(whole: Tensor, sharding: Sharding, group: Group) -> Tensor:
    """This rank's part, in memory of its own."""
    start, count = sum(sharding.counts[: group.rank]), sharding.counts[group.rank]
    return whole.narrow(sharding.dim, start, count).clone()


def keep_shard(module: nn.Module, name: str, sharding: Sharding, group: Group) -> None:
    """Leave the module this rank's part of a parameter."""
    whole = getattr(module, name)
    shard = shard_of(whole.detach(), sharding, group)
    setattr(module, name, nn.Parameter(shard, requires_grad=whole.requires_grad))


def split_net(net: nn.Module, group: Group) -> Shardings:
    """Leave the net this rank's part of each layer in an nn.Sequential that can be split by outputs (`layer_kinds`).

    The net's input and output are whole, as before. Layers with fewer outputs than there are ranks stay whole, as does
    all that is not known; a Linear behind one that is split has a part of its inputs, and all outputs.
    ValueError where that leaves nothing to split, or where two layers share a parameter.
    """
    refuse_shared_parameters(net, "of which two layers would take different parts")
    splitter = LayerSplitter(group)
    splitter.split_module("", net)
    if not splitter.shardings and splitter.too_small:
        raise ValueError(
            f"no layer of this {class_name(net)} has as many outputs as there are ranks, {group.world_size} "
            f"({splitter.too_small[0]} has fewer): use fewer ranks, or DataParallel."
        )
    if not splitter.shardings:
        raise ValueError(
            f"{class_name(net)} has no Linear or Conv2d in an nn.Sequential, and what a forward of its own does "
            "between "
            "layers cannot be seen: put layers that follow each other into one, or use DataParallel."
        )
    return splitter.shardings


class LayerSplitter:
    """Goes along the layers of nn.Sequentials and splits them.

    `shardings` says how parameters are split, `too_small` which layers have fewer outputs than there are ranks.
    Where a method has an argument `sharding`, it says how the layer's input is split; None if it is whole.
    """

    def __init__(self, group: Group):
        self.group = group
        self.shardings: Shardings = {}
        self.too_small: list[str] = []
        self.seen: set[int] = set()

    def split_module(self, path: str, module: nn.Module) -> None:
        """Split an nn.Sequential, or those in a module with a forward of its own; input and output stay whole."""
        if not is_sequential(module):
            for name, child in module.named_children():
                self.split_module(joined(path, name), child)
            return
        sharding, last = None, None
        for name, layer in modules_of(module, "TensorParallel"):
            if id(layer) in self.seen:  # one activation at several positions: each is to have its own hooks
                layer = copy.deepcopy(layer)
            self.seen.add(id(layer))
            last, sharding = self.split_layer(joined(path, name), layer, sharding)
            module.set_submodule(name, last)
        if sharding is not None:
            assert last is not None  # it was split
            last.register_forward_hook(partial(gather_output, sharding=sharding, group=self.group))

    def split_layer(self, path: str, layer: nn.Module, sharding: Sharding | None) -> tuple[nn.Module, Sharding | None]:
        """What takes the layer's place, and how its output is split."""
        kind = UNKNOWN if has_hooks(layer) else kind_of(layer)
        if kind.elementwise:
            return layer, sharding
        if kind.outputs(layer):
            if isinstance(layer, nn.Linear) and sharding is not None and sharding.dim == -1:
                return self.split_inputs(path, layer, sharding), None
            return layer, self.split_outputs(path, layer, kind, sharding)
        if sharding is not None and sharding.dim == 1:
            if kind.by_maps:
                self.narrow(path, layer, kind, sharding.counts)
                return layer, sharding
            if kind.flattens(layer):
                return layer, Sharding(-1, sharding.counts)  # whole maps, one after another
        self.gather_input(layer, sharding, is_split=False)
        self.split_module(path, layer)
        return layer, None

    def split_outputs(self, path: str, layer: nn.Module, kind: LayerKind, sharding: Sharding | None) -> Sharding | None:
        """Leave the layer some of its outputs, for all of its inputs."""
        outputs = kind.outputs(layer)
        if outputs < self.group.world_size:
            self.too_small.append(path or class_name(layer))
            self.gather_input(layer, sharding, is_split=False)
            return None
        self.gather_input(layer, sharding, is_split=True)
        output_sharding = even_sharding(kind.output_dim, outputs, self.group)
        self.narrow(path, layer, kind, output_sharding.counts)
        return output_sharding

    def narrow(self, path: str, layer: nn.Module, kind: LayerKind, counts: list[int]) -> None:
        """Leave the layer this rank's outputs, of which rank r has `counts[r]`, and their rows of its parameters."""
        start = sum(counts[: self.group.rank])
        for name, _ in list(layer.named_parameters(recurse=False)):
            self.keep(path, layer, name, Sharding(0, rows_of_outputs(kind.rows(layer, name), counts)))
        kind.narrow(layer, start, start + counts[self.group.rank])

    def split_inputs(self, path: str, linear: nn.Linear, sharding: Sharding) -> nn.Linear:
        """In the Linear's place one that takes the inputs that are on this rank."""
        per_unit = linear.in_features // sum(sharding.counts)  # the values of a map
        inputs = Sharding(1, [count * per_unit for count in sharding.counts])
        row_parallel = RowParallelLinear(linear, self.group)
        self.keep(path, row_parallel, "weight", inputs)
        row_parallel.in_features = inputs.counts[self.group.rank]
        return row_parallel

    def keep(self, path: str, layer: nn.Module, name: str, sharding: Sharding) -> None:
        """Leave the layer its part of a parameter, and note how that is split."""
        assert getattr(layer, name).shape[sharding.dim] == sum(sharding.counts)
        keep_shard(layer, name, sharding, self.group)
        self.shardings[joined(path, name)] = sharding

    def gather_input(self, layer: nn.Module, sharding: Sharding | None, is_split: bool) -> None:
        """Let the layer have its whole input; if it is split itself, the gradients of its input are summed."""
        if sharding is not None or is_split:
            hook = partial(whole_input, sharding=sharding, is_split=is_split, group=self.group)
            layer.register_forward_pre_hook(hook)


def rows_of_outputs(rows: list[int] | None, counts: list[int]) -> list[int]:
    """How many rows of a parameter each rank has, that has `counts[rank]` outputs of `rows` each (None: one each)."""
    if rows is None:
        return counts
    starts = [sum(counts[:rank]) for rank in range(len(counts))]
    return [sum(rows[start : start + count]) for start, count in zip(starts, counts, strict=True)]


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def gathered(x: Tensor, sharding: Sharding, group: Group) -> Tensor:
    per_unit = x.shape[sharding.dim] // sharding.counts[group.rank]
    return gather_from_ranks(x, [count * per_unit for count in sharding.counts], sharding.dim, group)


def whole_input(module: nn.Module, args: tuple, *, sharding: Sharding | None, is_split: bool, group: Group) -> tuple:
    """A hook that gathers a module's input; if the module is split, it sums the gradients of all ranks' parts."""
    x = args[0] if sharding is None else gathered(args[0], sharding, group)
    return (copy_to_ranks(x, group) if is_split else x, *args[1:])


def gather_output(module: nn.Module, args: tuple, output: Tensor, *, sharding: Sharding, group: Group) -> Tensor:
    return gathered(output, sharding, group)


class RowParallelLinear(nn.Linear):
    """A Linear with some of its inputs on this rank: the products of all ranks are summed, and then the bias added."""

    def __init__(self, linear: nn.Linear, group: Group):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.group, self.training = linear.weight, linear.bias, group, linear.training

    def forward(self, input: Float[Tensor, "*batch part"]) -> Float[Tensor, "*batch outputs"]:
        if self.bias is None:
            return reduce_from_ranks(F.linear(input, self.weight), self.group)
        zero = torch.zeros_like(self.bias)  # `fast_linear` takes products with a bias
        return reduce_from_ranks(F.linear(input, self.weight, zero), self.group) + self.bias


def gather_shards(name: str, shard: Tensor, shardings: Shardings, group: Group) -> Tensor:
    """The whole parameter, or what is kept beside it, of which each rank of the group has a part."""
    return group.all_gather(shard, shardings[name].counts, shardings[name].dim) if name in shardings else shard


def scatter_whole(name: str, whole: Tensor, shardings: Shardings, group: Group) -> Tensor:
    """This rank's part of a whole parameter, or of what is kept beside it."""
    return shard_of(whole, shardings[name], group) if name in shardings else whole
