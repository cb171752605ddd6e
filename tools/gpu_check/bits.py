"""The same run twice, and in parts by a checkpoint: the same bits; fused SGD takes the kernels of all nets."""

import tempfile
from functools import partial
from typing import Any

import torch
from gpu_check.experiments import experiments, train
from gpu_check.setting import Parts, Setting
from splitting import same_bits

from dlkit import Experiment

STEPS = 8  # more than an epoch


def parts(setting: Setting) -> Parts:
    yield "a product before the first run", partial(product, setting.device)
    for name, experiment in experiments().items():
        yield name, partial(repeats, experiment, setting.device)


def product(device: str) -> None:
    """At the first one torch reads whether cuBLAS is to give the same bits twice, for good."""
    x = torch.ones(3, 3, device=device)
    assert (x @ x).sum() == 27


def repeats(experiment: Experiment, device: str) -> str:
    seen: list[str] = []
    whole = train(experiment, device, steps=STEPS, on_step=lambda run: seen.extend(other_strides(run)))
    again = train(experiment, device, steps=STEPS)
    assert same_bits(whole.model, again.model), "a second run has other bits"
    assert whole.history["loss"] == again.history["loss"], "a second run has other losses"
    with tempfile.TemporaryDirectory() as folder:
        for steps in (1, 2, 5, STEPS):
            in_parts = train(experiment, device, steps=steps, checkpoint=folder, resume=steps > 1)
    assert same_bits(whole.model, in_parts.model), "a run that goes on has other bits"
    assert whole.history["loss"] == in_parts.history["loss"], "a run that goes on has other losses"
    return f"the same bits, other strides in {', '.join(dict.fromkeys(seen))}" if seen else "the same bits"


def other_strides(run: Any) -> list[str]:
    """The parameters whose gradient or momentum lies otherwise in memory than they do."""
    names = []
    for name, parameter in run.model.named_parameters():
        beside = [parameter.grad, *run.optimizer.state.get(parameter, {}).values()]
        beside = [x for x in beside if isinstance(x, torch.Tensor) and x.shape == parameter.shape]
        if any(x.stride() != parameter.stride() for x in beside):
            names.append(name)
    return names
