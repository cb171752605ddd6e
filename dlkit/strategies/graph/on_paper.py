"""A net's graph for what is told on paper, costs and explanations: of a copy of the net, remembered for a while."""

import weakref
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import nn

from dlkit.models.graph import NetGraph, Node
from dlkit.models.graph_check import STEPS, graph_of
from dlkit.strategies.checks import class_name
from dlkit.strategies.graph.plan import Plan, Walk, plan_split


class _Remembered(NamedTuple):
    net: Any  # a weak reference to the reader's
    looks: Any
    graph: NetGraph


_remembered: deque[_Remembered] = deque(maxlen=8)  # a widget asks for all strategies of a few nets, again and again


def paper_graph(net: nn.Module, image_shape: Sequence[int]) -> NetGraph:
    """The graph of a float32 copy of the net on the CPU, in training mode, for images of this shape.

    ValueError, with the reason, where the net does not take such images, or cannot be read as a graph.
    """
    looks = looks_of(net), tuple(image_shape)
    for known in _remembered:
        if (known.net() is net and known.looks == looks) or (known.graph.net is net and known.looks[1] == looks[1]):
            return known.graph
    if getattr(net.forward, "__func__", None) is nn.Module.forward:
        raise ValueError(
            f"{class_name(net)} has no forward that images go through, to be split: use DataParallel or TensorParallel."
        )
    images = torch.rand(max(STEPS), *image_shape, generator=torch.Generator().manual_seed(0))
    copied = deepcopy(net).cpu().float().train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            deepcopy(copied)(images.clone())
    except Exception as error:  # the reader's forward may raise anything
        text = str(error).split("\n")[0].rstrip(".")
        raise ValueError(
            f"{class_name(net)} does not take images of shape {tuple(image_shape)} ({type(error).__name__}: {text}): "
            "give the shape of one image, without the batch, as the net takes it, such as (3, 32, 32)."
        ) from error
    graph = graph_of(copied, images)
    _remembered.append(_Remembered(weakref.ref(net), looks, graph))
    return graph


def looks_of(net: nn.Module) -> Any:
    """What a net's graph follows from, as far as it can be seen: its modules, and their parameters' shapes."""
    shapes = [(name, p.shape, p.requires_grad, id(p)) for name, p in net.named_parameters(remove_duplicate=False)]
    return repr(net), shapes, [module.training for module in net.modules()]


def plan_by_images(graph: NetGraph, world_size: int) -> Plan:
    """Each rank computes all of the net, for its images: nothing is exchanged but gradients, and BatchNorm's sums."""
    plan = plan_split(graph, world_size, _ByImages())
    plan.steps[-1].along = "images"  # gradients of parameters that no node takes are summed too
    return plan


class _ByImages:
    def visit(self, walk: Walk, node: Node) -> None:
        walk.step(node, along="images")
