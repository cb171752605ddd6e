"""A net's graph, held against the net by trial before anybody uses it: the same outputs, gradients and buffers."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dlkit.models.graph import NetGraph
from dlkit.models.joined_traces import trace
from dlkit.models.program import GraphForward

STEPS = (3, 5)  # images of the batches that both are given, one after the other


def graph_of(net: nn.Module, images: Tensor, copied: Callable[[nn.Module], nn.Module] = copy.deepcopy) -> NetGraph:
    """The graph of `net` for batches of images like these (batch, ...), of which a few are taken, as `trace` gives it.

    ValueError, with the line or with what differs, for a net that is not what any graph of it says, to the bit: one
    that keeps a count in an attribute, say, or draws by Python's random.
    """
    images = images.detach()[torch.arange(max(STEPS), device=images.device) % len(images)]
    graph = trace(net, images, copied)
    own, other = copied(net), copied(net)
    other.forward = GraphForward(other, graph.nodes, graph.image_shape)
    with torch.random.fork_rng(devices=[]):
        if wrong := _difference(_steps(own, images), _steps(other, images)):
            raise ValueError(
                f"{type(net).__name__} cannot be read as a graph of its layers: run again, the graph gives another "
                f"{wrong} than the net, which may keep something in an attribute, or look at something else than its "
                "images; use DataParallel, which runs it as it is."
            )
        if graph.evaluates:
            graph.evaluates = _evaluates(own, other, images)
    return graph


def _steps(net: nn.Module, images: Tensor) -> list[tuple[str, Tensor]]:
    """What a few passes in training mode give, by name."""
    torch.manual_seed(0)
    found: list[tuple[str, Tensor]] = []
    net.train(net.training)
    for count in STEPS:
        net.zero_grad()
        outputs = tensors_of(net(images[:count].clone()))
        floats = [output for output in outputs if output.is_floating_point() and output.requires_grad]
        if floats:
            torch.stack([output.square().sum() for output in floats]).sum().backward()
        found += [("output", output.detach()) for output in outputs]
        found += [(f"gradient of {name}", p.grad) for name, p in net.named_parameters() if p.grad is not None]
    return found + [(f"buffer {name}", buffer) for name, buffer in net.named_buffers()]


def _difference(own: list[tuple[str, Tensor]], other: list[tuple[str, Tensor]]) -> str:
    """The name of the first that is not the same; "" if all are."""
    for (name, one), (its_name, two) in zip(own, other, strict=False):
        same = name == its_name and one.shape == two.shape and one.dtype == two.dtype
        if not same or not torch.equal(torch.nan_to_num(one.cpu()), torch.nan_to_num(two.cpu())):
            return name
    return "" if len(own) == len(other) else "number of outputs or gradients"


def _evaluates(own: nn.Module, other: nn.Module, images: Tensor) -> bool:
    """Whether the graph gives in evaluation mode what the net does, but for the rounding of torch's fast paths."""
    with torch.no_grad():
        outputs = []
        for net in (own, other):
            torch.manual_seed(0)
            outputs.append(tensors_of(net.eval()(images.clone())))
        pairs = zip(*outputs, strict=False)
        return len(outputs[0]) == len(outputs[1]) and all(
            a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-5, equal_nan=True) for a, b in pairs
        )


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a net gives."""
    return [value for value in pytree.tree_leaves(output) if isinstance(value, Tensor)]
