"""What a run trains on: a CUDA GPU, or Apple's where that can do all that is asked of it, or the CPU."""

from collections.abc import Callable
from typing import Any

import torch

ELSE = 'leave device out, or device="cpu"'


def default_device() -> str:
    """CUDA where there is one, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_of(
    experiment: Any, wanted: str | torch.device | None, default: str, step: Callable[[], object]
) -> torch.device:
    """The device of a run: the wanted one, or `default`; the CPU, which is said, where Apple's GPU cannot train it.

    step: takes a step of a run there, to try it. ValueError if Apple's GPU is wanted, and cannot train it.
    """
    device = torch.device(wanted or default)
    if device.type != "mps":
        return device
    if not (why := _why_not(experiment, step)):
        return device
    if wanted:
        raise ValueError(f'device="mps" cannot train this experiment ({why}): {ELSE}.')
    print(f"Training on the CPU, for Apple's GPU cannot train this experiment: {why}.")
    return torch.device("cpu")


def _why_not(experiment: Any, step: Callable[[], object]) -> str:
    """Why a step cannot be taken on Apple's GPU; "" if it can."""
    if not torch.backends.mps.is_available():
        return "torch finds no such GPU"
    if experiment.dtype == torch.float64:
        return "it has no float64"
    try:
        step()
    except (NotImplementedError, RuntimeError, TypeError) as error:  # an operation that is missing there, say
        return str(error).split("\n")[0].split(". ")[0].rstrip(".")
    return ""
