"""Data and model parallelism at once: replicas that are split, or each kind of layer split in its own way."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import slice_of
from dlkit.data.batch import Batch
from dlkit.distributed.autograd import copy_to_ranks, gather_from_ranks
from dlkit.distributed.batch_norm import batch_norms
from dlkit.distributed.group import Group, ring_bytes
from dlkit.distributed.process_group import new_group
from dlkit.models.layer_kinds import is_convolutional
from dlkit.models.rbm import RBM
from dlkit.models.sequence import layers_of
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.checks import check_learner, class_name, refuse_exchanges_of_its_own, refuse_optimizer
from dlkit.strategies.data.data_parallel import Buckets
from dlkit.strategies.data.replica import Replica
from dlkit.strategies.layer_cost import FLOAT, LayerCost, gather_bytes, rbm_costs, replicated, trained_bytes
from dlkit.strategies.learner_trial import gradients_are_final, refuse_what_does_not_add_up
from dlkit.strategies.tensor.layers import gather_shards, scatter_whole, split_net
from dlkit.strategies.tensor.tensor_parallel import split_costs, split_model
from dlkit.training.learner import Backprop, Metrics


@dataclass(frozen=True)
class Hybrid:
    """`data` replicas, each split by neurons over `model` neighbouring ranks, as a mesh of data x model ranks.

    With data=2 and model=2 ranks 0 and 1 hold one replica and ranks 2 and 3 the other, as in Yadan, Adams, Taigman,
    Ranzato 2014, Multi-GPU training of ConvNets, §3. What `TensorParallel` splits, under learners that `DataParallel`
    gives parts of a batch.
    """

    data: int = 2
    model: int = 2

    def __post_init__(self):
        for name in ("data", "model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1.")

    def shard(self, run: Any) -> "HybridShard":
        """ValueError for another number of ranks, and where `DataParallel` or `TensorParallel` has one."""
        refuse_exchanges_of_its_own(run.model, "Hybrid")
        refuse_optimizer(run.experiment, "Hybrid")
        return HybridShard(run, self)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Replicas for a part of the images each, split by neurons; gradients go round the ranks with the same part.

        ValueError for another number of ranks than `data` x `model`.
        """
        if world_size != self.data * self.model:
            raise ValueError(f"{self} needs {self.data * self.model} ranks, and there are {world_size}.")
        if isinstance(net, RBM):
            return rbm_costs(net, batch_size, self.data, self.model)
        layers = layers_of(net, images, "Hybrid")
        ranks = []
        for replica in range(self.data):
            part = slice_of(batch_size, replica, self.data)
            taken = max(part.count, 1)  # a replica that has none takes an image that does not count
            if self.model == 1:
                ranks.append([replicated(layer, part, self.data) for layer in layers])
                continue
            for costs in split_costs(layers, class_name(net), taken, self.model):
                for cost, layer in zip(costs, layers, strict=True):
                    trained = cost.parameters * trained_bytes(layer.module) // max(cost.whole, 1)
                    cost.images = part
                    cost.exchanged = ring_bytes(trained, self.data, passes=2)
                ranks.append(costs)
        return ranks


