"""Spatial parallelism: each rank has a band of rows of every map, and borrows the rows just outside that it sees."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.models.graph import NetGraph
from dlkit.strategies.base import DistributedShard, unflatten_into
from dlkit.strategies.checks import check_learner, class_name, refuse_exchanges_of_its_own, refuse_optimizer
from dlkit.strategies.graph.of_run import graph_of_run
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.on_rank import on_rank
from dlkit.strategies.graph.plan import Plan, Step, plan_split
from dlkit.strategies.graph.plan_costs import plan_costs, steps_with_rest
from dlkit.strategies.layer_cost import LayerCost
from dlkit.strategies.spatial.rules import RowRules, is_over_maps
from dlkit.training.learner import Backprop, Metrics


@dataclass(frozen=True)
class SpatialParallel:
    """Rank r computes the r-th of nearly equal bands of rows of every map, from its own rows and a halo of others'.

    It follows the net's graph: convolutions, locally connected layers, pooling and up-sampling are split, and so are
    what works position by position, additions and concatenations of branches, and means over places. What sees whole
    maps in a way of its own has their rows gathered, and each rank computes it all. Weights of convolutions are on all
    ranks, and their gradients, each of a band, are summed; of a locally connected layer a rank has the weights of its
    rows alone.
    A rank sends in a step, with n ranks and numbers of 4 bytes: for each layer but the first, the rows that others
    lack, forward, and the gradients of those that it lacked itself, back: rows x width x maps x batch x 4; where rows
    are gathered, (n-1) times the largest band, forward; and 2 (n-1)/n of the split layers' shared weights.
    Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems.
    """

    def shard(self, run: Any) -> "SpatialShard":
        """ValueError for learners without a backward pass, and for nets and optimizers that cannot be split so."""
        refuse_exchanges_of_its_own(run.model, "SpatialParallel")
        check_learner(
            run.learner,
            Backprop,
            "has no net that images go through layer by layer, whose maps SpatialParallel could split: use "
            "DataParallel.",
        )
        return SpatialShard(run)

    def plan(self, graph: NetGraph, world_size: int) -> Plan:
        """ValueError, with the reason, if there is nothing to split."""
        plan = plan_split(graph, world_size, RowRules())
        over_maps = [step.node for step in plan.steps if is_over_maps(graph, step.node)]
        if not over_maps:
            raise ValueError(
                f"{class_name(graph.net)} has no layer with maps and weights, a convolution or a locally connected "
                "layer, whose rows SpatialParallel could split: use DataParallel or TensorParallel."
            )
        if not any(step.along == "rows" for step in plan.steps if step.node in over_maps):
            first = max(over_maps, key=lambda node: node.shape[2] if node.shape is not None else 0)
            rows = first.shape[2] if first.shape is not None else 0
            if rows < world_size:
                raise ValueError(
                    f"the maps of {first.called} have {rows} rows, fewer than {world_size} ranks: use at most {rows} "
                    "engines."
                )
            raise ValueError(
                f"{class_name(graph.net)} has no layer over maps that SpatialParallel knows how to split by rows: use "
                "DataParallel."
            )
        return plan

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        """What each rank computes of the graph, for `explain`."""
        plan = self.plan(graph, world_size)
        return steps_with_rest(plan)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Some rows of every map; from the first layer on that sees whole maps, every rank computes the same."""
        return plan_costs(self.plan(paper_graph(net, images.shape[1:]), world_size), batch_size)


class SpatialShard(DistributedShard):
    """A net of which this rank computes a band; every batch is here whole."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        self.splits_layers = self.group
        plan = SpatialParallel().plan(graph_of_run(run), self.world_size)
        if plan.parameters:
            refuse_optimizer(run.experiment, "SpatialParallel")
        self.layouts = on_rank(plan, self.group)
        self.summed = plan.summed

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        metrics = self.learner.fill_weighted_grad(self.model, batch, generator)
        self.reduce_gradients()
        return metrics

    def reduce_gradients(self) -> None:
        """Make .grad the whole net's: the sum over all ranks, by one message, where each has that of its rows."""
        parameters = map(self.model.get_parameter, self.summed)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.group.all_reduce(flat)
            unflatten_into(flat, gradients)
