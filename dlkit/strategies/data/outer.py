"""What ranks that train apart make of a meeting: a step on from where they met last."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

OUTER = "outer."  # before the names of what is kept of outer steps


@dataclass(frozen=True)
class Outer:
    """At a meeting the mean of the ranks' moves is taken for a gradient: a step by Nesterov's momentum leads on.

    lr=1 and momentum=0 is the mean itself. Source of the values: Douillard and others 2023, DiLoCo: distributed
    low-communication training of language models, Algorithm 1 and its outer optimizer.
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self):
        if not self.lr > 0 or not 0 <= self.momentum < 1:
            raise ValueError(f"{self}: lr above 0, and momentum at least 0 and below 1.")


class OuterStep:
    """Where the ranks last met, and by what momentum they went on from there: the same on all."""

    def __init__(self, model: nn.Module, outer: Outer):
        self.anchors = {name: nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
        self.optimizers = {
            name: torch.optim.SGD([anchor], outer.lr, outer.momentum, nesterov=outer.momentum > 0)
            for name, anchor in self.anchors.items()
        }

    def __call__(self, name: str, mean: Tensor) -> Tensor:
        """Where all go on, of a parameter, from where they have come to in the mean."""
        anchor = self.anchors[name]
        anchor.grad = anchor.detach() - mean
        self.optimizers[name].step()
        return anchor.detach()

    def state(self) -> dict[str, Tensor]:
        kept = {f"{OUTER}anchor.{name}": anchor.detach() for name, anchor in self.anchors.items()}
        for name, anchor in self.anchors.items():
            velocity = self.optimizers[name].state[anchor].get("momentum_buffer")
            kept |= {} if velocity is None else {f"{OUTER}velocity.{name}": velocity}
        return kept

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, anchor in self.anchors.items():
            anchor.data.copy_(state[f"{OUTER}anchor.{name}"])
            velocity = state.get(f"{OUTER}velocity.{name}")
            if velocity is not None:
                self.optimizers[name].state[anchor]["momentum_buffer"] = velocity.to(anchor.device).clone()
