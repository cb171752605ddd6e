"""What a run gives back is on the CPU, whatever it trained on."""

from typing import Any

import torch
from torch import Tensor, nn


def to_cpu(run: Any) -> None:
    """Move the run's model to the CPU, with the optimizer's and the learner's state; let go of the device's data.

    A rank's part of a model stays where it is, with its optimizer: what comes back is the whole.
    """
    if run.device.type == "cpu":
        return
    if run.shard.model_is_whole:
        model_to_cpu(run.model, run.optimizer)
    run.learner.state.update({name: value.cpu() for name, value in run.learner.state.items()})
    run._on_device, run.captured = run.data, None


def model_to_cpu(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Move a model to the CPU; the optimizer is then of its parameters there, with its state beside them."""
    state, parameters = optimizer.state_dict(), list(model.parameters())
    model.to("cpu")
    moved = dict(zip(map(id, parameters), model.parameters(), strict=True))  # the same objects, on CUDA
    for group in optimizer.param_groups:
        group["params"][:] = [moved[id(parameter)] for parameter in group["params"]]
    optimizer.load_state_dict(state)
    for parameter_state in optimizer.state.values():
        for name, value in parameter_state.items():
            if isinstance(value, Tensor):
                parameter_state[name] = value.cpu()  # also a count of steps, which torch leaves where it was
    for group in optimizer.param_groups:
        if group.get("capturable"):
            group["capturable"] = False  # which torch refuses on a CPU
