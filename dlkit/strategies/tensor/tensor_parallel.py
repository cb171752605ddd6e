"""Tensor parallelism: every rank has some units or maps of each layer, and sees every image."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.slices import Slice, slice_of
from dlkit.distributed.group import Group, ring_bytes
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.rbm import RBM
from dlkit.models.sequence import Layer, layers_of
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.checks import class_name, refuse_optimizer
from dlkit.strategies.layer_cost import FLOAT, LayerCost, gather_bytes, layer_cost, parameter_bytes, rbm_costs
from dlkit.strategies.learner_trial import refuse_passes_of_its_own
from dlkit.strategies.tensor.dtensor import DTensorShard
from dlkit.strategies.tensor.layers import Shardings, gather_shards, rows_of_outputs, scatter_whole, split_net
from dlkit.strategies.tensor.rbm import split_hidden
from dlkit.training.contrastive import CD
from dlkit.training.learner import Backprop, Learner


@dataclass(frozen=True)
class TensorParallel:
    """Each rank has a part of the parameters of a layer, and computes some of its units for the whole batch.

    Nets: Linear layers in turn by outputs and by inputs, so that one sum over ranks serves two of them; convolutions by
    output maps, which are gathered for the next one. RBMs under CD and PCD, and autoassociators: by hidden units.
    using: "dlkit", or "dtensor", torch's own parallelize_module, for chains of Linear layers and an optimizer that is
    not fused; what it sends is not counted.
    Callbacks see a net whose outputs are whole, and of an RBM this rank's hidden units.
    Sources: Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, §2 and §4; Shoeybi et al.
    2019, Megatron-LM, §3.
    """

    using: str = "dlkit"

    def __post_init__(self):
        if self.using not in ("dlkit", "dtensor"):
            raise ValueError(f'using="{self.using}": it is "dlkit" or "dtensor".')

    def shard(self, run: Any) -> DistributedShard:
        """ValueError for models, learners and optimizers that need whole layers, with the reason."""
        refuse_optimizer(run.experiment, "TensorParallel")
        if self.using == "dlkit":
            return TensorParallelShard(run)
        optimizer = run.make_optimizer(run.model)
        if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["fused"]:
            raise ValueError("torch's fused SGD takes no DTensors: give the Experiment optimizer=torch.optim.SGD.")
        if run.trial.plan is not None:
            raise ValueError(
                "a rank cannot keep its part of what a net draws where torch's DTensors have parts of their own: use "
                'TensorParallel(using="dlkit").'
            )
        if not isinstance(run.model, RBM):  # refused below
            refuse_passes_of_its_own(run, "torch's parallelize_module", "leave `using` out")
        return DTensorShard(run)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Some units or maps of each layer, for all images."""
        if isinstance(net, RBM):
            return rbm_costs(net, batch_size, data=1, model=world_size)
        return split_costs(layers_of(net, images, "TensorParallel"), class_name(net), batch_size, world_size)


class TensorParallelShard(DistributedShard):
    """Some units of each layer, and every image."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        self.splits_layers = self.group
        self.model, self.shardings = split_model(self.model, self.learner, self.group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return gather_shards(name, part, self.shardings, self.group)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return scatter_whole(name, whole, self.shardings, self.group)


def split_model(model: nn.Module, learner: Learner, group: Group) -> tuple[nn.Module, Shardings]:
    """The model with this rank's part of its parameters, and how they are split over `group`; it is changed in place.

    ValueError, with the reason, for a model or a learner that cannot be split so.
    """
    if isinstance(model, RBM):
        if not isinstance(learner, CD):
            raise ValueError(
                f"TensorParallel splits an RBM under CD or PCD, and this learner is {class_name(learner)}."
            )
        if learner.centred:
            raise ValueError(
                "centred=True moves each visible bias by the means of all hidden units, and a rank has some of them: "
                "leave it out, or train in one process."
            )
        return model, split_hidden(model, group)
    if not isinstance(learner, Backprop):
        raise ValueError(
            f"{class_name(learner)} trains a {class_name(model)} by passes of its own, which need each layer's units "
            "whole: TensorParallel splits nets under learners that backpropagate a loss (`Backprop` in "
            "dlkit.training), "
            "and RBMs under CD or PCD; DataParallel splits the batch."
        )
    if isinstance(model, Autoassociator):
        return model, split_hidden(model, group)
    return model, split_net(model, group)


def split_costs(layers: list[Layer], net: str, batch_size: int, world_size: int) -> list[list[LayerCost]]:
    """What `split_net` makes of these layers, whose input is whole, of a net of the class `net`."""
    ranks: list[list[LayerCost]] = [[] for _ in range(world_size)]
    split: int | None = None  # how many units or maps of the layer's input are split, if they are
    for layer in layers:
        kind, module = layer.kind, layer.module
        values, inputs = (FLOAT * prod(shape) * batch_size for shape in (layer.output_shape, layer.input_shape))
        outputs = kind.outputs(module) if kind.outputs(module) >= world_size else 0
        gathered = 0 if split is None else gather_bytes(split, inputs, world_size)
        for rank, costs in enumerate(ranks):
            if isinstance(module, nn.Linear) and split is not None and len(layer.input_shape) == 1:  # by inputs
                part, bias = slice_of(split, rank, world_size), 0 if module.bias is None else module.bias.nbytes
                weight = module.weight.nbytes * part.count // split
                cost = layer_cost(layer, "inputs", part, weight + bias, values)
                cost.forward = ring_bytes(values, world_size, passes=2)
            elif outputs:
                part = slice_of(outputs, rank, world_size)
                cost = layer_cost(layer, "units", part, shard_bytes(layer, part), values * part.count // outputs)
                cost.forward = gathered
                cost.backward = ring_bytes(inputs, world_size, passes=2) if layer.needs_input_grad else 0
            elif split is not None and keeps_split(layer):
                part = slice_of(split, rank, world_size)
                parameters = parameter_bytes(module) * part.count // split
                cost = layer_cost(layer, "units", part, parameters, values * part.count // split)
            else:
                cost = layer_cost(layer, "layer", Slice(0, 1, 1), parameter_bytes(module), values)
                cost.forward = gathered
            costs.append(cost)
        split = (outputs or split) if ranks[0][-1].along == "units" else None
    if split is not None:
        for costs in ranks:
            costs[-1].forward += gather_bytes(split, FLOAT * prod(layers[-1].output_shape) * batch_size, world_size)
    if all(cost.along == "layer" for cost in ranks[0]):
        raise ValueError(f"no layer of this {net} has as many outputs as there are ranks, {world_size}: use fewer.")
    return ranks


def shard_bytes(layer: Layer, part: Slice) -> int:
    """Bytes of the parameters of these outputs of a layer."""
    total, counts = 0, [part.start, part.count, part.whole - part.stop]
    for name, parameter in layer.module.named_parameters(recurse=False):
        rows = rows_of_outputs(layer.kind.rows(layer.module, name), counts)
        total += parameter.nbytes * rows[1] // sum(rows)
    return total


def keeps_split(layer: Layer) -> bool:
    """Does it work on whichever units or maps are on a rank?"""
    maps = len(layer.input_shape) == 3
    return layer.kind.elementwise or (maps and (layer.kind.by_maps or bool(layer.kind.flattens(layer.module))))
