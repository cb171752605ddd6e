"""By data: every rank has the whole model and a part of each batch; gradients, or weights, are brought together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice, slice_of
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group, ring_all_reduce
from dlkit.strategies.base import DistributedShard, kind, refuse_what_differs
from dlkit.training.learner import Backprop, Learner, Splits

WAYS = ("bucketed", "naive", "ring", "ddp")


@dataclass(frozen=True)
class DataParallel:
    """Each rank fills .grad from its part of the batch; the gradients' sum is the whole batch's, and all take one step.

    reduce: "naive", an all-reduce for each parameter after the backward pass; "bucketed", for some at a time while the
    pass goes on; "ring", by `ring_all_reduce`, from sends alone; "ddp", torch's DistributedDataParallel, for learners
    that backpropagate. `bucket`: bytes of gradient that are sent together.
    Source of bucketing: Li et al. 2020, PyTorch distributed: experiences on accelerating data parallel training, §3.2.
    """

    reduce: str = "bucketed"
    bucket: int = 1 << 20

    def __post_init__(self):
        if self.reduce not in WAYS:
            raise ValueError(f'reduce="{self.reduce}": it is one of {", ".join(WAYS)}.')
        if self.bucket < 1:
            raise ValueError(f"bucket={self.bucket}: at least 1 byte; a megabyte is usual.")

    def shard(self, run: Any) -> "DataParallelShard":
        """ValueError for learners that need a whole batch, and for layers that do."""
        if self.reduce == "ddp" and not isinstance(run.learner, Backprop):
            raise ValueError(
                f'{kind(run.learner)} has no backward pass, in which DDP sends gradients: reduce="bucketed" does.'
            )
        refuse_what_differs(run.model, "DataParallel")
        return DataParallelShard(run.model, run.learner, self)


class Replica(DistributedShard):
    """The whole model and a part of each batch, on one rank of `data`, the group that batches are split over."""

    def __init__(self, model: nn.Module, learner: Learner, name: str):
        super().__init__(model, learner)
        self.data = self.group
        self.chains = split(learner, name, self.data)

    def select(self, data: Batch, picked: Tensor) -> Batch:
        """This rank's part of a batch; one that has none takes an image that does not count."""
        part = slice_of(len(picked), self.data.rank, self.data.size)
        weight = part.count / part.whole
        if not part.count:
            part = Slice(0, 1, part.whole)
        mine = super().select(data, picked[part.start : part.stop])
        return Batch(mine.images, mine.labels, weight, part)

    def learner_state(self) -> dict[str, Tensor]:
        return {
            name: self.data.all_gather(value, counts(self.chains[name], self.data)) if name in self.chains else value
            for name, value in self.learner.state.items()
        }

    def load_learner(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        super().load_learner(state, device)
        for name, part in self.chains.items():
            self.learner.state[name] = self.learner.state[name][part.start : part.stop].clone()


def split(learner: Learner, name: str, group: Group) -> dict[str, Slice]:
    """Give the learner its rank's part. ValueError if it cannot learn from a part of a batch."""
    if not isinstance(learner, Splits):
        raise ValueError(
            f"{kind(learner)} has no `split`, so {name} cannot tell whether it learns from a part of a batch: see "
            "`Splits` in dlkit/training/learner.py."
        )
    return learner.split(group.rank, group.size)


def counts(part: Slice, group: Group) -> list[int]:
    return [slice_of(part.whole, rank, group.size).count for rank in range(group.size)]


class DataParallelShard(Replica):
    """A replica whose gradients are summed over `data` in each step."""

    def __init__(self, model: nn.Module, learner: Learner, strategy: DataParallel):
        super().__init__(model, learner, "DataParallel")
        self.strategy = strategy
        trained = [p for p in model.parameters() if p.requires_grad]
        self.buckets = Buckets(trained, self.data, strategy.bucket) if strategy.reduce == "bucketed" else None
        self.wrapped = DistributedDataParallel(model) if strategy.reduce == "ddp" else None

    def close(self) -> None:
        if self.buckets is not None:
            self.buckets.close()

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        if self.buckets is not None:
            self.buckets.begin()
            report = self.learner.fill_grad(self.model, batch, generator)
            return self.buckets.end(report)
        if self.wrapped is not None:
            weight = batch.weight * self.data.size  # DDP takes the mean over ranks
            scaled = Batch(batch.images, batch.labels, weight, batch.rows)
            report = self.learner.fill_grad(self.wrapped, scaled, generator)
            return all_reduce_metrics({name: value / self.data.size for name, value in report.items()}, self.data)
        report = self.learner.fill_grad(self.model, batch, generator)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if self.strategy.reduce == "ring":
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            ring_all_reduce(flat, self.data)
            unflatten_into(flat, gradients)
        else:
            for gradient in gradients:
                self.data.all_reduce(gradient)
        return all_reduce_metrics(report, self.data)


class Buckets:
    """Gradients sent a bucket at a time, as the backward pass makes them: the last layers' are on their way first."""

    def __init__(self, parameters: Sequence[nn.Parameter], group: Group, size: int):
        self.group = group
        self.buckets: list[list[nn.Parameter]] = [[]]
        for parameter in reversed(parameters):
            if self.buckets[-1] and sum(p.nbytes for p in self.buckets[-1]) + parameter.nbytes > size:
                self.buckets.append([])
            self.buckets[-1].append(parameter)
        self.bucket_of = {id(p): number for number, bucket in enumerate(self.buckets) for p in bucket}
        self.missing: list[int] = []
        self.sent: list[tuple[Callable[[], None], Tensor, list[Tensor]]] = []
        self.hooks = [parameter.register_post_accumulate_grad_hook(self.arrived) for parameter in parameters]

    def begin(self) -> None:
        self.missing = [len(bucket) for bucket in self.buckets]
        self.next, self.sent = 0, []

    def arrived(self, parameter: Tensor) -> None:
        """A gradient is there; buckets go in order, so that all ranks send the same at a time. The last waits."""
        self.missing[self.bucket_of[id(parameter)]] -= 1
        while self.next < len(self.buckets) - 1 and self.missing[self.next] == 0:
            self.send([])

    def send(self, more: list[Tensor]) -> None:
        parameters = [p for p in self.buckets[self.next] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None] + more
        self.next += 1
        if len(gradients) == 1 and not more and gradients[0].is_contiguous():
            # A copy, for the pass that goes on may still read the gradient; nothing has to be put back from it.
            parameters[0].grad = flat = gradients[0].clone()
            self.sent.append((self.group.start_all_reduce(flat), flat, []))
        elif gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.sent.append((self.group.start_all_reduce(flat), flat, gradients))

    def end(self, report: dict[str, Tensor]) -> dict[str, Tensor]:
        """Send what is left, with the report, and put the sums in place: also for learners without a backward pass."""
        found = {name: value.detach().reshape(1) for name, value in report.items()}
        self.send(list(found.values()))
        while self.next < len(self.buckets):
            self.send([])
        for wait, flat, gradients in self.sent:
            wait()
            if gradients:
                unflatten_into(flat, gradients)
        self.sent = []
        return {name: value[0] for name, value in found.items()}

    def close(self) -> None:
        """Leave the parameters as they were found."""
        for hook in self.hooks:
            hook.remove()


def unflatten_into(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(values.view_as(tensor))


def all_reduce_metrics(report: dict[str, Tensor], group: Group) -> dict[str, Tensor]:
    """The sum of all ranks' reports, by one message."""
    values = torch.stack(list(report.values()))
    group.all_reduce(values)
    return dict(zip(report, values, strict=True))
