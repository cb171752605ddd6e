"""A script for torchrun, in torch alone but for the net and the digits: LeNet-5 under DistributedDataParallel.

Arguments: images a batch, steps, and steps before them that are not timed. Rank 0 prints the seconds of the steps.
"""

import os
import sys
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dlkit import data
from dlkit.cluster.placement import can_pin, placements
from dlkit.models import LeNet5

LR, MOMENTUM = 0.001, 0.9


def main(batch: int, steps: int, warm: int) -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if can_pin():
        os.sched_setaffinity(0, placements(ranks, gpus=0)[rank].cores)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds = train(LeNet5(), data.load("mnist").train, batch, steps, warm)
    if rank == 0:
        print(seconds, flush=True)
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo's may still let go of tensors, and abort an interpreter that is ending


def train(lenet: nn.Module, digits: data.Split, batch: int, steps: int, warm: int) -> float:
    """Seconds of `steps` steps, after `warm` that are not timed; each rank takes its part of each batch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    images, labels = digits.images, torch.as_tensor(digits.labels)
    net = DistributedDataParallel(lenet)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM, fused=True)
    begun = time.perf_counter()
    for step, picked in enumerate(batches(len(images), batch, warm + steps)):
        if step == warm:
            begun = time.perf_counter()
        mine = picked.tensor_split(ranks)[rank]
        optimizer.zero_grad()
        F.cross_entropy(net(images.index_select(0, mine)), labels.index_select(0, mine)).backward()
        optimizer.step()
    return time.perf_counter() - begun


def batches(count: int, batch: int, steps: int) -> Iterator[torch.Tensor]:
    """The indices of each batch, in an order that is another in each epoch."""
    generator = torch.Generator().manual_seed(0)
    while steps > 0:
        for picked in torch.randperm(count, generator=generator).split(batch)[:steps]:
            steps -= 1
            yield picked


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
