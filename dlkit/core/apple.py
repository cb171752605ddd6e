"""Apple's GPU: torch has no float64 there, nor all operations. What needs them is computed on the CPU."""

import torch
from torch import Tensor

APPLE = "mps"


def is_apple(device: torch.device) -> bool:
    """Is it Apple's GPU?"""
    return device.type == APPLE


def off_apple(tensor: Tensor) -> Tensor:
    """The tensor where torch can do all that it can: on the CPU if it is on Apple's GPU, else where it is."""
    return tensor.cpu() if is_apple(tensor.device) else tensor
