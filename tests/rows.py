"""A net split by rows in a rank's process, and what it computes."""

import torch
from oracles import seeded
from torch.utils import _pytree as pytree

from dlkit.distributed.array import Grid
from dlkit.distributed.group import Group
from dlkit.models.graph_check import graph_of
from dlkit.strategies.spatial.spatial_parallel import SpatialParallel, SpatialShard, split_over_grid


def split_by_rows(net, images, group=None, grid=None):
    """Leaves the net this rank's rows, or tile; gives what a shard has to gather and to sum by."""
    group, strategy = group or Group(), SpatialParallel(grid)
    plan = strategy.plan(graph_of(net, images), group.world_size)
    shard = SpatialShard.__new__(SpatialShard)
    shard.model, shard.group, shard.splits_layers = net, group, group
    shard.layouts = split_over_grid(plan, Grid(group, strategy.shape(group.world_size)))
    shard.summed = plan.summed
    return shard


def answer_and_gradients(net, images, finish=lambda: None):
    outputs = [output for output in pytree.tree_leaves(net(images)) if isinstance(output, torch.Tensor)]
    generator = seeded(2)
    net.zero_grad()
    torch.stack([
        (output * torch.randn(output.shape, dtype=output.dtype, generator=generator)).sum() for output in outputs
    ]).sum().backward()  # fmt: skip
    finish()
    found = {f"answer {number}": output.detach() for number, output in enumerate(outputs)}
    return found | {name: p.grad for name, p in net.named_parameters() if p.requires_grad}


def split_pass(net, images, group=None, grid=None):
    """On each rank: the answer, and the whole's gradients."""
    shard = split_by_rows(net, images, group, grid)
    found = answer_and_gradients(net, images, shard.reduce_gradients)
    return {name: value if value is None else shard.gather(name, value) for name, value in found.items()}
