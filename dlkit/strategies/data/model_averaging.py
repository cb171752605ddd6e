"""Model averaging: ranks train apart, on parts of the data, and now and then take the mean of their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.distributed.batch_norm import DOUBLE, batch_norms
from dlkit.distributed.group import ring_bytes
from dlkit.models.graph import NetGraph
from dlkit.models.rbm import RBM
from dlkit.strategies.base import all_reduce_metrics, unflatten_into
from dlkit.strategies.checks import class_name, refuse_exchanges_of_its_own
from dlkit.strategies.data.data_parallel import DataParallel
from dlkit.strategies.data.outer import OUTER, Outer, OuterStep
from dlkit.strategies.data.replica import Replica
from dlkit.strategies.graph.on_paper import paper_graph, plan_by_images
from dlkit.strategies.graph.plan import Plan, Step
from dlkit.strategies.graph.plan_costs import called_steps, plan_costs, steps_with_rest
from dlkit.strategies.layer_cost import LayerCost
from dlkit.training.learner import Metrics
from dlkit.training.optimizer_state import PREFIX, pack_optimizer, unpack_optimizer
from dlkit.training.refusals import failure_on

RANK = "rank "  # and its number, before what it has by itself


@dataclass(frozen=True)
class ModelAveraging:
    """Each rank trains alone on its part of each batch; after `every` steps all take the mean of their parameters.

    BatchNorm normalises by the statistics of a rank's part; at a meeting the running averages are averaged too.
    Not what one process computes, unless `every` is 1 and an optimizer's steps are linear in its gradients, as SGD's
    are with and without momentum, and Adam's are not: between meetings the ranks drift apart. Each rank's optimizer
    keeps its momentum to itself.
    outer: what to make of a meeting, in place of the mean; with an Adam inside, and some hundred steps, it is DiLoCo.
    Source: McDonald, Hall, Mann 2010, Distributed training strategies for the structured perceptron, §4.
    """

    every: int = 10
    outer: Outer | None = None

    def __post_init__(self):
        if self.every < 1:
            raise ValueError(f"every={self.every}: at least 1 step between meetings.")

    def shard(self, run: Any) -> "ModelAveragingShard":
        """ValueError for learners that need a whole batch, and for layers that do."""
        refuse_exchanges_of_its_own(run.model, "ModelAveraging")
        return ModelAveragingShard(run, self.every, self.outer)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """As DataParallel's, but that parameters and running averages go round the ring, and once in `every` steps."""
        if isinstance(net, RBM):
            ranks = DataParallel().layer_costs(net, images, batch_size, world_size)
            for layer in (layer for layers in ranks for layer in layers):
                layer.exchanged = round(layer.exchanged / self.every)
            return ranks
        return self._costs(plan_by_images(paper_graph(net, images.shape[1:]), world_size), batch_size)

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        """What each rank computes of the graph, for `explain`."""
        plan = plan_by_images(graph, world_size)
        return steps_with_rest(plan, self._costs(plan, world_size)[0], "parameters averaged")

    def _costs(self, plan: Plan, batch_size: int) -> list[list[LayerCost]]:
        ranks = plan_costs(plan, batch_size, shares_statistics=False)
        averaged: set[nn.Module] = set()
        for number, step in enumerate(called_steps(plan)):
            module = plan.graph.module_of(step.node)
            buffers = averaged_buffers(module) if module is not None and module not in averaged else []
            averaged |= {module} if module is not None else set()
            for costs in ranks:
                size = costs[number].parameters + sum(DOUBLE * buffer.numel() for buffer in buffers)
                costs[number].exchanged = round(ring_bytes(size, plan.world_size, passes=2) / self.every)
        return ranks


def averaged_buffers(module: nn.Module) -> list[Tensor]:
    return [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.numel()]


