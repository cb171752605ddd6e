"""Solutions to the exercises of notebook 09, each with a line of why. Try first: the checks give hints."""

import torch
import torch.nn.functional as F
from torch import nn

from dlkit.strategies import TensorParallel

# 1. Gather or reduce. Columns of W are different units, and each rank has finished its own; rows of W are different
#    inputs, and each rank has a part of the sum of every unit.


def put_together(parts, split):
    return torch.cat(parts, dim=1) if split == "columns" else torch.stack(parts).sum(0)


# 2. The free energy in parts. Given v, hidden units are independent, so that each adds its own term. The visible units
#    are on every rank, and so one of them counts their biases.


def free_energy_part(v, a, W, b, rank):
    hidden = -F.softplus(b + v @ W).sum(1)
    return hidden - v @ a if rank == 0 else hidden


# 3. The halo. A layer's m rows see (m - 1) stride + kernel rows, which are kernel - stride more than m stride; rows of
#    a layer are as many rows of the image apart as the strides below it make.


def halo(layers):
    rows, step = 0, 1
    for kernel, stride in layers:
        rows += (kernel - stride) * step
        step *= stride
    return rows


# 4. Microbatches. The bubble shrinks with each one more.


def microbatches(stages, most):
    count = 1
    while (stages - 1) / (count + stages - 1) >= most:
        count += 1
    return count


# 5. A skip. Ranks that have the same maps of both branches, or all of both, add what they have. Of a whole branch each
#    rank drops what it does not need. If both are split, and otherwise, then one is gathered: each rank sends its part
#    to each other rank, so that all maps are sent world_size - 1 times.


def add_split(one, other, size):
    if one == other:
        return "nothing", 0
    if one == "whole":
        return "cut one", 0
    if other == "whole":
        return "cut other", 0
    maps = sum(len(part) for part in one)
    return "gather one", (len(one) - 1) * maps * size


# Open task. By data each rank holds all weights, and sends all gradients: neither fits. One wide hidden layer that is
# split by columns, and its output layer by rows, holds a quarter of everything, and sends ten numbers an image.


def design():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 10))
    return net, TensorParallel(), 0.05