class HybridShard(Replica):
    """Some units of each layer, on `across`, for a part of each batch, over `data`."""

    model_is_whole = False

    def __init__(self, run: Any, strategy: Hybrid):
        super().__init__(run, "Hybrid")
        wanted = strategy.data * strategy.model
        if self.world_size != wanted:
            raise ValueError(
                f"{strategy} needs {wanted} ranks, and there are {self.world_size}: start Cluster({wanted})."
            )
        mesh = torch.arange(wanted).view(strategy.data, strategy.model)
        self.data = self.own_group(mesh.T.tolist(), "data")
        self.across = self.own_group(mesh.tolist(), "model")
        self.splits_layers = self.across
        self.split_learner(run)
        # By NCCL one group exchanges at a time: two at work on a GPU at once may wait for each other for good. Source:
        # NVIDIA, NCCL user guide, using multiple NCCL communicators concurrently.
        early = gradients_are_final(run) and not (self.on_gpu and self.group.takes_cuda)
        store = self.store_for_unused(run)
        self.model, self.shardings = split_model(self.model, self.learner, self.across)
        self.share_statistics(self.data, mesh.T.tolist())
        self.buckets = Buckets(self.model, self.learner, self.data, early=early, store=store)

    def own_group(self, groups: list[list[int]], name: str) -> Group:
        """Make these groups of ranks, of which this rank is in one: that one. One of all ranks is there already."""
        own = None
        for number, ranks in enumerate(groups):
            process_group = new_group(ranks) if len(groups) > 1 else self.group.process_group  # all ranks make each
            if self.rank in ranks:
                own = Group(process_group, self.recorder, f"{name} {number}")
        assert own is not None
        return own

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        return self.buckets.reduce_grad(self.model, batch, generator)

    def close(self) -> None:
        super().close()
        self.buckets.close()
        for group in (self.data, self.across):
            if group.process_group is not self.group.process_group:
                dist.destroy_process_group(group.process_group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return gather_shards(name, part, self.shardings, self.across)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return scatter_whole(name, whole, self.shardings, self.across)


@dataclass(frozen=True)
class OneWeirdTrick:
    """Convolutions by data, for they have few weights and much to compute; what follows by neurons, for it has many.

    Each rank takes its images through the convolutions; then all have all images' features, and some units each of the
    layers behind. Source: Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, §4, scheme
    (a).
    """

    def shard(self, run: Any) -> "OneWeirdTrickShard":
        """ValueError for nets that are not convolutions and then other layers, in one Sequential."""
        refuse_exchanges_of_its_own(run.model, "OneWeirdTrick")
        refuse_optimizer(run.experiment, "OneWeirdTrick")
        check_learner(run.learner, Backprop, "has no backward pass: OneWeirdTrick is for learners that have one.")
        return OneWeirdTrickShard(run)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Convolutions for a part of the images; all images' features gathered; what is behind them by neurons."""
        first, layers = next(iter(behind_convolutions(net))), layers_of(net, images, "OneWeirdTrick")
        cut = next(index for index, layer in enumerate(layers) if layer.name.split(".")[0] == first)
        features = FLOAT * prod(layers[cut].input_shape) * batch_size
        ranks = []
        for rank, costs in enumerate(split_costs(layers[cut:], class_name(net), batch_size, world_size)):
            next(cost for cost in costs if cost.parameters).forward += gather_bytes(batch_size, features, world_size)
            part = slice_of(batch_size, rank, world_size)
            ranks.append([replicated(layer, part, world_size) for layer in layers[:cut]] + costs)
        return ranks


class OneWeirdTrickShard(DistributedShard):
    """All convolutions, for some of the images; some units of the layers behind them, for all images."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        refuse_what_does_not_add_up(run, "OneWeirdTrick")
        early = gradients_are_final(run) and not (self.on_gpu and self.group.takes_cuda and batch_norms(run.model))
        store = self.store_for_unused(run)
        self.splits_layers = self.group
        model = self.model
        dense = behind_convolutions(model)
        convolutions = nn.ModuleList(child for name, child in model.named_children() if name not in dense)
        self.share_statistics(self.group, within=convolutions)
        self.shardings = split_net(split := nn.Sequential(dense), self.group)
        for name, child in split.named_children():
            setattr(model, name, child)  # some are others now
        model.register_forward_pre_hook(partial(own_images, group=self.group))
        first = split.get_submodule(next(iter(dense)))
        first.register_forward_pre_hook(partial(all_features, model=model, group=self.group), prepend=True)
        self.buckets = Buckets(convolutions, self.learner, self.group, early=early, store=store)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        return self.buckets.reduce_grad(self.model, batch, generator, sum_metrics=False)

    def close(self) -> None:
        super().close()
        self.buckets.close()

    def gather(self, name: str, part: Tensor) -> Tensor:
        return gather_shards(name, part, self.shardings, self.group)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return scatter_whole(name, whole, self.shardings, self.group)


def behind_convolutions(net: nn.Module) -> "OrderedDict[str, nn.Module]":
    """The modules of an nn.Sequential from the first that needs whole maps, behind its last convolution, to the end.

    Sub-sampling stays before the cut: less is gathered. ValueError if there is nothing on either side.
    """
    if not isinstance(net, nn.Sequential):
        raise ValueError(
            f"{class_name(net)} is no nn.Sequential, so that its convolutions cannot be told from what follows them."
        )
    children = list(net.named_children())
    last = max((index for index, (_, child) in enumerate(children) if is_convolutional(child)), default=-1)
    begin = next((i for i, (_, child) in enumerate(children) if i > last and needs_whole_maps(child)), len(children))
    behind = OrderedDict(children[begin:])
    if last < 0 or not any(isinstance(module, nn.Linear) for child in behind.values() for module in child.modules()):
        raise ValueError(
            f"{class_name(net)} is not convolutions with Linear layers behind them: use DataParallel or TensorParallel."
        )
    return behind


def needs_whole_maps(module: nn.Module) -> bool:
    """Is there a layer in it that makes units of maps, or takes units?"""
    return any(isinstance(layer, nn.Flatten | nn.Linear) for layer in module.modules())


def own_images(net: nn.Module, args: tuple, *, group: Group) -> tuple:
    """A hook that leaves this rank's images of a whole batch."""
    images = copy_to_ranks(args[0], group)  # where their gradient is wanted, it is all ranks' together
    part = slice_of(len(images), group.rank, group.world_size)
    net.whole_batch = len(images)  # pyrefly: ignore[bad-argument-type]  for `all_features`
    return (images[part.start : part.stop], *args[1:])


def all_features(module: nn.Module, args: tuple, *, model: Any, group: Group) -> tuple:
    """A hook that gathers the features of all ranks' images, in the order of the batch."""
    counts = [slice_of(model.whole_batch, rank, group.world_size).count for rank in range(group.world_size)]
    return (gather_from_ranks(args[0], counts, 0, group), *args[1:])
