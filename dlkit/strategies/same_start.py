"""All ranks start from rank 0's model, whatever weights, in whatever order of layers, each has made."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlkit.distributed.group import Group

Order = dict[str, tuple[list[str], list[str], list[str]]]


def start_from_rank_0(model: nn.Module, state: dict[str, Tensor], group: Group) -> None:
    """Give every rank rank 0's order of layers, parameters and buffers, and of the learner's `state`, by name.

    All ranks of the group call it. ValueError if a rank has made another model than rank 0.
    """
    order = order_of(model)
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in named_tensors(model, state).items()}
    (first_order, first_shapes), *others = group.gather_objects((order, shapes))
    for rank, (_, other_shapes) in enumerate(others, 1):
        if other_shapes != first_shapes:
            pairs = set(first_shapes.items()) ^ set(other_shapes.items())
            name = min(name for name, _ in pairs)
            here, there = (shapes.get(name, "none") for shapes in (first_shapes, other_shapes))
            raise ValueError(
                f"ranks 0 and {rank} have made other models, {name} is {here} on one and {there} on the other: make "
                "the same layers, of the same sizes, on each."
            )
    if order != first_order:
        put_in_order(model, first_order)
    tensors = named_tensors(model, state)
    for dtype in sorted({value.dtype for value in tensors.values()}, key=str):
        same = [tensors[name].detach() for name in sorted(tensors) if tensors[name].dtype == dtype]
        flat = torch.cat([value.flatten() for value in same])
        staged = group.staged(flat)
        dist.broadcast(staged, group=group.process_group, group_src=0)
        if group.rank > 0:
            for value, own in zip(same, staged.to(flat.device).split([value.numel() for value in same]), strict=True):
                value.copy_(own.view_as(value))


def named_tensors(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters, buffers, and the learner's state."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return named | {f"learner.{name}": value for name, value in state.items()}


def order_of(model: nn.Module) -> Order:
    """The names of each module's children, parameters and buffers, in the order in which it has them."""
    return {path: (list(m._modules), list(m._parameters), list(m._buffers)) for path, m in model.named_modules()}


def put_in_order(model: nn.Module, order: Order) -> None:
    """Give each module the order of another model that has the same names, as layers made from a set may have."""
    for path, module in model.named_modules():
        for own, names in zip((module._modules, module._parameters, module._buffers), order[path], strict=True):
            in_order: dict[str, Any] = {name: own[name] for name in names}
            own.clear()
            own.update(in_order)
