"""Tensor parallelism: every rank has some units or maps of each layer, and sees every image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.group import Group
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.graph import NetGraph
from dlkit.models.rbm import RBM
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.checks import class_name, refuse_optimizer
from dlkit.strategies.graph.of_run import graph_of_run
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.on_rank import Layouts, on_rank
from dlkit.strategies.graph.plan import Plan, Step, plan_split
from dlkit.strategies.graph.plan_costs import plan_costs, steps_with_rest
from dlkit.strategies.layer_cost import LayerCost, rbm_costs
from dlkit.strategies.learner_trial import refuse_passes_of_its_own
from dlkit.strategies.tensor.dtensor import DTensorShard
from dlkit.strategies.tensor.rbm import split_hidden
from dlkit.strategies.tensor.rules import NeuronRules, refuse_nothing_split
from dlkit.training.contrastive import CD
from dlkit.training.learner import Backprop


@dataclass(frozen=True)
class TensorParallel:
    """Each rank has a part of the parameters of a layer, and computes some of its units for the whole batch.

    Nets, read as graphs: Linear layers in turn by outputs and by inputs, so that one sum over ranks serves two;
    convolutions by output maps, which are gathered for the next one or, where branches meet and that sends less, summed
    by input maps; attention by heads; norms by maps. RBMs under CD and PCD, and autoassociators: by hidden units.
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
        return plan_costs(plan_neurons(paper_graph(net, images.shape[1:]), world_size), batch_size)

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        plan = plan_neurons(graph, world_size)
        return steps_with_rest(plan)


class TensorParallelShard(DistributedShard):
    """Some units of each layer, and every image."""

    model_is_whole = False

    def __init__(self, run: Any):
        super().__init__(run.model, run.learner)
        self.splits_layers = self.group
        self.layouts = split_model(run, self.group)


def split_model(run: Any, group: Group) -> Layouts:
    """Leave the run's model this rank's part of its parameters, and say how they are split over `group`.

    ValueError, with the reason, for a model or a learner that cannot be split so.
    """
    model, learner = run.model, run.learner
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
        return split_hidden(model, group)
    if not isinstance(learner, Backprop):
        raise ValueError(
            f"{class_name(learner)} trains a {class_name(model)} by passes of its own, which need each layer's units "
            "whole: TensorParallel splits nets under learners that backpropagate a loss (`Backprop` in "
            "dlkit.training), and RBMs under CD or PCD; DataParallel splits the batch."
        )
    if isinstance(model, Autoassociator):
        return split_hidden(model, group)
    return on_rank(plan_neurons(graph_of_run(run), group.world_size), group)


def plan_neurons(graph: NetGraph, world_size: int) -> Plan:
    """The net split by neurons, on paper. ValueError where that leaves nothing to split."""
    rules = NeuronRules(graph)
    plan = plan_split(graph, world_size, rules)
    if world_size > 1:
        refuse_nothing_split(plan, rules)
    return plan
