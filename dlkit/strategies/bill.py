"""What a split costs, on paper: what each rank holds of every layer, and what it sends for it in a step.

The formulas of the strategies, for float32 numbers of 4 bytes; no process group is needed, and nothing is sent.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlkit import cells
from dlkit.cluster.collectives import ring_bytes
from dlkit.cluster.halo import overlap
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.draws import Part, part_of
from dlkit.models.modes import looking
from dlkit.models.rbm import RBM
from dlkit.models.receptive import LocallyConnected2d
from dlkit.strategies.spatial_parallel import chain, plan
from dlkit.strategies.split_layers import BY_MAPS, ELEMENTWISE
from dlkit.strategies.stage_cuts import best_cut, cut_at_weights, weigh
from dlkit.strategies.together import kind

COLUMNS = ("rank", "parameters", "gradients", "activations", "forward", "backward", "for gradients", "sent in all")


@dataclass
class Item:
    """One layer on one rank, in bytes; `forward`, `backward` and `exchanged` (gradients) are sent in a step.

    `part` is what the rank computes, along `along`: of the "images" of a batch, of the "units" or maps that the layer
    gives, of the "inputs" that it adds up, of the "rows" of its maps; or of the "layer": all of it or nothing.
    `gives`: the shape of its whole output for an image. `activations`: what the rank makes of that for the batch.
    `whole`: the parameters of the whole layer, of which `parameters` are here.
    """

    name: str
    kind: str
    gives: tuple[int, ...]
    along: str
    part: Part
    whole: int
    parameters: int
    activations: int
    forward: int = 0
    backward: int = 0
    exchanged: int = 0

    @property
    def sent(self) -> int:
        return self.forward + self.backward + self.exchanged


@dataclass(frozen=True)
class Bill:
    """What each rank holds and sends, layer by layer: `items[rank][layer]`; shown, a table of the ranks' sums."""

    how: str
    batch: int
    items: list[list[Item]] = field(repr=False)

    def total(self, rank: int, *names: str) -> int:
        """Of a rank, the sum over its layers of these fields of `Item`."""
        return sum(getattr(item, name) for item in self.items[rank] for name in names)

    def sent(self, rank: int) -> int:
        """Bytes that the rank sends in a step."""
        return self.total(rank, "sent")

    def held(self, rank: int) -> int:
        """Bytes of parameters and gradients; an optimizer's momentum is as much again as the parameters."""
        return 2 * self.total(rank, "parameters")

    def _cells(self) -> list[list[str]]:
        fields = ("parameters", "parameters", "activations", "forward", "backward", "exchanged", "sent")
        return [
            [str(rank), *(cells.of_bytes(self.total(rank, name)) for name in fields)] for rank in range(len(self.items))
        ]

    def __repr__(self) -> str:
        return cells.as_text(COLUMNS, self._cells())

    def _repr_html_(self) -> str:
        return cells.as_html(COLUMNS, self._cells())


class Step(NamedTuple):
    """A module that is no chain itself, with the shapes of what it is given and gives for one image."""

    name: str
    module: nn.Module
    given: tuple[int, ...]
    gives: tuple[int, ...]
    learns: bool  # what it is given has a gradient that something is learned from


def bill(net: nn.Module, image_shape: tuple[int, ...], batch: int, ranks: int, how: str) -> Bill:
    """What `net` costs each of `ranks` for batches of `batch` images of this shape, split as `how` says.

    how: "data" (DataParallel), "neurons" (TensorParallel), "region" (SpatialParallel) or "layers" (Pipeline, whose
    activations are those of all microbatches: fewer are kept at a time by 1F1B). Of an RBM one Gibbs step is counted,
    CD-1's. The few bytes of reports that some strategies send, as DataParallel the loss, are left out.
    ValueError for another `how`, fewer than 2 ranks, and, with the reason, for nets that cannot be split so.
    """
    if how not in WAYS:
        raise ValueError(f'how="{how}": it is one of {", ".join(WAYS)}.')
    if ranks < 2 or batch < 1:
        raise ValueError(f"{ranks} ranks and a batch of {batch}: at least 2 and 1.")
    net, image = deepcopy(net).cpu(), torch.zeros(2, *image_shape)
    if isinstance(net, RBM):
        return Bill(how, batch, of_rbm(net, batch, ranks, how))
    if not isinstance(net, nn.Sequential) or type(net).forward is not nn.Sequential.forward:
        raise ValueError(f"{kind(net)} is no nn.Sequential, so that its layers have no order: `bill` is for chains.")
    found = WAYS[how](net, image, batch, ranks)
    return Bill(how, batch, [joined(items) for items in found])


