"""A rank's part of a plan: its parts of the parameters in the net itself, and a forward that follows the program."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.group import Group
from dlkit.models.graph import Node, map_nodes
from dlkit.models.program import GraphForward
from dlkit.strategies.graph.exchanges import Split
from dlkit.strategies.graph.plan import Bound, Plan

Layouts = Mapping[str, Split]  # by the path of a parameter or buffer


def on_rank(plan: Plan, group: Group) -> Layouts:
    """Leave the plan's net this rank's part, in place, and say how its parameters are split.

    The net keeps its modules and their names; its input and output are whole, as before. In evaluation mode, where a
    graph may not hold, it gathers its parameters and computes all of it.
    """
    net, layouts = plan.graph.net, plan.parameters
    whole_net = None if plan.graph.evaluates else skeleton(net)
    for path, layout in layouts.items():
        keep_part(net, path, layout, group)
    for step in plan.steps:
        if step.narrow is not None:
            step.narrow(net.get_submodule(step.node.target), group.rank)
    forward = GraphForward(net, bound(plan.program, net, group), plan.graph.image_shape)
    net.forward = forward if whole_net is None else EvaluatesWhole(net, forward, whole_net, layouts, group)
    return layouts


def bound(program: list[Node], net: nn.Module, group: Group) -> list[Node]:
    """The program with functions of this rank in place of `Bound` targets."""
    made: dict[Node, Node] = {}
    for node in program:
        args, kwargs = map_nodes((node.args, node.kwargs), made.__getitem__)
        target = node.target.make(net, group) if isinstance(node.target, Bound) else node.target
        made[node] = replace(node, target=target, args=args, kwargs=kwargs)
    return list(made.values())


def keep_part(net: nn.Module, path: str, layout: Split, group: Group) -> None:
    """Leave the net this rank's part of a parameter or buffer."""
    owner, _, name = path.rpartition(".")
    module = net.get_submodule(owner)
    whole = getattr(module, name)
    part = layout.part_of(whole.detach(), group.rank)
    if isinstance(whole, nn.Parameter):
        part = nn.Parameter(part, requires_grad=whole.requires_grad)
    setattr(module, name, part)


class EvaluatesWhole:
    """The split forward in training mode; in evaluation mode that of the whole net, its parameters gathered."""

    def __init__(self, net: nn.Module, forward: GraphForward, whole_net: nn.Module, layouts: Layouts, group: Group):
        self.net, self.forward, self.whole_net = net, forward, whole_net
        self.layouts, self.group = layouts, group
        self.calls = forward.calls

    def __call__(self, images: Tensor) -> Any:
        if self.net.training:
            return self.forward(images)
        own = self.net.state_dict()
        state = {name: gather_part(name, part.detach(), self.layouts, self.group) for name, part in own.items()}
        return torch.func.functional_call(self.whole_net.eval(), state, images)

    def __deepcopy__(self, memo: dict[int, Any]) -> "EvaluatesWhole":
        net, forward = copy.deepcopy(self.net, memo), copy.deepcopy(self.forward, memo)
        return EvaluatesWhole(net, forward, self.whole_net, self.layouts, self.group)


def skeleton(net: nn.Module) -> nn.Module:
    """The net as it is now, without numbers in it."""

    def empty(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    memo = {id(buffer): empty(buffer) for buffer in net.buffers()}
    memo |= {id(p): nn.Parameter(empty(p), p.requires_grad) for p in net.parameters()}
    return copy.deepcopy(net, memo)


def gather_part(name: str, part: Tensor, layouts: Layouts, group: Group) -> Tensor:
    """The whole parameter, or what is kept beside it, of which each rank of the group has a part."""
    return layouts[name].whole_of(part, group) if name in layouts else part


def scatter_whole(name: str, whole: Tensor, layouts: Layouts, group: Group) -> Tensor:
    """This rank's part of a whole parameter, or of what is kept beside it."""
    return layouts[name].part_of(whole, group.rank) if name in layouts else whole
