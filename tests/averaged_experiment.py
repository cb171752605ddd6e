"""An Experiment by model averaging in one process, in plain torch; the nets may draw random numbers."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from sequential_averaging import average, batches_of, parts_of
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlkit.core.global_generators import seeded
from dlkit.data import Batch
from dlkit.training import Backprop

State = dict[str, Tensor]


def average_in_turn(
    made: Any, every: int, steps: int, ranks: int = 2, keep: Collection[int] = (), *, turned: bool = False
) -> dict[int, State]:
    """The replicas' mean after the last step, and after each of those to `keep`.

    Each replica trains on its part of every batch by torch's own SGD, whose momentum stays its own; after `every` steps
    all take their mean. A part's loss is weighted as in `sequential_averaging`. `made`: an Experiment of a Backprop.
    Draws are made for the whole batch, under the step's seed: a replica is given all of it, and learns from its own
    rows. One with BatchNorm is given its own part alone, and must not draw. turned: each part from its last image to
    its first, which changes rounding alone.
    """
    images, labels = made.data
    replicas = [made.initial_model() for _ in range(ranks)]
    learner, generator = copy.deepcopy(made.learner), torch.Generator()
    learner.start(replicas[0], Batch(images, labels), made.batch_size, generator)
    optimizers = [torch.optim.SGD(net.parameters(), lr=made.lr, momentum=made.momentum) for net in replicas]
    alone = any(isinstance(module, _BatchNorm) for module in replicas[0].modules())
    kept: dict[int, State] = {}
    for step, rows in enumerate(batches_of(images, labels, made.batch_size, steps, made.seed)):
        batch = Batch(*rows)
        for net, optimizer, part in zip(replicas, optimizers, parts_of(len(batch), ranks), strict=True):
            optimizer.zero_grad()
            with seeded(made.seed, step, names=("torch",)):
                rows_of_part = torch.arange(part.start, part.stop)
                order = rows_of_part.flip(0) if turned else rows_of_part
                loss = loss_of(net, learner, batch, order, generator, alone=alone)
            (loss * ranks * (part.stop - part.start) / len(batch)).backward()
            optimizer.step()
        if (step + 1) % every == 0:
            average(replicas)
        if step + 1 in keep or step + 1 == steps:
            average(copies := copy.deepcopy(replicas))
            kept[step + 1] = copies[0].state_dict()
    return kept


def loss_of(
    net: nn.Module, learner: Backprop, batch: Batch, part: Tensor, generator: torch.Generator, *, alone: bool
) -> Tensor:
    """The loss of a part of a batch. alone: without the other rows in the net."""
    own = Batch(batch.images[part], batch.labels[part])
    if alone:
        return learner.loss(net(learner.own_inputs(own, generator)), own)[0]
    output = net(learner.own_inputs(batch, generator))
    rows = output[part] if isinstance(output, Tensor) else tuple(one[part] for one in output)
    return learner.loss(rows, own)[0]
