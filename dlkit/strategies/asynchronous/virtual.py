"""Replicas that train asynchronously, in one process and in simulated time: who pushes when is told by an order.

A replica fetches parameters, computes a gradient on its own part of the data, pushes it, and fetches again. So the
order in which pushes arrive decides everything: the same order gives the same bits.
"""

import copy
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import slice_of
from dlkit.data.batch import Batch
from dlkit.strategies.asynchronous.parameter_shard import ParameterShard, Push
from dlkit.strategies.asynchronous.rules import Adagrad, Rule
from dlkit.training.experiment import Experiment
from dlkit.training.history import History, Row
from dlkit.training.prepared_run import order_of
from dlkit.training.run import Run
from dlkit.training.schedules import at
from dlkit.training.shard import trained

SPREAD = 0.1  # of the time that a gradient takes, relative


def arrivals(replicas: int, *, seed: int = 0, slowed: dict[int, float] | None = None) -> Iterator[int]:
    """The replicas in the order in which their pushes arrive, without an end.

    Each gradient takes a time that is drawn, with a mean of 1, or of `slowed[replica]`, and a deviation of a tenth of
    that; fetches and pushes take none. ValueError for fewer than one replica.
    """
    if replicas < 1:
        raise ValueError(f"{replicas} replicas: at least 1.")
    generator = torch.Generator().manual_seed(seed)
    slowed = slowed or {}

    def taken(replica: int) -> float:
        drawn = 1 + SPREAD * float(torch.randn((), generator=generator, dtype=torch.float64))
        return max(drawn, SPREAD) * slowed.get(replica, 1.0)

    due = [(taken(replica) * float(torch.rand((), generator=generator)), replica) for replica in range(replicas)]
    heapq.heapify(due)
    while True:
        now, replica = heapq.heappop(due)
        yield replica
        heapq.heappush(due, (now + taken(replica), replica))


class VirtualRun:
    """A training by replicas that are all in this process: `model`, `history`, `staleness`, `order`.

    order: the replica of each update, in their order. staleness: of how many gradients each was.
    """

    def __init__(self, experiment: Experiment, replicas: int, rule: Callable[[], Rule]):
        """ValueError for an optimizer with state of its own, and for nets with running averages."""
        self.experiment, self.rule = experiment, rule
        self.run = Run(experiment, None, torch.device("cpu"), None, capture=False)
        refuse_optimizer_state(experiment, self.run.optimizer)
        self.model: nn.Module = self.run.model
        self.history = History()
        self.order: list[int] = []
        named = dict(self.model.named_parameters())
        self.parameters = [named[name] for name in trained(self.model)]
        groups = self.run.optimizer.param_groups
        self.decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
        self.shard = ParameterShard(torch.cat([p.detach().flatten() for p in self.parameters]), rule())
        self.replicas = [Replica(self, number, replicas) for number in range(replicas)]

    def __repr__(self) -> str:
        return (
            f"VirtualRun({len(self.replicas)} replicas, {self.shard.version:,} updates, mean staleness "
            f"{self.mean_staleness:.2f})"
        )

    @property
    def staleness(self) -> Counter[int]:
        return self.shard.staleness

    @property
    def mean_staleness(self) -> float:
        count = self.staleness.total()
        return sum(staleness * times for staleness, times in self.staleness.items()) / count if count else 0.0

    @property
    def epoch(self) -> float:
        """Of all replicas together."""
        return self.shard.version * self.experiment.batch_size / len(self.run.data.images)

    def replay(self) -> "VirtualRun":
        """The same run again, by its recorded order."""
        again = VirtualRun(self.experiment, len(self.replicas), self.rule)
        return again.train(self.order, len(self.order))

    def train(
        self,
        order: Iterable[int],
        updates: int,
        callbacks: Sequence[Callable[["VirtualRun"], dict[str, float] | None]] = (),
        *,
        progress: bool = False,
    ) -> "VirtualRun":
        """Take so many updates more. Callbacks see the run at each row of the history, with the server's parameters."""
        sums: dict[str, float] = {}
        every = self.experiment.row_every or self.run.steps_per_epoch
        since = self.shard.version
        for number in tqdm(islice(order, updates), total=updates, unit="update", disable=not progress):
            replica = self.replicas[number]
            lr = at(self.experiment.lr, self.epoch)
            push, metrics = replica.computed()
            self.shard.push(push, lr)
            self.order.append(number)
            replica.fetch()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            if self.shard.version % every == 0:
                self._add_row(sums, self.shard.version - since, lr, callbacks)
                sums, since = {}, self.shard.version
        if sums:
            self._add_row(sums, self.shard.version - since, at(self.experiment.lr, self.epoch), callbacks)
        self.load(self.shard.values)
        return self

    def _add_row(self, sums: dict[str, float], count: int, lr: float, callbacks: Sequence[Any]) -> None:
        means = {name: value / count for name, value in sums.items()}
        row: Row = {"step": self.shard.version, "epoch": self.epoch, **means, "lr": lr}
        self.history.append(row)
        self.load(self.shard.values)
        for callback in callbacks:
            row.update(callback(self) or {})

    def load(self, values: Tensor) -> None:
        """Give the model these parameters."""
        with torch.no_grad():
            parts = values.split([p.numel() for p in self.parameters])
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))


