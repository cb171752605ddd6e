"""What a run trains on: a CUDA GPU, or Apple's where that can do all that is asked of it, or the CPU."""

from collections.abc import Callable
from typing import Any

import torch

import dlkit.core.apple as apple
from dlkit.core.evaluation import is_out_of_memory

ELSE = 'leave device out, or device="cpu"'


def default_device() -> str:
    """CUDA where there is one, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return apple.APPLE if torch.backends.mps.is_available() else "cpu"


def device_of(
    experiment: Any,
    wanted: str | torch.device | None,
    default: str,
    step: Callable[[torch.device], object],
    *,
    split: bool = False,
) -> torch.device:
    """The device of a run: the wanted one, or `default`; the CPU, which is said, where Apple's GPU cannot train it.

    step: takes a step of a run on a device, to try it. split: do ranks share the run? ValueError if Apple's GPU is
    wanted, and cannot train it.
    """
    device = torch.device(wanted or default)
    if not apple.is_apple(device):
        return device
    if not (why := _why_not(experiment, device, step, split)):
        return device
    if wanted:
        raise ValueError(f'device="{device}" cannot train this experiment ({why}): {ELSE}.')
    print(f"Training on the CPU, for Apple's GPU cannot train this experiment: {why}.")
    return torch.device("cpu")


def _why_not(experiment: Any, device: torch.device, step: Callable[[torch.device], object], split: bool) -> str:
    """Why a step cannot be taken on Apple's GPU; "" if it can. What fails on the CPU too is raised as it is there."""
    if not torch.backends.mps.is_available():
        return "torch finds no such GPU"
    if experiment.dtype == torch.float64:
        return "it has no float64"
    if split:
        return "what ranks learn is compared in float64, which it has not"
    try:
        step(device)
    except Exception as error:  # an operation that is missing there, say; what tried it may have other words for that
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            return ""  # which the run tells, with a batch that fits
        step(torch.device("cpu"))
        while error.__cause__ is not None:
            error = error.__cause__
        return str(error).split("\n")[0].split(". ")[0].rstrip(".")
    return ""
