"""Running a net without changing it: evaluation mode, no gradients, the net's own device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Context in which the net is in evaluation mode; afterwards each module has its previous mode again."""
    training = [module for module in net.modules() if module.training]
    try:
        net.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def eval_no_grad(net: nn.Module) -> Iterator[None]:
    """Context in which the net is in evaluation mode and no gradients are recorded."""
    with evaluating(net), torch.no_grad():
        yield


def to_device_of(net: nn.Module, images: Tensor) -> Tensor:
    """The images on the net's device. ValueError if their dtype is not that of its weights."""
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    if weight is None:
        return images
    if images.dtype != weight.dtype:
        mend = "images.float() / 255" if images.dtype == torch.uint8 else f"images.to({weight.dtype})"
        raise ValueError(f"the images are {images.dtype} and the net's weights {weight.dtype}: give {mend}.")
    return images.to(weight.device)


def forward_eval(net: nn.Module, images: Tensor) -> Any:
    """The net's output for the images, in evaluation mode, without gradients, on the net's device.

    TypeError if the net has no forward, ValueError if it does not take images of this shape or dtype.
    """
    if getattr(net.forward, "__func__", None) is nn.Module.forward:
        mend = "unroll a stack by `dbn.classifier()` or `dbn.autoencoder()`, or train it by CD or UpDown"
        raise TypeError(f"{type(net).__name__} has no forward for images to go through: {mend}.")
    images = to_device_of(net, images)
    try:
        with eval_no_grad(net):  # batch normalisation cannot compute statistics of one image
            return net(images)
    except RuntimeError as error:
        shape = tuple(images.shape[1:])
        mend = "begin it with nn.Flatten() if it takes rows of pixels, or give images[:, None] if it takes maps"
        raise ValueError(f"the net does not take images of shape {shape} ({error}): {mend}.") from error


def logits(net: nn.Module, images: Tensor) -> Float[Tensor, "images classes"]:
    """The net's logits by `forward_eval`. ValueError if its output is not one row of numbers for each image."""
    output = forward_eval(net, images)
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    kind = str(tuple(output.shape[1:])) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ValueError(f"the net gives {kind} for an image: give one that ends in a row of logits, one a class.")
