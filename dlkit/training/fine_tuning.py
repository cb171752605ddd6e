"""Fine-tuning by backprop: first the new top layer alone, then the whole net, by SGD or by line searches."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.training.experiment import Experiment
from dlkit.training.run import Run


def fine_tune(
    net: nn.Sequential,
    experiment: Experiment,
    *,
    top_epochs: int = 5,
    checkpoint: str | Path | None = None,
    **arguments: Any,
) -> list[Run]:
    """Train a copy of `net` as `experiment` says (its model is not used), after `top_epochs` of its last layer alone.

    A net's top layer is new while those below are trained: its first, large errors would spoil them. Returns the one
    or two runs; `runs[-1].model` is the net. `checkpoint` is a folder for both; the rest is as for `Experiment.run`.
    ValueError if the last layer is to be trained alone and has no parameters.
    Source: Hinton, Salakhutdinov 2006, Reducing the dimensionality of data with neural networks, supporting text.
    """
    runs: list[Run] = []
    if top_epochs and not any(True for _ in net[-1].parameters()):
        raise ValueError(f"the last layer, {type(net[-1]).__name__}, has nothing to train alone: give top_epochs=0.")
    if top_epochs:
        alone = replace(experiment, model=lambda: _training(net, nn.ModuleList([net[-1]])), epochs=top_epochs)
        runs.append(alone.run(checkpoint=_folder(checkpoint, "top"), **arguments))
        net = runs[-1].model
        if runs[-1].stopped:
            return runs
    whole = replace(experiment, model=lambda: _training(net, net))
    runs.append(whole.run(checkpoint=_folder(checkpoint, "whole"), **arguments))
    return runs


def _training(net: nn.Sequential, part: nn.Module) -> nn.Sequential:
    """A copy of the net in which only `part` is trained."""
    chosen = {id(parameter) for parameter in part.parameters()}
    flags = [id(parameter) in chosen for parameter in net.parameters()]
    fresh = copy.deepcopy(net)
    for parameter, flag in zip(fresh.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None
    return fresh


def _folder(checkpoint: str | Path | None, name: str) -> Path | None:
    return None if checkpoint is None else Path(checkpoint) / name


class LineSearches(torch.optim.LBFGS):
    """A few line searches on each batch, by L-BFGS that starts anew with each: `Experiment(optimizer=LineSearches)`.

    For large batches (1,000 is usual) and a loss without random numbers. lr is the first step tried, 1 by default. Each
    loss that is tried is looked at before the next one, for which a GPU is waited for some tens of times a step.
    Stands where the paper has three line searches of conjugate gradients a batch. ValueError for a weight decay.
    Source: Hinton, Salakhutdinov 2006, supporting text.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float = 1.0, line_searches: int = 3):
        groups = list(groups)
        if any(group.get("weight_decay") for group in groups):
            raise ValueError("LineSearches takes no weight decay: leave it out of the Experiment.")
        parameters = [parameter for group in groups for parameter in group["params"]]
        super().__init__(parameters, lr=lr, max_iter=line_searches, line_search_fn="strong_wolfe")

    def step(self, closure: Callable[[], Tensor]) -> Any:  # pyrefly: ignore[bad-override]  always with a closure
        """Search from here; forget what was learnt about the loss, which is another one with the next batch."""
        loss = super().step(closure)
        self.state.clear()
        return loss
