"""The open task of notebook 05, measured: how large a net is, and how well it reads after a short training."""

import copy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from dlkit import Experiment, data
from dlkit.analysis import by_net, counts, error
from dlkit.exercises import Hint, students_code
from dlkit.training import CrossEntropy, linear_schedule

PARAMETERS, CONNECTIONS, STEPS = 2_000, 40_000, 200
DIGITS = 2_000  # of validation


class SmallNet(NamedTuple):
    """How large a net is, for one image."""

    net: nn.Module
    parameters: int
    connections: int


def counted(answer: Any) -> SmallNet:
    """The net that the answer makes, or is, and its counts. Raises Hint if it takes no digits or cannot be counted."""
    with students_code():
        net = answer if isinstance(answer, nn.Module) else answer()
    if not isinstance(net, nn.Module):
        raise Hint(f"Return a net, such as `nn.Sequential(...)`; yours is of type {type(net).__name__}.")
    net = _taking_digits(net)
    rows = counts(net, torch.zeros(1, 28, 28))
    unknown = ", ".join(row.kind for row in rows if row.connections is None)
    if unknown or rows.elsewhere:
        raise Hint(f"The check cannot count the work of {unknown or 'products outside of layers'}: do without.")
    return SmallNet(net, sum(p.numel() for p in net.parameters()), sum(row.connections or 0 for row in rows))


def error_after_training(net: nn.Module) -> float:
    """The share of validation digits that it reads wrong after STEPS steps from random weights, in percent."""
    mnist = data.load("mnist")
    batch = 50
    training = Experiment(
        partial(_fresh, net), mnist.train[: STEPS * batch], CrossEntropy(), batch_size=batch, epochs=1,
        lr=linear_schedule(0.01, 0, 1), momentum=None, optimizer=torch.optim.Adam,
    )  # fmt: skip
    try:
        run = training.run(progress=False, device="cpu")
    except Exception as reason:
        raise Hint(f"It cannot be trained: {reason}") from None
    held_out = mnist.validation[:DIGITS]
    return error(by_net(run.model, held_out.images), held_out)


def _taking_digits(net: nn.Module) -> nn.Module:
    """The net, for images (batch, 28, 28). Raises Hint if it takes no digits, or gives no ten logits."""
    images = torch.zeros(3, 28, 28)
    for taking in (net, nn.Sequential(nn.Unflatten(1, (1, 28)), net)):
        try:
            with torch.no_grad():
                logits = copy.deepcopy(taking)(images)
            break
        except Exception as reason:
            raised = reason
    else:
        raise Hint(f"It takes no images of shape (batch, 1, 28, 28): {raised}")
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (3, 10):
        shape = tuple(getattr(logits, "shape", ()))
        raise Hint(
            f"For 3 images it should give ten logits each, (3, 10); yours gives {shape}. Does it end in a Linear?"
        )
    return taking


def _fresh(net: nn.Module) -> nn.Module:
    """A copy of the net with new random weights, so that no training before counts."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return net
