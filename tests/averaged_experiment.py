"""Model averaging in one process, in plain torch: replicas that are trained by turns, and meet."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlkit.core.global_generators import seeded
from dlkit.data import Batch
from dlkit.training import Learner


def average_sequentially(
    made: Any, every: int, steps: int, ranks: int = 2, keep: Collection[int] = ()
) -> dict[int, dict[str, Tensor]]:
    """The replicas' mean, as a state dict, after the last step, and after each of those to `keep`.

    Each replica trains on its part of every batch by torch's own SGD, whose momentum stays its own; after `every` steps
    all take the mean of their parameters. Parts that are not equal weigh as their images do, so that the replicas'
    gradients have the whole batch's mean. `made`: an Experiment of a learner that backpropagates. Draws are made for
    the whole batch, under the step's seed: a replica takes all of it, and learns from its own rows. One with BatchNorm
    takes its own part alone, and must not draw.
    """
    images, labels = made.data
    replicas = [made.initial_model() for _ in range(ranks)]
    learner = copy.deepcopy(made.learner)
    generator = torch.Generator()
    learner.start(replicas[0], Batch(images, labels), made.batch_size, generator)
    optimizers = [torch.optim.SGD(net.parameters(), lr=made.lr, momentum=made.momentum) for net in replicas]
    kept, alone = {}, any(isinstance(module, _BatchNorm) for module in replicas[0].modules())
    for step in range(steps):
        batch = picked(made, step)
        for rank, (net, optimizer) in enumerate(zip(replicas, optimizers, strict=True)):
            optimizer.zero_grad()
            own = torch.arange(len(batch)).tensor_split(ranks)[rank]
            with seeded(made.seed, step, names=("torch",)):
                loss = loss_of(net, learner, batch, own, generator, alone=alone)
            (loss * ranks * len(own) / len(batch)).backward()
            optimizer.step()
        if (step + 1) % every == 0:
            with torch.no_grad():
                for same in zip(*(net.parameters() for net in replicas), strict=True):
                    mean = sum(same) / ranks
                    for parameter in same:
                        parameter.copy_(mean)
        if step + 1 in keep or step + 1 == steps:
            kept[step + 1] = mean_state(replicas)
    return kept


def picked(made: Any, step: int) -> Batch:
    """The batch of a step: the order of an epoch follows from the seed and its number."""
    images, labels = made.data
    epoch, position = divmod(step, -(-len(images) // made.batch_size))
    generator = torch.Generator().manual_seed(made.seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator)[position * made.batch_size :][: made.batch_size]
    return Batch(images[order], labels[order])


def loss_of(
    net: nn.Module, learner: Learner, batch: Batch, own: Tensor, generator: torch.Generator, *, alone: bool
) -> Tensor:
    """The loss of these rows. alone: without the other rows in the net."""
    part = Batch(batch.images[own], batch.labels[own])
    if alone:
        return learner.loss(net(learner.own_inputs(part, generator)), part)[0]
    output = net(learner.own_inputs(batch, generator))
    rows = output[own] if isinstance(output, Tensor) else tuple(one[own] for one in output)
    return learner.loss(rows, part)[0]


def mean_state(replicas: list[nn.Module]) -> dict[str, Tensor]:
    """The mean of what is a floating-point number; the rest is the first replica's."""
    states = [net.state_dict() for net in replicas]
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first.clone()
        for name, first in states[0].items()
    }
