"""Spatial parallelism: each rank has a band of rows of every map, and borrows the rows just outside that it sees."""

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch
from dlkit.distributed.autograd import copy_to_ranks
from dlkit.distributed.group import Group, ring_bytes
from dlkit.models.layer_kinds import Windows
from dlkit.models.sequence import Layer, layers_of, refuse_shared_parameters
from dlkit.strategies.base import DistributedShard, unflatten_into
from dlkit.strategies.checks import check_learner, class_name, refuse_batch_statistics, refuse_optimizer
from dlkit.strategies.layer_cost import FLOAT, LayerCost, layer_cost, parameter_bytes, trained_bytes
from dlkit.strategies.spatial.halo import gather_rows, halo_exchange, overlap, rows_of
from dlkit.training.learner import Backprop, Metrics


@dataclass(frozen=True)
class SpatialParallel:
    """Rank r computes the r-th of nearly equal bands of rows of every map, from its own rows and a halo of others'.

    A net's first layers are split so: convolutions, locally connected layers, sub-sampling and pooling, and what works
    position by position. At the first layer that sees whole maps, such as Flatten, their rows are gathered, and from
    there on each rank computes the same. Weights of convolutions are on all ranks, and their gradients, each of a band,
    are summed; of a locally connected layer a rank has the weights of its rows alone.
    A rank sends in a step, with n ranks and numbers of 4 bytes: for each layer but the first, the rows that others
    lack, forward, and the gradients of those that it lacked itself, back: rows x width x maps x batch x 4; where rows
    are gathered, (n-1) times the largest band, forward; and 2 (n-1)/n of the split layers' shared weights.
    Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems.
    """

    def shard(self, run: Any) -> "SpatialShard":
        """ValueError for learners without a backward pass, and for nets and optimizers that cannot be split so."""
        refuse_batch_statistics(run.model, "SpatialParallel")
        check_learner(
            run.learner,
            Backprop,
            "has no net that images go through layer by layer, whose maps SpatialParallel could split: use "
            "DataParallel.",
        )
        return SpatialShard(run)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Some rows of every map; from the first layer on that sees whole maps, every rank computes the same."""
        plan = plan_bands(net, images[:1], world_size)
        ranks: list[list[LayerCost]] = [[] for _ in range(world_size)]
        end = max(number for number, band in enumerate(plan) if band.own)
        for number, band in enumerate(plan):
            layer = band.layer
            row_bytes = FLOAT * batch_size * layer.input_shape[0] * layer.input_shape[-1]
            for rank, costs in enumerate(ranks):
                cost = band_cost(band, rank, batch_size)
                if band.have is not None and band.own is None:
                    cost.forward = gather_rows_bytes(band.have, row_bytes)
                elif band.have is not None and band.windows is not None:
                    need, peers = band.need(), [peer for peer in range(world_size) if peer != rank]
                    cost.forward = row_bytes * sum(len(overlap(band.have[rank], need[peer])) for peer in peers)
                    borrowed = sum(len(overlap(need[rank], band.have[peer])) for peer in peers)
                    cost.backward = row_bytes * borrowed if layer.needs_input_grad else 0
                if number <= end and not band.splits_weights:
                    cost.exchanged = ring_bytes(trained_bytes(layer.module), world_size, passes=2)
                costs.append(cost)
        if plan[-1].own is not None:
            maps, _, width = plan[-1].layer.output_shape
            for costs in ranks:
                costs[-1].forward += gather_rows_bytes(plan[-1].own, FLOAT * batch_size * maps * width)
        return ranks


class SpatialShard(DistributedShard):
    """A net of which this rank computes a band; every batch is here whole."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        self.splits_layers = self.group
        images = Batch(run.data.images[:1].to(run.device))
        inputs = run.learner.inputs(images, ShardedGenerator(run.generator.device))
        self.net = SpatialNet(run.model, inputs, self.group)
        self.model: nn.Module = self.net
        if self.net.splits_weights:
            refuse_optimizer(run.experiment, "SpatialParallel")

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        metrics = self.learner.fill_weighted_grad(self.model, batch, generator)
        self.net.reduce_gradients()
        return metrics

    def gather(self, name: str, part: Tensor) -> Tensor:
        return self.net.gather(name, part)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return self.net.scatter(name, whole)


