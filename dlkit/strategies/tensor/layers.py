"""Layers split by their output units or maps, along a chain: what passes between them is whole, or a part on each rank.

Source: Shoeybi et al. 2019, Megatron-LM, §3: a Linear by its outputs ("columns"), the next by its inputs ("rows").
"""

import copy as copies
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.slices import slice_of
from dlkit.distributed.autograd import copy, gather, reduce
from dlkit.distributed.group import Group
from dlkit.models.convnet import ScaledTanh
from dlkit.models.convolution import SparseConv2d, Subsample, equal_groups
from dlkit.strategies.base import kind

# Value by value, whichever of them are here; map by map.
ELEMENTWISE = (ScaledTanh, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh)
ELEMENTWISE += (nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Dropout)  # that drops nothing: others are refused
BY_MAPS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d)


class Sharding(NamedTuple):
    """How something is split: rank r has `counts[r]` of the units along `dim`."""

    dim: int
    counts: list[int]


Shardings = dict[str, Sharding]


def cut_of(dim: int, whole: int, group: Group) -> Sharding:
    """Nearly equal parts, the larger ones first."""
    return Sharding(dim, [slice_of(whole, rank, group.size).count for rank in range(group.size)])


def own_part(whole: Tensor, cut: Sharding, group: Group) -> Tensor:
    """This rank's part, in memory of its own."""
    return whole.narrow(cut.dim, sum(cut.counts[: group.rank]), cut.counts[group.rank]).clone()


def keep_part(module: nn.Module, name: str, cut: Sharding, group: Group) -> None:
    """Leave the module this rank's part of a parameter."""
    whole = getattr(module, name)
    setattr(module, name, nn.Parameter(own_part(whole.detach(), cut, group), requires_grad=whole.requires_grad))


def split_net(net: nn.Module, group: Group) -> Shardings:
    """Leave the net this rank's part of each Linear, Conv2d and SparseConv2d that stands in a Sequential.

    The net takes and gives what is whole, as before. Layers with fewer outputs than there are ranks stay whole, as does
    all that is not known here; a Linear behind one that is split has a part of its inputs, and all outputs.
    ValueError where that leaves nothing to split, or where two layers share a parameter.
    """
    names: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if id(parameter) in names:
            raise ValueError(
                f"{names[id(parameter)]} and {name} are one parameter, of which two layers would take different parts: "
                "give each its own."
            )
        names[id(parameter)] = name
    walk = LayerSplitter(group)
    walk.whole_to_whole("", net)
    if not walk.layout and walk.small:
        raise ValueError(
            f"no layer of this {kind(net)} has as many outputs as there are ranks, {group.size} ({walk.small[0]} has "
            "fewer): use fewer ranks, or DataParallel."
        )
    if not walk.layout:
        raise ValueError(
            f"{kind(net)} has no Linear or Conv2d in an nn.Sequential, and what a forward of its own does between "
            "layers cannot be seen: put layers that follow each other into one, or use DataParallel."
        )
    return walk.layout


