"""The strategies' formulas: what each rank holds of every layer, and sends for it, of float32 numbers of 4 bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, nn

from dlkit.core.evaluation import eval_no_grad
from dlkit.core.slices import Slice, slice_of
from dlkit.distributed.group import ring_bytes
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.locally_connected import LocallyConnected2d
from dlkit.models.rbm import RBM
from dlkit.strategies.base import kind
from dlkit.strategies.hybrid import behind_convolutions
from dlkit.strategies.pipeline.partition import best_cut, cut_at_weights, weigh
from dlkit.strategies.spatial.halo import overlap
from dlkit.strategies.spatial.spatial_parallel import chain, plan
from dlkit.strategies.tensor.layers import BY_MAPS, ELEMENTWISE


@dataclass
class LayerCost:
    """One layer on one rank, in bytes; `forward`, `backward` and `exchanged` (gradients) are sent in a step.

    `part` is what the rank computes, along `along`: of the "images" of a batch, of the "units" or maps that the layer
    gives, of the "inputs" that it adds up, of the "rows" of its maps; or of the "layer": all of it or nothing.
    `images`: those of a batch that it computes for, where they are not all.
    `gives`: the shape of its whole output for an image. `activations`: what the rank makes of that for the batch.
    `whole`: the parameters of the whole layer, of which `parameters` are here.
    """

    name: str
    kind: str
    gives: tuple[int, ...]
    along: str
    part: Slice
    whole: int
    parameters: int
    activations: int
    forward: int = 0
    backward: int = 0
    exchanged: int = 0
    images: Slice | None = None

    @property
    def bytes_sent(self) -> int:
        return self.forward + self.backward + self.exchanged


class Step(NamedTuple):
    """A module that is no chain itself, with the shapes of what it is given and gives for one image."""

    name: str
    module: nn.Module
    given: tuple[int, ...]
    gives: tuple[int, ...]
    learns: bool  # what it is given has a gradient that something is learned from


def steps(net: nn.Module, image: Tensor) -> list[Step]:
    found, x, learns = [], image, False
    with eval_no_grad(net):
        for name, module in chain(net):
            given, x = tuple(x.shape[1:]), module(x)
            found.append(Step(name, module, given, tuple(x.shape[1:]), learns))
            learns = learns or any(p.requires_grad for p in module.parameters())
    return found


def item(step: Any, along: str, part: Slice, parameters: int, activations: int) -> LayerCost:
    return LayerCost(step.name, kind(step.module), step.gives, along, part, size(step.module), parameters, activations)


def size(module: nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(p.nbytes for p in module.parameters())


def by_data(net: nn.Module, image: Tensor, batch: int, world_size: int) -> list[list[LayerCost]]:
    """All layers, for a part of the images; gradients go round a ring."""
    found: list[list[LayerCost]] = []
    for rank in range(world_size):
        found.append([whole_for(step, slice_of(batch, rank, world_size), world_size) for step in steps(net, image)])
    return found


def whole_for(step: Step, images: Slice, world_size: int) -> LayerCost:
    """All of a layer, for some images."""
    one = item(step, "images", images, size(step.module), 4 * prod(step.gives) * images.count)
    one.images = images
    one.exchanged = ring_bytes(sum(p.nbytes for p in step.module.parameters() if p.requires_grad), world_size, 2)
    return one


def by_neurons(net: nn.Module, image: Tensor, batch: int, world_size: int) -> list[list[LayerCost]]:
    """Some units or maps of each layer, for all images."""
    return neurons_of(steps(net, image), net, batch, world_size)


def neurons_of(everything: list[Step], net: nn.Module, batch: int, world_size: int) -> list[list[LayerCost]]:
    """As `by_neurons`, of these layers of the net; what comes to them is whole."""
    found: list[list[LayerCost]] = [[] for _ in range(world_size)]
    split: int | None = None  # how many units or maps of what comes are dealt out, if they are
    for step in everything:
        module, values = step.module, 4 * prod(step.gives) * batch
        outputs = outputs_of(module) if outputs_of(module) >= world_size else 0
        backward = ring_bytes(4 * prod(step.given) * batch, world_size, 2) if step.learns else 0
        for rank, items in enumerate(found):
            whole = item(step, "layer", Slice(0, 1, 1), size(module), values)
            gathered = 0 if split is None else gather_bytes(split, 4 * prod(step.given) * batch, world_size)
            if isinstance(module, nn.Linear) and split is not None and len(step.given) == 1:  # by inputs
                part, bias = slice_of(split, rank, world_size), 0 if module.bias is None else module.bias.nbytes
                one = item(step, "inputs", part, module.weight.nbytes * part.count // split + bias, values)
                one.forward = ring_bytes(values, world_size, 2)
            elif outputs:
                part = slice_of(outputs, rank, world_size)
                one = item(step, "units", part, part_size(module, part), values * part.count // outputs)
                one.forward, one.backward = gathered, backward
            elif split is not None and passes(module, step.given):
                part = slice_of(split, rank, world_size)
                one = item(step, "units", part, size(module) * part.count // split, values * part.count // split)
            else:
                one, whole.forward = whole, gathered
            items.append(one)
        along = found[0][-1].along
        split = {"units": outputs or split, "inputs": None, "layer": None}[along]
    if split is not None:
        for items in found:
            items[-1].forward += gather_bytes(split, 4 * prod(everything[-1].gives) * batch, world_size)
    if all(one.along == "layer" for one in found[0]):
        raise ValueError(
            f"no layer of this {kind(net)} has as many outputs as there are ranks, {world_size}: use fewer."
        )
    return found


def outputs_of(module: nn.Module) -> int:
    """The units or maps that a layer can be split by; 0 if it cannot."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return module.out_channels
    return module.out_maps if isinstance(module, SparseConv2d) else 0


