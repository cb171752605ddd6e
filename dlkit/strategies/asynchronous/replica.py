"""A replica's computing: what it makes of its part of the data and of the values that it is given, and of nothing else.

So the same values at the same steps give the same bits, on an engine, in simulated time, and in a replay.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import slice_of
from dlkit.data.batch import Batch
from dlkit.strategies.asynchronous.client import Contribution, Member
from dlkit.training.prepared_run import order_of
from dlkit.training.run import Run
from dlkit.training.schedules import at


class Parameters:
    """The parameters that a run trains, as one vector of `count` values, of which this rank's model may have a part."""

    def __init__(self, run: Run):
        """ValueError for parameters of several types."""
        self.shard = run.shard
        self.names = run.shard.names
        self.shapes = [torch.Size(run.shapes[name]) for name in self.names]  # of the whole
        self.counts = [shape.numel() for shape in self.shapes]
        self.count = sum(self.counts)
        self.own = dict(run.shard.model.named_parameters())
        types = sorted({str(parameter.dtype) for parameter in self.own.values()})
        if len(types) > 1:
            raise ValueError(
                f"parameters are {' and '.join(types)}, and servers keep one type: give the net one, such as "
                "dtype=torch.float32 of the Experiment."
            )
        self.dtype = next(iter(self.own.values())).dtype
        groups = run.optimizer.param_groups
        decays = {parameter: group.get("weight_decay", 0.0) for group in groups for parameter in group["params"]}
        self.decays = {name: decays.get(self.own[name], 0.0) for name in self.names if name in self.own}

    def __repr__(self) -> str:
        return f"Parameters({self.count:,} of {len(self.names)} tensors)"

    def get(self) -> Tensor:
        return self._whole(dict(self.own))

    def _whole(self, parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([self.shard.gather(name, parts[name].detach()).flatten().cpu() for name in self.names])

    @torch.no_grad()
    def set(self, values: Tensor) -> None:
        """Give the model these values."""
        for name, shape, part in zip(self.names, self.shapes, values.split(self.counts), strict=True):
            if name in self.own:
                self.own[name].copy_(self.shard.scatter(name, part.view(shape)))

    def clear_gradient(self) -> None:
        for parameter in self.own.values():
            parameter.grad = None

    def gradient(self) -> Tensor:
        """With weight decay, which an optimizer would add."""
        parts = {}
        for name in self.names:
            parameter = self.own[name]
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()
            if decay := self.decays[name]:
                gradient = gradient.add(parameter.detach(), alpha=decay)
            parts[name] = gradient
        return self._whole(parts)


class Replica:
    """A replica of Downpour SGD: pushes the sum of `push` gradients.

    between: whether it takes steps of its own from one fetch to the next, at the experiment's rate, as in the paper;
    where the servers' rates are others, the values stay as they were fetched.
    """

    def __init__(self, run: Run, parameters: Parameters, member: Member, *, push: int = 1, between: bool = False):
        """ValueError if its part of the data has no batch."""
        experiment = run.experiment
        part = slice_of(len(run.data.images), member.part, member.parts)
        if part.count < experiment.batch_size:
            raise ValueError(
                f"{member.parts} replicas have {part.count} images or so each, fewer than a batch of "
                f"{experiment.batch_size}: take fewer replicas, or make batch_size smaller."
            )
        self.run, self.parameters, self.member = run, parameters, member
        self.every, self.between = push, between
        self.first, self.images = part.start, part.count
        self.learner = copy.deepcopy(run.shard.learner)
        self.generator = ShardedGenerator(run.generator.device).manual_seed(experiment.seed + member.number)
        if not member.number:
            self.generator.set_state(run.generator.get_state())  # what the learner has drawn for its start is drawn
        self.steps = 0
        self.values = torch.empty(0)
        self.projects = False  # does the learner itself change the values that it is given?
        self._order = torch.empty(0)  # of this epoch
        self._accrued: Tensor | None = None
        self._metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.member}, {self.steps} steps)"

    @property
    def lr(self) -> float:
        """At this replica's own step."""
        return at(self.run.experiment.lr, self.steps * self.run.experiment.batch_size / self.images)

    def step(self, fetched: Tensor | None) -> Contribution | None:
        """Learn from one more batch. fetched: values to begin it with. What there is to push then, if it is time."""
        if fetched is not None:
            self.values = fetched
        gradient = self.gradient()
        if self.between:
            self.values = self.values.sub(gradient, alpha=self.lr)
        self._accrued = gradient if self._accrued is None else self._accrued + gradient
        self.steps += 1
        if self.steps % self.every:
            return None
        pushed, self._accrued = self._accrued, None
        return self._contribution(pushed)

    def _contribution(self, values: Tensor, batches: int | None = None) -> Contribution:
        metrics, self._metrics = self._metrics, {}
        return Contribution(values, self.steps, self.every if batches is None else batches, metrics)

    def gradient(self) -> Tensor:
        """Of the next batch, at this replica's values. ValueError where servers would not learn of what a pass does."""
        run, parameters = self.run, self.parameters
        parameters.set(self.values)
        model: nn.Module = run.shard.model
        buffers = {} if self.steps else {name: value.clone() for name, value in model.named_buffers()}
        batch = self._batch()
        parameters.clear_gradient()
        run.shard.learner = self.learner
        with run.own_generators(self.steps * self.member.parts + self.member.number):
            metrics = run.shard.fill_grad(batch, self.generator)
        refuse_running_averages(model, buffers)
        if not self.steps or self.projects:
            self._take_projection(batch)
        for name, value in metrics.items():
            self._metrics[name] = self._metrics.get(name, 0.0) + float(value)
        return parameters.gradient()

    def _take_projection(self, batch: Batch) -> None:
        """What the learner has itself made of the values, such as parts of length 1. ValueError if it is no projection,
        which a second time changes nothing: it would be lost on the way to the servers.
        """
        found = self.parameters.get()
        self.projects = not torch.equal(found, self.values)
        if self.projects and not self.steps:
            again = copy.deepcopy(self.learner)
            gradients = {name: parameter.grad for name, parameter in self.parameters.own.items()}
            again.fill_weighted_grad(self.run.shard.model, batch, ShardedGenerator(self.generator.device))
            for name, gradient in gradients.items():
                self.parameters.own[name].grad = gradient
            if not torch.allclose(self.parameters.get(), found, rtol=1e-5, atol=1e-7):
                raise ValueError(
                    f"{type(self.learner).__name__} moves the parameters itself, and servers learn of gradients only: "
                    "let it fill .grad, and leave the step to the servers."
                )
        self.values = found

    def _batch(self) -> Batch:
        """Those of its part in an order that follows from the seed: of one replica, the order of `Experiment.run`."""
        size, seed = self.run.experiment.batch_size, self.run.experiment.seed
        epoch, position = divmod(self.steps, -(-self.images // size))
        if position == 0:
            again = self.member.number - self.member.part  # of one that has come anew, another order
            self._order = self.first + order_of(self.images, seed + again, epoch)
        return self.run.shard.select(self.run._on_device, self._order[position * size :][:size].to(self.run.device))


def take_values(run: Run, parameters: Parameters, values: Tensor) -> nn.Module:
    """The run's model with these values, and with what its learner makes of them itself, such as parts of length 1."""
    parameters.set(values)
    batch = run.first_images(run.experiment.batch_size)
    generator = ShardedGenerator(run.generator.device)
    with run.own_generators(0):
        copy.deepcopy(run.learner).fill_weighted_grad(run.model, batch, generator)
    run.model.zero_grad()
    return run.model.cpu()


def refuse_running_averages(model: nn.Module, before: dict[str, Tensor]) -> None:
    """ValueError if a pass has changed a buffer: no gradient tells the servers of that."""
    after = dict(model.named_buffers())
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    if changed:
        raise ValueError(
            f"a pass changes {changed[0]}, which is no parameter, so that servers do not learn of it: use nn.GroupNorm "
            "or nn.LayerNorm in place of BatchNorm, or DataParallel."
        )


def refuse_optimizer_state(experiment: Any, optimizer: torch.optim.Optimizer, *, momentum: bool = False) -> None:
    """ValueError for what keeps anything from step to step: here servers take the steps."""
    if type(optimizer) is not torch.optim.SGD or (experiment.momentum and not momentum):
        raise ValueError(
            f"{type(optimizer).__name__} keeps state from step to step, or is not SGD, and here the servers take the "
            "steps: leave optimizer and momentum out of the Experiment, and choose the servers' rule."
        )
