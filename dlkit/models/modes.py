"""A look at a net that changes nothing in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode: no dropout, batch statistics as learned; after it each module has its own mode again."""
    training = [module for module in net.modules() if module.training]
    try:
        net.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def looking(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients."""
    with evaluating(net), torch.no_grad():
        yield


def answer(net: nn.Module, images: Tensor) -> Tensor:
    """What the net makes of the images, in such a look.

    TypeError if it has no forward, ValueError if it does not take images of this shape.
    """
    if type(net).forward is nn.Module.forward:
        mend = "unroll a stack by `dbn.classifier()` or `dbn.autoencoder()`, or train it by CD or UpDown"
        raise TypeError(f"{type(net).__name__} has no forward for images to go through: {mend}.")
    try:
        with looking(net):  # one image would tell batch normalisation nothing
            return net(images)
    except RuntimeError as error:
        shape = tuple(images.shape[1:])
        mend = "begin it with nn.Flatten() if it takes rows of pixels, or give images[:, None] if it takes maps"
        raise ValueError(f"the net does not take images of shape {shape} ({error}): {mend}.") from error