def part_size(module: nn.Module, part: Slice) -> int:
    """Bytes of the parameters of these outputs."""
    if isinstance(module, SparseConv2d):
        kernels = sum(len(row) for row in module.table[part.start : part.stop])
        return 4 * (kernels * module.size**2 + part.count)
    return size(module) * part.count // part.whole


def passes(module: nn.Module, given: tuple[int, ...]) -> bool:
    """Does it work on whichever units or maps are here?"""
    if isinstance(module, (*BY_MAPS, Subsample, nn.Flatten)):
        return len(given) == 3
    return isinstance(module, ELEMENTWISE)


def gather_bytes(count: int, whole: int, world_size: int) -> int:
    """What a rank sends of `whole` bytes in `count` equal pieces, when all gather them: the largest part, n-1 times."""
    return (world_size - 1) * -(-count // world_size) * whole // count


def by_region(net: nn.Module, image: Tensor, batch: int, world_size: int) -> list[list[LayerCost]]:
    """Some rows of every map; from the first layer on that sees whole maps, every rank computes the same."""
    layers = plan(net, image[:1], world_size)
    found: list[list[LayerCost]] = [[] for _ in range(world_size)]
    end = max(number for number, layer in enumerate(layers) if layer.own)
    for number, (layer, step) in enumerate(zip(layers, steps(net, image), strict=True)):
        rows = range(layer.gives[1]) if layer.own else range(1)
        a_row = 4 * batch * layer.given[0] * layer.given[2] if len(layer.given) == 3 else 0
        for rank, items in enumerate(found):
            own = layer.own[rank] if layer.own else rows
            untied = isinstance(layer.module, LocallyConnected2d) and layer.own is not None
            held = size(layer.module) * len(own) // len(rows) if untied else size(layer.module)
            made = 4 * prod(layer.gives) * batch * len(own) // len(rows)
            one = item(layer, "rows" if layer.own else "layer", Slice(own.start, own.stop, len(rows)), held, made)
            if layer.have is not None and layer.own is None:
                one.forward = gather_rows_bytes(layer.have, a_row)
            elif layer.have is not None and layer.windows is not None:
                need, others = layer.need(), [other for other in range(world_size) if other != rank]
                one.forward = a_row * sum(len(overlap(layer.have[rank], need[other])) for other in others)
                lacked = sum(len(overlap(need[rank], layer.have[other])) for other in others)
                one.backward = a_row * lacked if step.learns else 0
            if number <= end and not untied:
                one.exchanged = ring_bytes(sum(p.nbytes for p in layer.module.parameters()), world_size, 2)
            items.append(one)
    if layers[-1].own is not None:
        maps, _, width = layers[-1].gives
        for items in found:
            items[-1].forward += gather_rows_bytes(layers[-1].own, 4 * batch * maps * width)
    return found


def gather_rows_bytes(have: list[range], a_row: int) -> int:
    return (len(have) - 1) * max(len(rows) for rows in have) * a_row


def by_layers(net: nn.Module, image: Tensor, batch: int, world_size: int) -> list[list[LayerCost]]:
    """Some layers that follow one another; activations go to the next rank, and gradients to the one before."""
    blocks = cut_at_weights(net)
    if len(blocks) < world_size:
        raise ValueError(
            f"{world_size} ranks need a layer with weights each, and this {kind(net)} has {len(blocks)}: "
            "use fewer ranks."
        )
    begins = [blocks[place][0][0] for place in best_cut(weigh(blocks, image)[0], world_size)]
    found: list[list[LayerCost]] = [[] for _ in range(world_size)]
    stage = 0
    for step in steps(net, image):
        begin, crossing = step.name in begins, 4 * prod(step.given) * batch
        if begin:
            found[stage][-1].forward = crossing
            stage += 1
        for rank, items in enumerate(found):
            here = rank == stage
            part = Slice(0, int(here), 1)
            one = item(step, "layer", part, here * size(step.module), here * 4 * prod(step.gives) * batch)
            one.backward = crossing if here and begin else 0
            items.append(one)
    return found


def by_hybrid(net: nn.Module, image: Tensor, batch: int, world_size: int) -> list[list[LayerCost]]:
    """Two replicas, each for half of the images and split by neurons; every part's gradients go round both."""
    found = []
    for replica in range(REPLICAS):
        images = slice_of(batch, replica, REPLICAS)
        taken = max(images.count, 1)  # a replica that has none takes an image that does not count
        for items in by_neurons(net, image, taken, in_a_replica(world_size)):
            for one, step in zip(items, steps(net, image), strict=True):
                trained = sum(p.nbytes for p in step.module.parameters() if p.requires_grad)
                one.images = images
                one.exchanged = ring_bytes(one.parameters * trained // max(one.whole, 1), REPLICAS, 2)
            found.append(items)
    return found


REPLICAS = 2


def in_a_replica(world_size: int) -> int:
    """ValueError unless two replicas of two or more ranks make so many."""
    if world_size % REPLICAS or world_size < 2 * REPLICAS:
        raise ValueError(f"two replicas that are split themselves need 4, 6, 8, ... ranks, and there are {world_size}.")
    return world_size // REPLICAS


def by_weird_trick(net: nn.Module, image: Tensor, batch: int, world_size: int) -> list[list[LayerCost]]:
    """Convolutions by data; all images' features gathered; what is behind them by neurons."""
    first, everything = next(iter(behind_convolutions(net))), steps(net, image)
    cut = next(place for place, step in enumerate(everything) if step.name.split(".")[0] == first)
    behind = neurons_of(everything[cut:], net, batch, world_size)
    features = 4 * prod(everything[cut].given)
    found = []
    for rank, items in enumerate(behind):
        next(one for one in items if one.parameters).forward += gather_bytes(batch, features * batch, world_size)
        found.append(
            [whole_for(step, slice_of(batch, rank, world_size), world_size) for step in everything[:cut]] + items
        )
    return found


def of_rbm(rbm: RBM, batch: int, world_size: int, how: str) -> list[list[LayerCost]]:
    """By data, by hidden units, of which partial sums of the visible units' inputs are added up, or by both."""
    if how not in ("data", "neurons", "hybrid"):
        raise ValueError(f"{kind(rbm)} has one layer, and no maps: it is split by data, by neurons, or by both.")
    across = {"data": 1, "neurons": world_size}.get(how) or in_a_replica(world_size)
    replicas = world_size // across
    if rbm.hidden < across:
        raise ValueError(f"{rbm.hidden} hidden units for {across} ranks: give each at least one.")
    found = []
    for rank in range(world_size):
        images, units = slice_of(batch, rank // across, replicas), slice_of(rbm.hidden, rank % across, across)
        held = size(rbm) - 4 * (rbm.visible + 1) * (rbm.hidden - units.count)
        along, part = ("images", images) if how == "data" else ("units", units)
        one = LayerCost("W", kind(rbm), (rbm.hidden,), along, part, size(rbm), held, 4 * images.count * units.count)
        one.images = images if replicas > 1 else None
        one.forward = ring_bytes(4 * images.count * rbm.visible, across, 2)
        one.exchanged = ring_bytes(held, replicas, 2)
        found.append([one])
    return found


WAYS: dict[str, Callable[[nn.Module, Tensor, int, int], list[list[LayerCost]]]] = {
    "data": by_data,
    "neurons": by_neurons,
    "region": by_region,
    "layers": by_layers,
    "hybrid": by_hybrid,
    "weird trick": by_weird_trick,
}
