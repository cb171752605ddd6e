"""The optimizer that a run begins with: given parameter groups if it takes them; one for matrices alone is refused."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Make = Callable[..., torch.optim.Optimizer]


def make_optimizer(
    make: Make, weights: list[nn.Parameter], biases: list[nn.Parameter], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`make` called with parameter groups, of which weights alone decay; or, if it takes none, with the parameters.

    ValueError if it then cannot decay weights alone, or if it takes matrices alone.
    """

    def groups(decay: float) -> list[dict[str, Any]]:
        named = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
        return [group for group in named if group["params"]]

    try:
        return make(groups(weight_decay), lr=lr)
    except Exception as error:
        refuse_matrices_alone(make, lr, error)
        if not weight_decay and (optimizer := _made(make, [*weights, *biases], lr)):
            return optimizer
        if weight_decay and not _made(make, groups(0.0), lr) and (optimizer := _made(make, [*weights, *biases], lr)):
            raise ValueError(
                f"{type(optimizer).__name__} takes no parameter groups, and so no weight decay of weights alone: leave "
                "it out of the Experiment."
            ) from error
        raise


def refuse_matrices_alone(make: Make, lr: float, error: Exception) -> None:
    """ValueError if an optimizer that has failed with `error` takes a step on a matrix, but none on a vector."""
    if (optimizer := _that_steps(make, lr, (3, 2))) and not _that_steps(make, lr, (3,)):
        name, why = type(optimizer).__name__, str(error).split("\n")[0].removesuffix(".")
        raise ValueError(
            f"{name} takes matrices alone ({why}): give an optimizer of your own that has {name} for matrices and "
            "torch.optim.SGD, say, for the rest, as under An optimizer in CONTRIBUTING.md."
        ) from error


def _made(make: Make, parameters: list[Any], lr: float) -> torch.optim.Optimizer | None:
    try:
        return make(parameters, lr=lr)
    except Exception:  # of the reader's code; the first is the one that is told
        return None


def _that_steps(make: Make, lr: float, shape: tuple[int, ...]) -> torch.optim.Optimizer | None:
    """An optimizer of one parameter of this shape, if it takes a step."""
    parameter = nn.Parameter(torch.ones(shape))
    parameter.grad = torch.ones(shape)
    optimizer = _made(make, [{"params": [parameter], "weight_decay": 0.0}], lr)
    try:
        if optimizer is not None:
            optimizer.step(lambda: 0.0)
    except Exception:
        return None
    return optimizer