class Band(NamedTuple):
    """A layer, and which rows of its input (`have`) and output (`own`) each rank has; None where each has all."""

    layer: Layer
    have: list[range] | None
    own: list[range] | None
    windows: Windows | None

    @property
    def splits_weights(self) -> bool:
        """Has a rank the weights of its own rows alone?"""
        return self.own is not None and self.layer.kind.weights == "own"

    def need(self) -> list[range]:
        """The rows of the input that each rank's rows of the output see."""
        assert self.windows is not None
        assert self.own is not None
        image = range(self.layer.input_shape[1])
        return [overlap(self.windows.input_rows(rows), image) for rows in self.own]


def plan_bands(net: nn.Module, images: Tensor, world_size: int) -> list[Band]:
    """The layers of `net`, and who has which rows; `images` (1, ...) are what the net is given, for their shape alone.

    ValueError, with the reason, if there is nothing to split, or if a layer with weights over maps comes after one that
    needs whole maps.
    """
    plan: list[Band] = []
    have, gathers = None, ""
    for layer in layers_of(net, images, "SpatialParallel"):
        kind, module, output = layer.kind, layer.module, layer.output_shape
        windows = kind.windows(module) if len(layer.input_shape) == 3 else None
        sees_all = kind.weights == "shared" and len(output) == 3 and output[1] == 1  # all rows that there are
        if gathers and kind.weights and not sees_all:
            raise ValueError(
                f"{gathers} needs whole maps, and {layer.name}, a {class_name(module)}, is to be split again after it: "
                "SpatialParallel splits layers up to the first that needs whole maps."
            )
        own = None
        if windows is not None and not sees_all and not gathers:
            own = rows_of(output[1], world_size)
        elif have is not None and (kind.elementwise or kind.by_position):
            own = have
        elif have is not None:
            gathers = f"{layer.name}, a {class_name(module)},"
        plan.append(Band(layer, have, own, windows))
        have = own
    split = [band.layer for band in plan if band.own and band.layer.kind.weights]
    if not split:
        raise ValueError(
            f"{class_name(net)} has no layer with maps and weights, a convolution or a locally connected layer, whose "
            "rows SpatialParallel could split: use DataParallel or TensorParallel."
        )
    rows = split[0].output_shape[1]
    if rows < world_size:
        raise ValueError(
            f"the maps of {split[0].name} have {rows} rows, fewer than {world_size} ranks: use at most {rows} engines."
        )
    refuse_shared_parameters(net, "which SpatialParallel cannot split")
    return plan