class ModelAveragingShard(Replica):
    """A replica with steps of its own."""

    model_is_whole = False

    def __init__(self, run: Any, every: int, outer: Outer | None = None):
        super().__init__(run, "ModelAveraging")
        refuse_small_parts(run, self.world_size)
        self.split_learner(run)
        self.replicas = self.world_size
        self.every = every
        self.outer = None if outer is None else OuterStep(self.model, outer)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        metrics = self.learner.fill_weighted_grad(self.model, batch, generator)
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad *= (
                    self.world_size
                )  # from its share of the whole batch's mean to the mean of its own part
        return {name: value * self.world_size for name, value in metrics.items()}

    def after_step(self, step: int) -> None:
        if step % self.every == 0:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    mean = self.mean(parameter)
                    parameter.copy_(mean if self.outer is None else self.outer(name, mean))
                self.average_buffers()
        super().after_step(step)

    def average_buffers(self) -> None:
        """Give those of floats their mean, in one message."""
        if averaged := averaged_buffers(self.model):
            unflatten_into(self.mean(torch.cat([buffer.flatten().double() for buffer in averaged])), averaged)

    def check_counts(self) -> None:
        """RuntimeError if buffers of whole numbers, such as counts, differ between ranks."""
        counted = [buffer.flatten().long() for buffer in self.model.buffers() if not buffer.is_floating_point()]
        if counted:
            own = torch.cat(counted)
            total = own.clone()
            self.data.all_reduce(total)
            if not torch.equal(total, own * self.world_size):
                raise RuntimeError(
                    "a buffer of whole numbers has other values on other ranks, of which there is no mean: keep it as "
                    "floats, or use DataParallel."
                )

    def last_common(self, step: int) -> int:
        return (step // self.every + 1) * self.every  # no rank passes the next meeting without the others

    def mean(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        self.data.all_reduce(total)
        return total / self.world_size

    def reduce_metrics(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        return (
            {name: value / self.world_size for name, value in all_reduce_metrics(sums, self.data).items()}
            if sums
            else {}
        )

    # Between meetings the whole's state is all the replicas'; the model that comes back is their mean.

    def gather(self, name: str, part: Tensor) -> Tensor:
        return self.data.all_gather(part[None], [1] * self.world_size)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return whole[self.rank]

    def model_state(self) -> dict[str, Tensor]:
        self.check_counts()
        return {
            name: self.mean(value) if value.is_floating_point() else value
            for name, value in self.model.state_dict().items()
        }

    def load_model(self, state: Mapping[str, Tensor]) -> None:
        """The replicas come with the learner's state."""

    def learner_state(self) -> dict[str, Tensor]:
        replicas = {f"replica.{name}": self.gather(name, value) for name, value in self.model.state_dict().items()}
        own = {name: value.cpu() for name, value in self.learner.state.items() if name not in self.chains}
        outer = {} if self.outer is None else self.outer.state()
        return super().learner_state() | self.of_other_ranks(own) | replicas | outer

    def load_learner(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        mine = {name.removeprefix("replica."): value for name, value in state.items() if name.startswith("replica.")}
        self.model.load_state_dict({name: self.scatter(name, value) for name, value in mine.items()})
        kept = {name: value for name, value in state.items() if not name.startswith(("replica.", OUTER))}
        if self.outer is not None:
            self.outer.load({name: value for name, value in state.items() if name.startswith(OUTER)})
        whole = {name: value for name, value in kept.items() if not name.startswith(RANK)}
        super().load_learner(whole | self.of_this_rank(kept), device)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of a parameter's shape with one row a replica; what else each has, apart."""
        tensors, numbers = super().optimizer_state(optimizer)
        own, own_numbers = pack_optimizer(optimizer, self.settings)
        single = {key: value.cpu() for key, value in own.items() if tensors[key].shape == value.shape}
        return tensors | self.of_other_ranks(single), numbers | self.of_other_ranks(own_numbers)

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        rows, single = {}, {}
        for key, value in tensors.items():
            if key.startswith(PREFIX):
                name = self.names[int(key.removeprefix(PREFIX).split(".")[0])]
                if value.shape == (self.world_size, *self.model.get_parameter(name).shape):
                    rows[key] = value[self.rank]
                    continue
            single[key] = value
        unpack_optimizer(optimizer, rows | self.of_this_rank(single), self.of_this_rank(numbers))

    def of_other_ranks(self, own: dict[str, Any]) -> dict[str, Any]:
        """What ranks other than 0 have by themselves, each name after its rank."""
        everywhere = self.group.gather_objects(own)[1:]
        return {f"{RANK}{n} {name}": value for n, values in enumerate(everywhere, 1) for name, value in values.items()}

    def of_this_rank(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """What this rank has by itself: rank 0's where there is nothing of its own."""
        mark = f"{RANK}{self.rank} "
        own = {name.removeprefix(mark): value for name, value in kept.items() if name.startswith(mark)}
        return own or {name: value for name, value in kept.items() if not name.startswith(RANK)}


def refuse_small_parts(run: Any, world_size: int) -> None:
    """ValueError if a rank's part of a batch is too small for the statistics that BatchNorm takes of it."""
    norms = batch_norms(run.model)
    if not norms:
        return
    count, size = len(run.data.images), run.experiment.batch_size
    last = count % size or size
    sizes = [size] if run.total_steps < run.steps_per_epoch else [size, last]
    smallest = min(sizes) // world_size
    if smallest > 1 or (smallest == 1 and not failure_on(run, 1)):
        return
    path, module = next(iter(norms.items()))
    raise ValueError(
        f"a batch of {min(sizes)} leaves a rank of {world_size} {smallest or 'no'} image, of which {path}, a "
        f"{class_name(module)}, has no statistics: make batch_size larger, or such that it divides {count:,}, or use "
        "DataParallel, under which ranks share them."
    )
