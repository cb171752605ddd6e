"""What strategies refuse before a run starts, each in a sentence with the mend."""

from typing import Any

import torch
from torch import nn

from dlkit.distributed.batch_norm import batch_norms
from dlkit.strategies.optimizer_trial import works_on_parts
from dlkit.training.learner import Learner


def class_name(instance: Any) -> str:
    return type(instance).__name__


def refuse_batch_statistics(model: nn.Module, strategy: str) -> None:
    """ValueError for layers that compute something else on a part of a batch, or on one of several ranks."""
    for path, module in batch_norms(model).items():
        raise ValueError(
            f"{path}, a {class_name(module)}, takes its statistics from a whole batch, and under {strategy} a rank "
            "sees a part: use nn.GroupNorm or nn.LayerNorm, or DataParallel, which shares them."
        )


def refuse_exchanges_of_its_own(model: nn.Module, strategy: str) -> None:
    """ValueError for SyncBatchNorm, which exchanges with all ranks of torch's group, also in a trial on a copy."""
    for path, module in batch_norms(model).items():
        if isinstance(module, nn.SyncBatchNorm):
            raise ValueError(
                f"{path}, a {class_name(module)}, makes exchanges of its own: use nn.BatchNorm1d, 2d or 3d, whose "
                f"statistics are the whole batch's under {strategy} too."
            )


def refuse_optimizer(experiment: Any, strategy: str, *, has: str = "parts of them") -> None:
    """ValueError unless a step on what a rank has of the parameters is what it is for that in a step on all.

    It is tried (`optimizer_trial`). has: "parts of them", or "some of them", where a rank has whole parameters.
    """

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        weights, biases = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
        try:
            return experiment.make_optimizer(weights, biases)
        except ValueError:  # it may be for weights alone
            return experiment.make_optimizer(weights, [])

    if not works_on_parts(make, whole_parameters=has == "some of them"):
        name = class_name(make([nn.Parameter(torch.zeros(2, 2))]))
        raise ValueError(
            f"{name} looks at all parameters, or at whole ones, at once (their norm, say), and under {strategy} a rank "
            f"has {has}: use an optimizer that works element by element, as SGD and Adam do, or DataParallel."
        )


def check_learner(learner: Any, kind: type[Learner], why: str) -> None:
    """ValueError, which begins with the learner's class and goes on with `why`, unless it is of the kind."""
    if not isinstance(learner, kind):
        raise ValueError(f"{class_name(learner)} {why}")