class LayerSplitter:
    """Goes along chains of modules, and splits them: `layout` says which parameters, `small` which layers it could not.

    Each method takes the path to a module and the module, and how its input is split, None if it is whole.
    """

    def __init__(self, group: Group):
        self.group = group
        self.layout: Shardings = {}
        self.small: list[str] = []
        self.seen: set[int] = set()
        self.last: nn.Module | None = None  # the module that what goes along the chain came from

    def whole_to_whole(self, path: str, module: nn.Module) -> None:
        """A chain, or the chains in a module with a forward of its own."""
        if is_chain(module):
            cut = self.chain(path, module, None)
            if cut is not None:
                assert self.last is not None  # it was split
                self.last.register_forward_hook(partial(gather_output, cut=cut, group=self.group))
        else:
            for name, child in module.named_children():
                self.whole_to_whole(joined(path, name), child)

    def chain(self, path: str, chain: nn.Module, cut: Sharding | None) -> Sharding | None:
        for name, child in list(chain._modules.items()):
            assert child is not None
            if id(child) in self.seen:  # one activation at several places: each is to have its own hooks
                child = copies.deepcopy(child)
                setattr(chain, name, child)
            self.seen.add(id(child))
            if is_chain(child):
                cut = self.chain(joined(path, name), child, cut)
            else:
                self.last, cut = self.layer(joined(path, name), child, cut)
                setattr(chain, name, self.last)
        return cut

    def layer(self, path: str, module: nn.Module, cut: Sharding | None) -> tuple[nn.Module, Sharding | None]:
        """What stands in the module's place, and how its output is split."""
        known = type(module)
        if hooked(module):
            known = nn.Module
        if known in ELEMENTWISE or (known in BY_MAPS and cut is not None and cut.dim == 1):
            return module, cut
        if isinstance(module, nn.Linear) and known is nn.Linear:
            if cut is not None and cut.dim == -1:
                return self.rows(path, module, cut), None
            return module, self.outputs(path, module, module.out_features, cut, dim=-1)
        if isinstance(module, nn.Conv2d) and known is nn.Conv2d and module.groups == 1:
            return module, self.outputs(path, module, module.out_channels, cut, dim=1)
        if isinstance(module, SparseConv2d) and known is SparseConv2d:
            return module, self.outputs(path, module, module.out_maps, cut, dim=1)
        if cut is not None and cut.dim == 1:
            if isinstance(module, Subsample) and known is Subsample:
                module.maps = cut.counts[self.group.rank]
                self.keep(path, module, Sharding(0, cut.counts))
                return module, cut
            if isinstance(module, nn.Flatten) and known is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
                return module, Sharding(-1, cut.counts)  # whole maps, one after another
        self.enter(module, cut, splits=False)
        self.whole_to_whole(path, module)
        return module, None

    def outputs(self, path: str, module: Any, count: int, cut: Sharding | None, dim: int) -> Sharding | None:
        """Leave the layer some of its outputs, for all of its inputs."""
        if count < self.group.size:
            self.small.append(path or kind(module))
            self.enter(module, cut, splits=False)
            return None
        self.enter(module, cut, splits=True)
        found = cut_of(dim, count, self.group)
        mine = found.counts[self.group.rank]
        if isinstance(module, SparseConv2d):
            rows, start = iter(module.table), sum(found.counts[: self.group.rank])
            connections = Sharding(0, [sum(len(next(rows)) for _ in range(count)) for count in found.counts])
            module.table = module.table[start : start + mine]
            module.groups = equal_groups(module.table, module.in_maps)
            module._positions = own_part(module._positions, connections, self.group) - start * module.in_maps
            self.keep(path, module, connections, "weight")
            self.keep(path, module, Sharding(0, found.counts), "bias")
            return found
        setattr(module, "out_features" if isinstance(module, nn.Linear) else "out_channels", mine)
        self.keep(path, module, Sharding(0, found.counts))
        return found

    def rows(self, path: str, linear: nn.Linear, cut: Sharding) -> nn.Linear:
        """In the Linear's place one that takes the inputs that are here."""
        unit = linear.in_features // sum(cut.counts)  # the values of a map
        inputs = Sharding(1, [count * unit for count in cut.counts])
        found = RowParallelLinear(linear, self.group)
        self.keep(path, found, inputs, "weight")
        found.in_features = inputs.counts[self.group.rank]
        return found

    def keep(self, path: str, module: nn.Module, cut: Sharding, *names: str) -> None:
        """Leave the module its part of the parameters of these names, by default all, and note that in the layout."""
        for name, parameter in list(module.named_parameters(recurse=False)):
            if name in names or not names:
                assert parameter.shape[cut.dim] == sum(cut.counts)
                keep_part(module, name, cut, self.group)
                self.layout[joined(path, name)] = cut

    def enter(self, module: nn.Module, cut: Sharding | None, splits: bool) -> None:
        if cut is not None or splits:
            module.register_forward_pre_hook(partial(whole_input, cut=cut, splits=splits, group=self.group))


def is_chain(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward and not hooked(module)


def hooked(module: nn.Module) -> bool:
    """What a hook does cannot be seen either."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def gathered(x: Tensor, cut: Sharding, group: Group) -> Tensor:
    unit = x.shape[cut.dim] // cut.counts[group.rank]
    return gather(x, [count * unit for count in cut.counts], cut.dim, group)


def whole_input(module: nn.Module, args: tuple, *, cut: Sharding | None, splits: bool, group: Group) -> tuple:
    """Gather what a module is given; one that is split adds its gradient up."""
    x = args[0] if cut is None else gathered(args[0], cut, group)
    return (copy(x, group) if splits else x, *args[1:])


def gather_output(module: nn.Module, args: tuple, found: Tensor, *, cut: Sharding, group: Group) -> Tensor:
    return gathered(found, cut, group)


class RowParallelLinear(nn.Linear):
    """A Linear with some of its inputs here: the products of all ranks are added up, and then the bias."""

    def __init__(self, linear: nn.Linear, group: Group):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.group, self.training = linear.weight, linear.bias, group, linear.training

    def forward(self, input: Float[Tensor, "*batch part"]) -> Float[Tensor, "*batch outputs"]:
        if self.bias is None:
            return reduce(F.linear(input, self.weight), self.group)
        nothing = torch.zeros_like(self.bias)  # `products.fast_linear` takes products with a bias
        return reduce(F.linear(input, self.weight, nothing), self.group) + self.bias
