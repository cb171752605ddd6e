"""Each kind of layer split in its own way: convolutions by data, what follows them by neurons."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.models.graph import NetGraph, Node
from dlkit.models.layer_kinds import is_convolutional
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.by_images import ImagesThenRules
from dlkit.strategies.checks import check_learner, class_name, refuse_exchanges_of_its_own, refuse_optimizer
from dlkit.strategies.data.data_parallel import Buckets
from dlkit.strategies.graph.of_run import graph_of_run
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.on_rank import on_rank
from dlkit.strategies.graph.plan import Plan, Step, plan_split
from dlkit.strategies.graph.plan_costs import plan_costs, steps_with_rest
from dlkit.strategies.layer_cost import LayerCost
from dlkit.strategies.learner_trial import gradients_are_final, refuse_what_does_not_add_up
from dlkit.strategies.tensor.rules import NeuronRules, refuse_nothing_split
from dlkit.training.learner import Backprop, Metrics

FLATTENS = ("flatten", "view", "reshape")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class OneWeirdTrick:
    """Convolutions by data, for they have few weights and much to compute; what follows by neurons, for it has many.

    Each rank takes its images through the convolutions; then all have all images' features, and some units each of the
    layers behind. Source: Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, §4, scheme
    (a).
    """

    def shard(self, run: Any) -> "OneWeirdTrickShard":
        """ValueError for nets that are not convolutions with Linear layers behind them."""
        refuse_exchanges_of_its_own(run.model, "OneWeirdTrick")
        refuse_optimizer(run.experiment, "OneWeirdTrick")
        check_learner(run.learner, Backprop, "has no backward pass: OneWeirdTrick is for learners that have one.")
        return OneWeirdTrickShard(run)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Convolutions for a part of the images; all images' features gathered; what is behind them by neurons."""
        plan, _ = plan_weird_trick(paper_graph(net, images.shape[1:]), world_size)
        ranks = plan_costs(plan, batch_size)
        for costs in ranks:
            first = next(number for number, cost in enumerate(costs) if cost.along != "images")
            taker = next(number for number, cost in enumerate(costs) if number >= first and cost.is_sum)
            for cost in costs[first:taker]:  # features are gathered for a Flatten, say: it counts for what takes units
                costs[taker].forward, cost.forward = costs[taker].forward + cost.forward, 0
        return ranks

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        plan, _ = plan_weird_trick(graph, world_size)
        return steps_with_rest(plan)


class OneWeirdTrickShard(DistributedShard):
    """All convolutions, for some of the images; some units of the layers behind them, for all images."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        plan, rules = plan_weird_trick(graph_of_run(run), self.world_size)
        refuse_what_does_not_add_up(run, "OneWeirdTrick")
        early, store = gradients_are_final(run), self.store_for_unused(run)  # tried on the whole net
        self.splits_layers = self.group
        self.layouts = on_rank(plan, self.group)
        before = [node for node in plan.graph.nodes if node in rules.before]  # in the same order on all ranks
        norms = {node.target: module for node in before if isinstance(module := plan.graph.module_of(node), _BatchNorm)}
        self.share_statistics(self.group, within=nn.ModuleList(norms.values()))  # those behind see all images
        # By NCCL what ranks send in a backward pass must be in one order.
        early = early and not (self.statistics is not None and self.group.takes_cuda)
        parameters = dict(self.model.named_parameters())
        convolutions = nn.ParameterList([parameters[name] for name in parameters if name in rules.parameters])
        self.buckets = Buckets(convolutions, self.learner, self.group, early=early, store=store)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        return self.buckets.reduce_grad(self.model, batch, generator, sum_metrics=False)

    def close(self) -> None:
        super().close()
        self.buckets.close()


def plan_weird_trick(graph: NetGraph, world_size: int) -> tuple[Plan, ImagesThenRules]:
    """The net up to the cut by images, then by neurons. ValueError, with the reason, where that splits nothing."""
    neurons = NeuronRules(graph)
    rules = ImagesThenRules(graph, where_convolutions_end(graph), neurons, "OneWeirdTrick")
    plan = plan_split(graph, world_size, rules)
    if world_size > 1:
        refuse_nothing_split(plan, neurons)
    return plan, rules


def where_convolutions_end(graph: NetGraph) -> int:
    """The index of the first node that needs whole maps, behind the last convolution.

    Sub-sampling stays before the cut: less is gathered. ValueError if there is nothing on either side.
    """
    nodes = graph.nodes
    last = max((index for index, node in enumerate(nodes) if _is_convolution(graph, node)), default=-1)
    cut = next(
        (index for index, node in enumerate(nodes) if index > last and _needs_whole_maps(graph, node)), len(nodes)
    )
    if last < 0 or not any(isinstance(graph.module_of(node), nn.Linear) for node in nodes[cut:]):
        raise ValueError(
            f"{class_name(graph.net)} is not convolutions with Linear layers behind them: use DataParallel or "
            "TensorParallel."
        )
    return cut


def _is_convolution(graph: NetGraph, node: Node) -> bool:
    module = graph.module_of(node)
    if module is not None:
        return is_convolutional(module) or any(isinstance(part, CONVOLUTIONS) for part in module.modules())
    return node.op == "function" and node.target in (F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d)


def _needs_whole_maps(graph: NetGraph, node: Node) -> bool:
    """Does it make units of maps, or take units?"""
    module = graph.module_of(node)
    if module is not None:
        return isinstance(module, nn.Flatten | nn.Linear)
    return node.op in ("function", "method") and (node.called in FLATTENS or node.target is F.linear)