class Replica:
    """One of several: its part of the data, its learner with what that keeps, and the parameters it has fetched."""

    def __init__(self, virtual: VirtualRun, number: int, count: int):
        run, experiment = virtual.run, virtual.experiment
        self.virtual, self.number, self.count = virtual, number, count
        part = slice_of(len(run.data.images), number, count)
        if part.count < experiment.batch_size:
            raise ValueError(
                f"{count} replicas have {part.count} images or so each, fewer than a batch of {experiment.batch_size}: "
                "take fewer replicas, or make batch_size smaller."
            )
        self.first, self.images = part.start, part.count
        self.learner = copy.deepcopy(run.learner)
        self.generator = ShardedGenerator().manual_seed(experiment.seed + number)
        self.sequence = 0
        self.order = torch.empty(0)  # of this epoch
        self.version, self.values = virtual.shard.fetch()

    def __repr__(self) -> str:
        return f"Replica({self.number} of {self.count}, {self.sequence} pushes)"

    def fetch(self) -> None:
        self.version, self.values = self.virtual.shard.fetch()

    def computed(self) -> tuple[Push, dict[str, Tensor]]:
        """The gradient of its next batch at what it has fetched, and the batch's metrics."""
        virtual, run = self.virtual, self.virtual.run
        virtual.load(self.values)
        buffers = {} if self.sequence else {name: value.clone() for name, value in virtual.model.named_buffers()}
        batch = self._batch()
        for parameter in virtual.parameters:
            parameter.grad = None
        with run.own_generators(self.sequence * self.count + self.number), run.shard.drawing_for(batch):
            metrics = self.learner.fill_weighted_grad(virtual.model, batch, self.generator)
        refuse_running_averages(virtual.model, buffers)
        self.sequence += 1
        return Push(self.number, self.sequence, self.version, self._gradient()), metrics

    def _gradient(self) -> Tensor:
        """With weight decay, which the optimizer would add."""
        parts = []
        for parameter in self.virtual.parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if decay := self.virtual.decays[parameter]:
                gradient = gradient.add(parameter.detach(), alpha=decay)
            parts.append(gradient.flatten())
        return torch.cat(parts)

    def _batch(self) -> Batch:
        """Those of its part in an order that follows from the seed: of one replica, the order of `Experiment.run`."""
        size, seed = self.virtual.experiment.batch_size, self.virtual.experiment.seed
        epoch, position = divmod(self.sequence, -(-self.images // size))
        if position == 0:
            self.order = self.first + order_of(self.images, seed, epoch)
        return self.virtual.run.shard.select(self.virtual.run.data, self.order[position * size :][:size])


def train_virtually(
    experiment: Experiment,
    replicas: int,
    updates: int,
    rule: Callable[[], Rule] = Adagrad,
    *,
    slowed: dict[int, float] | None = None,
    callbacks: Sequence[Callable[[VirtualRun], dict[str, float] | None]] = (),
    progress: bool = False,
) -> VirtualRun:
    """Downpour SGD by `replicas` in simulated time: each pushes to one server, and never waits for another.

    `rule` makes the server's: Adagrad, Plain or ByStaleness. `slowed`: how many times as long a replica's gradients
    take. Source: Dean et al. 2012, Large scale distributed deep networks, §4.1.
    """
    virtual = VirtualRun(experiment, replicas, rule)
    order = arrivals(replicas, seed=experiment.seed, slowed=slowed)
    return virtual.train(order, updates, callbacks, progress=progress)


def refuse_optimizer_state(experiment: Experiment, optimizer: torch.optim.Optimizer) -> None:
    """ValueError for what keeps anything from step to step: here servers take the steps."""
    if type(optimizer) is not torch.optim.SGD or experiment.momentum:
        raise ValueError(
            f"{type(optimizer).__name__} keeps state from step to step, or is not SGD, and here the servers take the "
            "steps: leave optimizer and momentum out of the Experiment, and choose the servers' rule."
        )


def refuse_running_averages(model: nn.Module, before: dict[str, Tensor]) -> None:
    """ValueError if a pass has changed a buffer: no gradient tells the servers of that."""
    after = dict(model.named_buffers())
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    if changed:
        raise ValueError(
            f"a pass changes {changed[0]}, which is no parameter, so that servers do not learn of it: use nn.GroupNorm "
            "or nn.LayerNorm in place of BatchNorm, or DataParallel."
        )
