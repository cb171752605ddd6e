"""A look at a net that changes nothing in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def looking(net: nn.Module) -> Iterator[None]:
    """No gradients, and evaluation mode (no dropout, batch statistics as learned); after it each module has its own."""
    training = [module for module in net.modules() if module.training]
    try:
        with torch.no_grad():
            net.eval()
            yield
    finally:
        for module in training:
            module.training = True
