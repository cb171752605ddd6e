"""By data and by model at once: replicas that are split themselves, or each kind of layer split in its own way."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import slice_of
from dlkit.data.batch import Batch
from dlkit.distributed.autograd import gather_from_ranks
from dlkit.distributed.group import Group
from dlkit.models.convolution import SparseConv2d
from dlkit.models.locally_connected import LocallyConnected2d
from dlkit.strategies.base import DistributedShard, kind, refuse_optimizer, refuse_what_differs
from dlkit.strategies.data.data_parallel import Buckets, Replica, split
from dlkit.strategies.tensor.layers import split_net
from dlkit.strategies.tensor.tensor_parallel import gather_part, scatter_whole, split_model
from dlkit.training.learner import Backprop, Learner

BUCKET = 1 << 20  # bytes of gradient that are sent together


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
        refuse_what_differs(run.model, "Hybrid")
        refuse_optimizer(run.experiment, "Hybrid")
        return HybridShard(run.model, run.learner, self)


class HybridShard(Replica):
    """Some units of each layer, on `across`, for a part of each batch, over `data`."""

    model_is_whole = False

    def __init__(self, model: nn.Module, learner: Learner, strategy: Hybrid):
        DistributedShard.__init__(self, model, learner)
        wanted = strategy.data * strategy.model
        if self.world_size != wanted:
            raise ValueError(
                f"{strategy} needs {wanted} ranks, and there are {self.world_size}: start Cluster({wanted})."
            )
        device = "cuda" if self.group.backend == "nccl" else "cpu"
        mesh = init_device_mesh(device, (strategy.data, strategy.model), mesh_dim_names=("data", "model"))
        row, column = (mesh.get_local_rank(name) for name in ("data", "model"))
        self.data = Group(mesh.get_group("data"), self.recorder, f"data {column}")
        self.across = Group(mesh.get_group("model"), self.recorder, f"model {row}")
        self.chains = split(learner, "Hybrid", self.data)
        self.model, self.layout = split_model(model, learner, self.across)
        self.buckets = Buckets([p for p in self.model.parameters() if p.requires_grad], self.data, BUCKET)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        self.buckets.begin()
        return self.buckets.end(self.learner.fill_grad(self.model, batch, generator))

    def close(self) -> None:
        self.buckets.close()
        for group in (self.data, self.across):
            if group.world_size < self.world_size:  # else the mesh has taken the group of all
                dist.destroy_process_group(group.process_group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return gather_part(name, part, self.layout, self.across)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return scatter_whole(name, whole, self.layout, self.across)


@dataclass(frozen=True)
class OneWeirdTrick:
    """Convolutions by data, for they have few weights and much to compute; what follows by neurons, for it has many.

    Each rank takes its images through the convolutions; then all have all images' features, and some units each of the
    layers behind. Source: Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, §4, scheme
    (a).
    """

    def shard(self, run: Any) -> "OneWeirdTrickShard":
        """ValueError for nets that are not convolutions and then other layers, in one Sequential."""
        refuse_what_differs(run.model, "OneWeirdTrick")
        refuse_optimizer(run.experiment, "OneWeirdTrick")
        if not isinstance(run.learner, Backprop):
            raise ValueError(f"{kind(run.learner)} has no backward pass: OneWeirdTrick is for nets that have.")
        return OneWeirdTrickShard(run)


class OneWeirdTrickShard(DistributedShard):
    """All convolutions, for some of the images; some units of the layers behind, for all of them."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        model = self.model
        dense = behind_convolutions(model)
        inside = [p for name, child in model.named_children() if name not in dense for p in child.parameters()]
        self.layout = split_net(dense_part := nn.Sequential(dense), self.group)
        for name, child in dense_part.named_children():
            setattr(model, name, child)  # some are others now
        model.register_forward_pre_hook(partial(own_images, group=self.group))
        first = next(iter(dense))
        handed_on = dense_part.get_submodule(first)
        handed_on.register_forward_pre_hook(partial(all_features, model=model, group=self.group), prepend=True)
        self.buckets = Buckets([p for p in inside if p.requires_grad], self.group, BUCKET)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        self.buckets.begin()
        report = self.learner.fill_grad(self.model, batch, generator)
        self.buckets.end({})
        return report

    def close(self) -> None:
        self.buckets.close()

    def gather(self, name: str, part: Tensor) -> Tensor:
        return gather_part(name, part, self.layout, self.group)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return scatter_whole(name, whole, self.layout, self.group)


def behind_convolutions(net: nn.Module) -> "OrderedDict[str, nn.Module]":
    """The modules of a chain from the first that sees whole maps, behind its last convolution, to the end.

    What halves maps stays before the cut: less is gathered. ValueError if there is nothing on either side.
    """
    if not isinstance(net, nn.Sequential):
        raise ValueError(
            f"{kind(net)} is no nn.Sequential, so that its convolutions cannot be told from what follows them."
        )
    children = list(net.named_children())
    last = max((place for place, (_, child) in enumerate(children) if has_convolution(child)), default=-1)
    begin = next((place for place, (_, child) in enumerate(children) if place > last and mixes(child)), len(children))
    behind = OrderedDict(children[begin:])
    if last < 0 or not any(isinstance(module, nn.Linear) for child in behind.values() for module in child.modules()):
        raise ValueError(
            f"{kind(net)} is not convolutions with Linear layers behind them: use DataParallel or TensorParallel."
        )
    return behind


def has_convolution(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d | SparseConv2d | LocallyConnected2d) for part in module.modules())


def mixes(module: nn.Module) -> bool:
    """Does it take maps apart, or is there a layer in it that sees whole ones?"""
    return any(isinstance(part, nn.Flatten | nn.Linear) for part in module.modules())


def own_images(net: nn.Module, args: tuple, *, group: Group) -> tuple:
    """Of a whole batch this rank's images."""
    images = args[0]
    part = slice_of(len(images), group.rank, group.world_size)
    net.whole_batch = len(images)  # pyrefly: ignore[bad-argument-type]  for who puts the features together
    return (images[part.start : part.stop], *args[1:])


def all_features(module: nn.Module, args: tuple, *, model: Any, group: Group) -> tuple:
    """What all ranks made of their images, in the order of the batch."""
    counts = [slice_of(model.whole_batch, rank, group.world_size).count for rank in range(group.world_size)]
    return (gather_from_ranks(args[0], counts, 0, group), *args[1:])
