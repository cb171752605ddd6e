"""A look at a net that changes nothing in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
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
def eval_no_grad(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients."""
    with evaluating(net), torch.no_grad():
        yield


def to_device_of(net: nn.Module, images: Tensor) -> Tensor:
    """The images on the net's device. ValueError if they are numbers of another kind than its weights."""
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    if weight is None:
        return images
    if images.dtype != weight.dtype:
        mend = "images.float() / 255" if images.dtype == torch.uint8 else f"images.to({weight.dtype})"
        raise ValueError(f"the images are {images.dtype} and the net's weights {weight.dtype}: give {mend}.")
    return images.to(weight.device)


def forward_eval(net: nn.Module, images: Tensor) -> Any:
    """What the net makes of the images, in such a look, on its device.

    TypeError if it has no forward, ValueError if it does not take images of this shape or kind.
    """
    if getattr(net.forward, "__func__", None) is nn.Module.forward:
        mend = "unroll a stack by `dbn.classifier()` or `dbn.autoencoder()`, or train it by CD or UpDown"
        raise TypeError(f"{type(net).__name__} has no forward for images to go through: {mend}.")
    images = to_device_of(net, images)
    try:
        with eval_no_grad(net):  # one image would tell batch normalisation nothing
            return net(images)
    except RuntimeError as error:
        shape = tuple(images.shape[1:])
        mend = "begin it with nn.Flatten() if it takes rows of pixels, or give images[:, None] if it takes maps"
        raise ValueError(f"the net does not take images of shape {shape} ({error}): {mend}.") from error


def logits(net: nn.Module, images: Tensor) -> Float[Tensor, "images classes"]:
    """The `forward_eval`, if it is a row of logits for each image; else ValueError."""
    found = forward_eval(net, images)
    if isinstance(found, Tensor) and found.ndim == 2:
        return found
    what = str(tuple(found.shape[1:])) if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise ValueError(f"the net gives {what} for an image: give one that ends in a row of logits, one a class.")
