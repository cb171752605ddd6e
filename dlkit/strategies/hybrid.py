"""Data and model parallelism at once: replicas, each of which is split by neurons."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice, slice_of
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group
from dlkit.distributed.process_group import new_group
from dlkit.models.graph import NetGraph
from dlkit.models.rbm import RBM
from dlkit.strategies.checks import refuse_exchanges_of_its_own, refuse_optimizer
from dlkit.strategies.data.data_parallel import Buckets
from dlkit.strategies.data.replica import Replica
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.plan import Plan, Step
from dlkit.strategies.graph.plan_costs import plan_costs, replicate, steps_with_rest
from dlkit.strategies.layer_cost import LayerCost, rbm_costs
from dlkit.strategies.learner_trial import gradients_are_final
from dlkit.strategies.tensor.tensor_parallel import plan_neurons, split_model
from dlkit.training.learner import Metrics


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
        self.check_ranks(world_size)
        if isinstance(net, RBM):
            return rbm_costs(net, batch_size, self.data, self.model)
        graph = paper_graph(net, images.shape[1:])
        plan = plan_neurons(graph, self.model)
        parts = (slice_of(batch_size, replica, self.data) for replica in range(self.data))
        return [costs for part in parts for costs in self._replica_costs(plan, part)]

    def _replica_costs(self, plan: Plan, images: Slice) -> list[list[LayerCost]]:
        """Of each rank of a replica; one that has no images takes one that does not count."""
        ranks = plan_costs(plan, max(images.count, 1))
        for costs in ranks:
            replicate(costs, plan, images, self.data, whole=self.model == 1)
        return ranks

    def check_ranks(self, world_size: int, mend: str = "") -> None:
        """ValueError unless there are so many ranks."""
        wanted = self.data * self.model
        if world_size != wanted:
            raise ValueError(f"{self} needs {wanted} ranks, and there are {world_size}{mend}.")

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        """ValueError for another number of ranks than `data` x `model`."""
        self.check_ranks(world_size)
        plan = plan_neurons(graph, self.model)
        costs = self._replica_costs(plan, slice_of(self.data, 0, self.data))[0]
        for step in plan.steps:
            step.replicas = self.data
        return steps_with_rest(plan, costs)


class HybridShard(Replica):
    """Some units of each layer, on `across`, for a part of each batch, over `data`."""

    model_is_whole = False

    def __init__(self, run: Any, strategy: Hybrid):
        super().__init__(run, "Hybrid")
        wanted = strategy.data * strategy.model
        strategy.check_ranks(self.world_size, f": start Cluster({wanted})")
        mesh = torch.arange(wanted).view(strategy.data, strategy.model)
        self.data = self.own_group(mesh.T.tolist(), "data")
        self.across = self.own_group(mesh.tolist(), "model")
        self.splits_layers = self.across
        self.split_learner(run)
        # By NCCL one group exchanges at a time: two at work on a GPU at once may wait for each other for good. Source:
        # NVIDIA, NCCL user guide, using multiple NCCL communicators concurrently.
        early = gradients_are_final(run) and not (self.on_gpu and self.group.takes_cuda)
        store = self.store_for_unused(run)
        self.layouts = split_model(run, self.across)
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
