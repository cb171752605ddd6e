"""Data parallelism: every rank has the whole model and a part of each batch; the gradients are summed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group, ring_all_reduce
from dlkit.models.graph import NetGraph
from dlkit.models.rbm import RBM
from dlkit.strategies.base import all_reduce_metrics, unflatten_into
from dlkit.strategies.checks import check_learner, class_name, refuse_exchanges_of_its_own
from dlkit.strategies.data.replica import Replica
from dlkit.strategies.graph.on_paper import paper_graph, plan_by_images
from dlkit.strategies.graph.plan import Plan, Step
from dlkit.strategies.graph.plan_costs import plan_costs, steps_with_rest
from dlkit.strategies.layer_cost import LayerCost, rbm_costs
from dlkit.strategies.learner_trial import gradients_are_final, uses_all_for_each_image
from dlkit.strategies.unused import Unused
from dlkit.training.learner import Backprop, Learner, Metrics

REDUCE = ("bucketed", "naive", "ring", "ddp")
SHARD = ("optimizer", "all")
BUCKET = 1 << 20  # bytes
MISSING = "parameters without a gradient"  # their number, which is summed with the metrics


@dataclass(frozen=True, init=False, repr=False)
class DataParallel:
    """Each rank fills .grad from its part of the batch; the gradients' sum is the whole batch's, and all take one step.

    reduce: "naive", an all-reduce for each parameter after the backward pass; "bucketed", for some at a time while the
    pass goes on; "ring", by `ring_all_reduce`, from sends alone; "ddp", torch's DistributedDataParallel, for learners
    that backpropagate. `bucket`: bytes of gradient that are sent together.
    shard: "optimizer" leaves each rank some rows of each parameter, and of its gradient and the optimizer's state,
    between steps; in a step all parameters are gathered. "all" lets go of them between passes, too, block by block.
    Sources: of bucketing, Li et al. 2020, PyTorch distributed: experiences on accelerating data parallel training,
    §3.2; of shards, Zhao et al. 2023, PyTorch FSDP: experiences on scaling fully sharded data parallel, §3.
    """

    reduce: str = "bucketed"
    bucket: int = BUCKET
    sharded: str | None = None  # what is asked for by shard=, as `shard` is what a run calls

    def __init__(
        self, reduce: str = "bucketed", bucket: int = BUCKET, *, shard: str | None = None, sharded: str | None = None
    ):
        shard = shard or sharded  # the field's own name, as dataclasses.replace gives it
        for name, value in (("reduce", reduce), ("bucket", bucket), ("sharded", shard)):
            object.__setattr__(self, name, value)
        if shard not in (None, *SHARD):
            raise ValueError(f'shard="{shard}": it is one of {", ".join(SHARD)}.')
        if shard and (reduce, bucket) != ("bucketed", BUCKET):
            raise ValueError(f'shard="{shard}" has an exchange of its own: leave out reduce= and bucket=.')
        if self.reduce not in REDUCE:
            raise ValueError(f'reduce="{self.reduce}": it is one of {", ".join(REDUCE)}.')
        if self.bucket < 1:
            raise ValueError(f"bucket={self.bucket}: at least 1 byte; a megabyte is usual.")

    def __repr__(self) -> str:
        if self.sharded:
            return f'DataParallel(shard="{self.sharded}")'
        return f"DataParallel(reduce={self.reduce!r}, bucket={self.bucket})"

    def shard(self, run: Any) -> Replica:
        """ValueError for learners that need a whole batch, and for layers that do."""
        if self.reduce == "ddp":
            check_learner(
                run.learner, Backprop, 'has no backward pass, in which DDP sends gradients: reduce="bucketed" does.'
            )
        refuse_exchanges_of_its_own(run.model, "DataParallel")
        if self.sharded:
            from dlkit.strategies.data.sharded import ShardedReplica  # with torch's fully_shard, which takes a second

            return ShardedReplica(run, repr(self), frees=self.sharded == "all")
        return DataParallelShard(run, self)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """All layers, for a part of the images; gradients go round a ring. With shard=, what a rank keeps of them."""
        shard = getattr(self, "sharded", None)  # strategies of a reader's own borrow this method
        if isinstance(net, RBM):
            if shard:
                raise ValueError(f"{self} is for nets that backpropagate, and this is an RBM: leave out shard=.")
            return rbm_costs(net, batch_size, data=world_size, model=1)
        return replica_costs(plan_by_images(paper_graph(net, images.shape[1:]), world_size), batch_size, shard)

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        """What each rank computes of the graph, for `explain`."""
        plan = plan_by_images(graph, world_size)
        shard = getattr(self, "sharded", None)
        rest = replica_costs(plan, world_size, shard)[0]
        return steps_with_rest(plan, rest, "gradients to their ranks" if shard else "gradients summed")


def replica_costs(plan: Plan, batch_size: int, shard: str | None) -> list[list[LayerCost]]:
    costs = plan_costs(plan, batch_size)
    if not shard:
        return costs
    from dlkit.strategies.data.sharded import sharded_costs

    return sharded_costs(plan, costs, frees=shard == "all")


class DataParallelShard(Replica):
    """A replica whose gradients are summed over `data` in each step."""

    def __init__(self, run: Any, strategy: DataParallel):
        super().__init__(run, "DataParallel")
        self.split_learner(run)
        self.share_statistics(self.data)
        self.strategy = strategy
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.buckets = self.wrapped = None
        if strategy.reduce == "bucketed":
            # By NCCL what ranks send in a backward pass must be in one order, also where one lacks a gradient.
            early = gradients_are_final(run) and not (self.statistics is not None and self.data.takes_cuda)
            store = self.store_for_unused(run)
            self.buckets = Buckets(self.model, self.learner, self.data, strategy.bucket, early=early, store=store)
        elif strategy.reduce == "ddp":
            if not gradients_are_final(run):
                raise ValueError(
                    f"{class_name(run.learner)} runs more than one backward pass, or changes gradients after it, and "
                    'DDP sends them in the first: reduce="bucketed" sends them when they are final.'
                )
            uses_all = uses_all_for_each_image(run)
            if self.statistics is not None and self.data.takes_cuda and not uses_all:
                raise ValueError(
                    "some images leave parameters unused, which torch's DDP by NCCL does not wait for while BatchNorm "
                    'exchanges statistics: reduce="bucketed" does.'
                )
            self.wrapped = DistributedDataParallel(
                self.model,
                process_group=self.group.process_group,
                find_unused_parameters=not uses_all,
            )
        else:
            self.unused = Unused(self.parameters, self.data, self.store_for_unused(run))

    def close(self) -> None:
        super().close()
        if self.buckets is not None:
            self.buckets.close()

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        if self.buckets is not None:
            return self.buckets.reduce_grad(self.model, batch, generator)
        if self.wrapped is not None:
            return self.reduce_by_ddp(self.wrapped, batch, generator)
        metrics = self.learner.fill_weighted_grad(self.model, batch, generator)
        missing = self.unused.fill()
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self.strategy.reduce == "ring":
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            ring_all_reduce(flat, self.data)
            unflatten_into(flat, gradients)
        else:
            for gradient in gradients:
                self.data.all_reduce(gradient)
        count = next(iter(metrics.values())).new_full((), missing)
        reduced = all_reduce_metrics(metrics | {MISSING: count}, self.data)
        self.unused.drop(reduced.pop(MISSING))
        return reduced

    def reduce_by_ddp(self, net: nn.Module, batch: Batch, generator: ShardedGenerator) -> Metrics:
        weight = batch.weight * self.data.world_size  # DDP takes the mean over ranks
        scaled = Batch(batch.images, batch.labels, weight, batch.rows)
        try:
            metrics = self.learner.fill_weighted_grad(net, scaled, generator)
        except RuntimeError as error:
            if "finished reduction" not in str(error):
                raise
            raise RuntimeError(
                "some images leave parameters of the net unused, for which torch's DDP waits in vain: "
                'reduce="bucketed" sends zeros for them.'
            ) from error
        return all_reduce_metrics({name: value / self.data.world_size for name, value in metrics.items()}, self.data)


class Buckets:
    """Gradients sent a bucket at a time, as the backward pass makes them: the last layers' are sent first."""

    def __init__(
        self, module: nn.Module, learner: Learner, group: Group, size: int = BUCKET, *, early: bool, store: Any
    ):
        """`module` holds the parameters whose gradients are to be summed; a bucket has about `size` bytes.

        early: send a bucket when a backward pass has made it (`gradients_are_final`), or all at the end. store: that of
        `Unused`.
        """
        self.learner, self.group = learner, group
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.unused = Unused(self.parameters, group, store)
        self.buckets: list[list[nn.Parameter]] = [[]]
        for parameter in reversed(self.parameters):
            if self.buckets[-1] and sum(p.nbytes for p in self.buckets[-1]) + parameter.nbytes > size:
                self.buckets.append([])
            self.buckets[-1].append(parameter)
        self.bucket_of = {id(p): number for number, bucket in enumerate(self.buckets) for p in bucket}
        self.waiting: list[int] = []  # for how many gradients of each bucket
        self.sent: list[tuple[Callable[[], None], Tensor, list[Tensor]]] = []
        hooked = self.parameters if early else []
        self.hooks = [parameter.register_post_accumulate_grad_hook(self.on_gradient) for parameter in hooked]

    def reduce_grad(
        self, model: nn.Module, batch: Batch, generator: ShardedGenerator, *, sum_metrics: bool = True
    ) -> Metrics:
        """Fill .grad by `model`, and make it the sum over the group; so too the metrics, if `sum_metrics`."""
        self.waiting = [len(bucket) for bucket in self.buckets]
        self.next, self.sent = 0, []
        metrics = self.learner.fill_weighted_grad(model, batch, generator)
        reduced = self.finish(metrics if sum_metrics else {})
        return reduced if sum_metrics else metrics

    def on_gradient(self, parameter: Tensor) -> None:
        """A gradient is ready; buckets go in order, so that all ranks send the same at a time. The last waits."""
        bucket = self.bucket_of[id(parameter)]
        self.waiting[bucket] -= 1
        if self.waiting[bucket] < 0:
            raise RuntimeError(
                f"{class_name(self.learner)} runs more backward passes than in a trial on the first images, and "
                'gradients of the first are on their way: DataParallel(reduce="naive") sends them at the end.'
            )
        while self.next < len(self.buckets) - 1 and self.waiting[self.next] == 0:
            self.send([])

    def send(self, more: list[Tensor]) -> None:
        """Start to sum the next bucket, and with it `more`."""
        parameters = self.buckets[self.next]
        gradients = [p.grad for p in parameters if p.grad is not None] + more
        self.next += 1
        if len(gradients) == 1 and not more and gradients[0].is_contiguous():
            # A copy, for the pass that goes on may still read the gradient; nothing has to be put back from it.
            parameters[0].grad = flat = gradients[0].clone()
            self.sent.append((self.group.start_all_reduce(flat), flat, []))
        elif gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.sent.append((self.group.start_all_reduce(flat), flat, gradients))

    def finish(self, metrics: Metrics) -> Metrics:
        """Send what is left, with the metrics at the end, and put the sums in place."""
        missing = self.unused.fill()
        like = next(iter(metrics.values())) if metrics else self.parameters[0].detach()
        counted = metrics | {MISSING: like.new_full((), missing)}
        values = {name: value.detach().reshape(1) for name, value in counted.items()}
        while self.next < len(self.buckets) - 1:
            self.send([])
        self.send(list(values.values()))
        for wait, flat, gradients in self.sent:
            wait()
            if gradients:
                unflatten_into(flat, gradients)
        self.sent = []
        self.unused.drop(values.pop(MISSING))
        return {name: value[0] for name, value in values.items()}

    def close(self) -> None:
        """Leave the parameters as they were."""
        for hook in self.hooks:
            hook.remove()
