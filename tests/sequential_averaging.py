"""Model averaging in one process, in plain torch: copies of a net trained apart on their parts, and averaged."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def parts_of(count: int, ranks: int) -> list[slice]:
    """Of `count` images those of each rank: next to each other, the larger parts first."""
    sizes = [count // ranks + (rank < count % ranks) for rank in range(ranks)]
    return [slice(sum(sizes[:rank]), sum(sizes[: rank + 1])) for rank in range(ranks)]


def batches_of(
    images: Tensor, labels: Tensor, batch_size: int, steps: int, seed: int = 0
) -> Iterator[Sequence[Tensor]]:
    """The batches of an Experiment's steps: each epoch in an order of its own."""
    epoch = 0
    while steps > 0:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for rows in order.split(batch_size)[:steps]:
            yield images[rows], labels[rows]
            steps -= 1
        epoch += 1


@torch.no_grad()
def average(nets: Sequence[nn.Module]) -> None:
    """Give all nets the mean of their parameters and of their buffers of floats; those of whole numbers must agree."""
    for tensors in zip(*([*net.parameters(), *net.buffers()] for net in nets), strict=True):
        if tensors[0].is_floating_point():
            mean = torch.stack(list(tensors)).mean(0)
            for tensor in tensors:
                tensor.copy_(mean)
        else:
            assert all(torch.equal(tensor, tensors[0]) for tensor in tensors)


def average_sequentially(
    net: nn.Module,
    batches: Any,
    ranks: int,
    every: int,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    loss: Callable[[Any, Tensor, Tensor], Tensor] = lambda output, images, labels: nn.functional.cross_entropy(
        output, labels
    ),
) -> dict[str, Tensor]:
    """The state of the mean of `ranks` nets that start as `net`, each trained on its part of each batch.

    Every `every` steps all take their mean. A part's loss is a mean over its images, times the number of ranks and its
    fraction of the batch, which is 1 where parts are equal.
    """
    nets = [copy.deepcopy(net).train() for _ in range(ranks)]
    optimizers = [optimizer(one) for one in nets]
    for step, (images, labels) in enumerate(batches, 1):
        for one, own, part in zip(nets, optimizers, parts_of(len(images), ranks), strict=True):
            own.zero_grad()
            x, y = images[part], labels[part]
            (loss(one(x.clone()), x, y) * (ranks * len(x) / len(images))).backward()
            own.step()
        if step % every == 0:
            average(nets)
    average(nets)
    return nets[0].state_dict()