def steps(net: nn.Module, image: Tensor) -> list[Step]:
    found, x, learns = [], image, False
    with looking(net):
        for name, module in chain(net):
            given, x = tuple(x.shape[1:]), module(x)
            found.append(Step(name, module, given, tuple(x.shape[1:]), learns))
            learns = learns or any(p.requires_grad for p in module.parameters())
    return found


def item(step: Any, along: str, part: Part, parameters: int, activations: int) -> Item:
    return Item(step.name, kind(step.module), step.gives, along, part, size(step.module), parameters, activations)


def joined(items: list[Item]) -> list[Item]:
    """Without what has no weights and no windows, such as an activation: what it sends counts for the layer before."""
    found: list[Item] = []
    for one in items:
        if one.kind in LAYERS or one.parameters or not found:
            found.append(one)
            continue
        found[-1].forward += one.forward
        found[-1].backward += one.backward
    return found[1:] if len(found) > 1 and found[0].kind not in LAYERS and not found[0].parameters else found


LAYERS = ("Conv2d", "SparseConv2d", "Subsample", "MaxPool2d", "AvgPool2d", "LocallyConnected2d", "L2Pool", "Linear")
LAYERS += ("RBFOutput",)


def size(module: nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(p.nbytes for p in module.parameters())


def by_data(net: nn.Module, image: Tensor, batch: int, ranks: int) -> list[list[Item]]:
    """All layers, for a part of the images; gradients go round a ring."""
    found: list[list[Item]] = []
    for rank in range(ranks):
        part = part_of(batch, rank, ranks)
        found.append([])
        for step in steps(net, image):
            one = item(step, "images", part, size(step.module), 4 * prod(step.gives) * part.count)
            one.exchanged = ring_bytes(sum(p.nbytes for p in step.module.parameters() if p.requires_grad), ranks, 2)
            found[-1].append(one)
    return found


def by_neurons(net: nn.Module, image: Tensor, batch: int, ranks: int) -> list[list[Item]]:
    """Some units or maps of each layer, for all images."""
    found: list[list[Item]] = [[] for _ in range(ranks)]
    split: int | None = None  # how many units or maps of what comes are dealt out, if they are
    everything = steps(net, image)
    for step in everything:
        module, values = step.module, 4 * prod(step.gives) * batch
        outputs = outputs_of(module) if outputs_of(module) >= ranks else 0
        backward = ring_bytes(4 * prod(step.given) * batch, ranks, 2) if step.learns else 0
        for rank, items in enumerate(found):
            whole = item(step, "layer", Part(0, 1, 1), size(module), values)
            gathered = 0 if split is None else gather_bytes(split, 4 * prod(step.given) * batch, ranks)
            if isinstance(module, nn.Linear) and split is not None and len(step.given) == 1:  # by inputs
                part, bias = part_of(split, rank, ranks), 0 if module.bias is None else module.bias.nbytes
                one = item(step, "inputs", part, module.weight.nbytes * part.count // split + bias, values)
                one.forward = ring_bytes(values, ranks, 2)
            elif outputs:
                part = part_of(outputs, rank, ranks)
                one = item(step, "units", part, part_size(module, part), values * part.count // outputs)
                one.forward, one.backward = gathered, backward
            elif split is not None and passes(module, step.given):
                part = part_of(split, rank, ranks)
                one = item(step, "units", part, size(module) * part.count // split, values * part.count // split)
            else:
                one, whole.forward = whole, gathered
            items.append(one)
        along = found[0][-1].along
        split = {"units": outputs or split, "inputs": None, "layer": None}[along]
    if split is not None:
        for items in found:
            items[-1].forward += gather_bytes(split, 4 * prod(everything[-1].gives) * batch, ranks)
    if all(one.along == "layer" for one in found[0]):
        raise ValueError(f"no layer of this {kind(net)} has as many outputs as there are ranks, {ranks}: use fewer.")
    return found


def outputs_of(module: nn.Module) -> int:
    """The units or maps that a layer can be split by; 0 if it cannot."""
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.groups == 1:
        return module.out_channels
    return module.out_maps if isinstance(module, SparseConv2d) else 0


def part_size(module: nn.Module, part: Part) -> int:
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


def gather_bytes(count: int, whole: int, ranks: int) -> int:
    """What a rank sends of `whole` bytes in `count` equal pieces, when all gather them: the largest part, n-1 times."""
    return (ranks - 1) * -(-count // ranks) * whole // count


def by_region(net: nn.Module, image: Tensor, batch: int, ranks: int) -> list[list[Item]]:
    """Some rows of every map; from the first layer on that sees whole maps, every rank computes the same."""
    layers = plan(net, image[:1], ranks)
    found: list[list[Item]] = [[] for _ in range(ranks)]
    end = max(number for number, layer in enumerate(layers) if layer.own)
    for number, (layer, step) in enumerate(zip(layers, steps(net, image), strict=True)):
        rows = range(layer.gives[1]) if layer.own else range(1)
        a_row = 4 * batch * layer.given[0] * layer.given[2] if len(layer.given) == 3 else 0
        for rank, items in enumerate(found):
            own = layer.own[rank] if layer.own else rows
            untied = isinstance(layer.module, LocallyConnected2d) and layer.own is not None
            held = size(layer.module) * len(own) // len(rows) if untied else size(layer.module)
            made = 4 * prod(layer.gives) * batch * len(own) // len(rows)
            one = item(layer, "rows" if layer.own else "layer", Part(own.start, own.stop, len(rows)), held, made)
            if layer.have is not None and layer.own is None:
                one.forward = gather_rows_bytes(layer.have, a_row)
            elif layer.have is not None and layer.windows is not None:
                need, others = layer.need(), [other for other in range(ranks) if other != rank]
                one.forward = a_row * sum(len(overlap(layer.have[rank], need[other])) for other in others)
                lacked = sum(len(overlap(need[rank], layer.have[other])) for other in others)
                one.backward = a_row * lacked if step.learns else 0
            if number <= end and not untied:
                one.exchanged = ring_bytes(sum(p.nbytes for p in layer.module.parameters()), ranks, 2)
            items.append(one)
    if layers[-1].own is not None:
        maps, _, width = layers[-1].gives
        for items in found:
            items[-1].forward += gather_rows_bytes(layers[-1].own, 4 * batch * maps * width)
    return found


def gather_rows_bytes(have: list[range], a_row: int) -> int:
    return (len(have) - 1) * max(len(rows) for rows in have) * a_row


def by_layers(net: nn.Module, image: Tensor, batch: int, ranks: int) -> list[list[Item]]:
    """Some layers that follow one another; activations go to the next rank, and gradients to the one before."""
    pieces = cut_at_weights(net)
    if len(pieces) < ranks:
        raise ValueError(
            f"{ranks} ranks need a layer with weights each, and this {kind(net)} has {len(pieces)}: use fewer ranks."
        )
    begins = [pieces[place][0][0] for place in best_cut(weigh(pieces, image)[0], ranks)]
    found: list[list[Item]] = [[] for _ in range(ranks)]
    stage = 0
    for step in steps(net, image):
        begin, crossing = step.name in begins, 4 * prod(step.given) * batch
        if begin:
            found[stage][-1].forward = crossing
            stage += 1
        for rank, items in enumerate(found):
            here = rank == stage
            part = Part(0, int(here), 1)
            one = item(step, "layer", part, here * size(step.module), here * 4 * prod(step.gives) * batch)
            one.backward = crossing if here and begin else 0
            items.append(one)
    return found


def of_rbm(rbm: RBM, batch: int, ranks: int, how: str) -> list[list[Item]]:
    found = []
    for rank in range(ranks):
        images, units = part_of(batch, rank, ranks), part_of(rbm.hidden, rank, ranks)
        if how == "data":
            held, made = size(rbm), 4 * images.count * rbm.hidden
            one = Item("W", kind(rbm), (rbm.hidden,), "images", images, size(rbm), held, made)
            one.exchanged = ring_bytes(held, ranks, 2)
        elif how == "neurons":
            if rbm.hidden < ranks:
                raise ValueError(f"{rbm.hidden} hidden units for {ranks} ranks: give each at least one.")
            held, made = size(rbm) - 4 * (rbm.visible + 1) * (rbm.hidden - units.count), 4 * batch * units.count
            one = Item("W", kind(rbm), (rbm.hidden,), "units", units, size(rbm), held, made)
            one.forward = ring_bytes(4 * batch * rbm.visible, ranks, 2)
        else:
            raise ValueError(f"{kind(rbm)} has one layer, and no maps: it is split by data or by neurons.")
        found.append([one])
    return found


WAYS: dict[str, Callable[[nn.Module, Tensor, int, int], list[list[Item]]]] = {
    "data": by_data,
    "neurons": by_neurons,
    "region": by_region,
    "layers": by_layers,
}