class SpatialNet(nn.Sequential):
    """`net`, of which this rank of `group` computes a band of every map, from whole images to whole outputs.

    The net's own modules are changed for it. Parameters have the names they had; of those of locally connected
    layers only this rank's rows are here. After a backward pass `reduce_gradients` makes the gradients the whole net's.
    `images`: a batch for its shape.
    """

    def __init__(self, net: nn.Module, images: Tensor, group: Group):
        plan = plan_bands(net, images, group.world_size)
        super().__init__(OrderedDict((name, module) for name, module in net._modules.items() if module is not None))
        self._plan, self._group = plan, group
        self._split: dict[str, list[range]] = {}
        self._shared: list[nn.Parameter] = []  # have gradients of this rank's rows alone
        end = max(number for number, band in enumerate(plan) if band.own)
        for band in plan[: end + 1]:
            module = band.layer.module
            if band.own and band.windows is not None and hasattr(module, "padding"):
                module.padding = (0, 0)  # pyrefly: ignore[bad-argument-type]  a band has none at its inner edges
            if not band.splits_weights:
                self._shared += [p for p in module.parameters() if p.requires_grad]
                continue
            assert band.own is not None
            for name, whole in list(module.named_parameters()):
                path = f"{band.layer.name}.{name}"
                self._split[path] = band.own
                setattr(module, name, nn.Parameter(self.scatter(path, whole.detach()), whole.requires_grad))

    def forward(self, input: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        x = copy_to_ranks(input, self._group)  # where the gradient of the images is wanted, it is all ranks' together
        for band in self._plan:
            if band.have is not None and band.own is None:
                x = gather_rows(x, self._group, band.have)
            whole = band.own is None or band.windows is None
            x = band.layer.module(x) if whole else self.forward_band(x, band)
        rows = self._plan[-1].own
        return x if rows is None else gather_rows(x, self._group, rows)

    def forward_band(
        self, x: Float[Tensor, "batch maps height width"], band: Band
    ) -> Float[Tensor, "batch out_maps high wide"]:
        """This rank's rows of a layer's output, from its rows of the input."""
        windows, layer = band.windows, band.layer
        assert windows is not None
        assert band.own is not None
        if band.have is None and tuple(x.shape[1:]) != layer.input_shape:
            raise ValueError(f"maps of {tuple(x.shape[1:])} for a net that was split for maps of {layer.input_shape}.")
        own, height = band.own[self._group.rank], layer.input_shape[1]
        x = halo_exchange(x, self._group, band.have or [range(height)] * self._group.world_size, band.need())
        if not own:  # no rows, but all that autograd asks of the other ranks too
            empty = x.new_zeros(len(x), layer.output_shape[0], 0, layer.output_shape[2])
            return empty * sum((parameter.sum() for parameter in layer.module.parameters()), x.sum())
        seen = windows.input_rows(own)
        if windows.fill is not None:
            above, below = max(-seen.start, 0), max(seen.stop - height, 0) + windows.unseen
            edges = (*windows.sides, above, below)
            x = F.pad(x, edges, value=windows.fill) if any(edges) else x
        return layer.module(x)[:, :, : len(own)]

    @property
    def splits_weights(self) -> bool:
        """Has a rank only its rows of some parameter?"""
        return bool(self._split)

    def reduce_gradients(self) -> None:
        """Make .grad the whole net's: the sum over all ranks, by one message, where each has that of its rows."""
        gradients = [parameter.grad for parameter in self._shared if parameter.grad is not None]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self._group.all_reduce(flat)
            unflatten_into(flat, gradients)

    def gather(self, name: str, part: Tensor) -> Tensor:
        """The whole of a parameter of this name, or of what is kept beside it."""
        return self._group.all_gather(part, [len(rows) for rows in self._split[name]]) if name in self._split else part

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        """This rank's rows of such a whole, if it is split."""
        if name not in self._split:
            return whole
        rows = self._split[name][self._group.rank]
        return whole[rows.start : rows.stop].clone()


def band_cost(band: Band, rank: int, batch_size: int) -> LayerCost:
    """What a rank has of a layer."""
    layer = band.layer
    rows = range(layer.output_shape[1]) if band.own else range(1)
    own = band.own[rank] if band.own else rows
    parameters = parameter_bytes(layer.module)
    if band.splits_weights:
        parameters = parameters * len(own) // len(rows)
    activations = FLOAT * prod(layer.output_shape) * batch_size * len(own) // len(rows)
    part = Slice(own.start, own.stop, len(rows))
    return layer_cost(layer, "rows" if band.own else "layer", part, parameters, activations)


def gather_rows_bytes(have: list[range], row_bytes: int) -> int:
    """What a rank sends when all gather rows: the largest band, n-1 times."""
    return (len(have) - 1) * max(len(rows) for rows in have) * row_bytes
