"""A learner that is slow on one engine, as on a slow machine: to see who waits for it."""

import copy
import os
import time
from typing import Any, TypeVar

import torch

from dlkit.training.learner import Learner

L = TypeVar("L", bound=Learner)


class Sleeps:
    """Mixed into a learner's class: on engine `slow_rank` each batch takes `times` as long."""

    times, slow_rank = 1.0, 1
    _filling = False

    def fill_grad(self, model: Any, batch: Any, generator: torch.Generator) -> Any:
        begun = time.perf_counter()
        object.__setattr__(self, "_filling", True)  # a learner may be a frozen dataclass
        try:
            metrics = super().fill_grad(model, batch, generator)  # type: ignore[misc]
        finally:
            object.__setattr__(self, "_filling", False)
        if os.environ.get("DLKIT_RANK") == str(self.slow_rank):
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            time.sleep((self.times - 1) * (time.perf_counter() - begun))
        return metrics

    def weighted_loss(self, *arguments: Any) -> Any:
        if not self._filling:
            raise ValueError("this strategy runs the net itself, and a learner cannot be slowed there: use another.")
        return super().weighted_loss(*arguments)  # type: ignore[misc]


def slowed(learner: L, times: float, rank: int = 1) -> L:
    """A copy of the learner each of whose batches takes `times` as long on engine `rank`, and learns the same.

    The engine sleeps meanwhile, so that its core is left to others, as a slow machine leaves it. Strategies that run
    the net themselves, such as Pipeline, refuse it. ValueError for less than once as long.
    """
    if times < 1:
        raise ValueError(f"times={times:g}: 1 leaves it as fast as it is, and more makes it slower.")
    made: Any = copy.deepcopy(learner)
    slow = {"times": times, "slow_rank": rank}
    object.__setattr__(made, "__class__", type(f"Slowed{type(learner).__name__}", (Sleeps, type(learner)), slow))
    return made
