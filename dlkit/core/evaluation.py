"""Running a net without changing it, or the images: evaluation mode, no gradients, the net's own device, a copy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isqrt
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Context in which the net is in evaluation mode; afterwards it is as it was.

    Each module has its previous mode again, each buffer its values, each parameter its .grad and requires_grad.
    """
    modes = [(module, module.training) for module in net.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in net.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    parameters = [(p, p.requires_grad, p.grad) for p in net.parameters()]
    try:
        net.eval()
        yield
    finally:
        if modes[0][1]:
            net.train()  # a net may do more there than to set the flags
        for module, training in modes:
            module.training = training
        for module, name, buffer, values in buffers:
            module._buffers[name] = buffer
            if not torch.equal(buffer, values):
                with torch.no_grad():
                    buffer.copy_(values)
        for parameter, requires_grad, grad in parameters:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


@contextmanager
def eval_no_grad(net: nn.Module) -> Iterator[None]:
    """Context in which the net is in evaluation mode and no gradients are recorded."""
    with evaluating(net), torch.no_grad():
        yield


def check_net(net: Any) -> None:
    """TypeError, with the mend, for what is given in a net's place: a Run, a class, a net with lazy layers."""
    kind = type(net).__name__
    if not isinstance(net, nn.Module):
        if isinstance(getattr(net, "model", None), nn.Module):
            raise TypeError(f"this is of class {kind}, and not a net: give its model, `.model`.")
        if isinstance(net, type):
            raise TypeError(f"{net.__name__} is the class itself: give a net, {net.__name__}(...).")
        mend = "give the model of a run of it, `.run().model`" if hasattr(net, "model") else "give an nn.Module"
        raise TypeError(f"this is of class {kind}, and not a net: {mend}.")
    lazy = next((name for name, p in net.named_parameters() if is_lazy(p)), None)
    if lazy is not None:
        raise TypeError(f"{lazy} of this {kind} has no size yet: run the net once, `net(images[:1])`.")


def check_images(images: Any, name: str = "images") -> None:
    """TypeError, with the mend, for images, or one image, that are no tensor; `name`: what the reader gave."""
    if isinstance(images, Tensor):
        return
    if isinstance(images, np.ndarray):
        scaled = {"uint8": " / 255", "float32": ""}.get(images.dtype.name, ".float()")
        raise TypeError(f"{name} is a numpy array: give torch.from_numpy({name}){scaled}.")
    if isinstance(images, list | tuple) and images and all(isinstance(image, Tensor) for image in images):
        raise TypeError(f"{name} is a {type(images).__name__} of tensors: give torch.stack({name}).")
    raise TypeError(f"{name} is a {type(images).__name__}: give a tensor, torch.as_tensor(numpy.asarray({name})).")


def on_device_of(net: nn.Module, tensor: Tensor) -> Tensor:
    """The tensor on the net's device, where a function computes, wherever its inputs are."""
    parameter = next(net.parameters(), None)
    return tensor if parameter is None else tensor.to(parameter.device)


def to_device_of(net: nn.Module, images: Tensor) -> Tensor:
    """The images on the net's device. ValueError if their dtype is not that of its weights."""
    check_images(images)
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    if weight is None:
        return images
    if images.dtype != weight.dtype:
        mend = "images.float() / 255" if images.dtype == torch.uint8 else f"images.to({weight.dtype})"
        raise ValueError(f"the images are {images.dtype} and the net's weights {weight.dtype}: give {mend}.")
    return images.to(weight.device)


def forward_eval(net: nn.Module, images: Tensor, name: str = "images") -> Any:
    """The net's output for a copy of the images, in evaluation mode, without gradients, on the net's device.

    TypeError if the net has no forward, ValueError if it does not take images of this shape or dtype. `name`: what the
    reader gave, "images" or one "image".
    """
    check_net(net)
    if getattr(net.forward, "__func__", None) is nn.Module.forward:
        mend = "unroll a stack by `dbn.classifier()` or `dbn.autoencoder()`, or train it by CD or UpDown"
        raise TypeError(f"{type(net).__name__} has no forward for images to go through: {mend}.")
    images = to_device_of(net, images)
    try:
        with eval_no_grad(net):  # batch normalisation cannot compute statistics of one image
            return net(images.clone())
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        text, shape = str(error).strip().splitlines()[0].rstrip("."), tuple(images.shape[1:])
        raise ValueError(
            f"the net does not take images of shape {shape} ({text}): {_mend(net, images, name)}."
        ) from error


def _mend(net: nn.Module, images: Tensor, name: str) -> str:
    """What the net takes in place of these images, found by trial."""
    for of_images, of_image, change in _changes(images[:2]):
        try:
            with eval_no_grad(net):
                net(change().clone())
        except Exception:
            continue
        give = f"give {of_image if name == 'image' else of_images}"
        return f"begin it with nn.Flatten(), or {give}" if ".flatten" in give else give
    return "give images of the shape that it was made for"


def _changes(images: Tensor) -> list[tuple[str, str, Callable[[], Tensor]]]:
    """Ways to give images otherwise that this shape allows: in words for a batch, for one image, and the images so."""
    shape, last = images.shape, images.shape[-1]
    side = isqrt(last)
    changes: dict[int, list[tuple[str, str, Callable[[], Tensor]]]] = {
        2: [
            (f"images.view(-1, {side}, {side})", f"image.view({side}, {side})", lambda: images.view(-1, side, side)),
            (
                f"images.view(-1, 1, {side}, {side})",
                f"image.view(1, {side}, {side})",
                lambda: images.view(-1, 1, side, side),
            ),
        ],
        3: [
            ("images[:, 0]", "image[0]", lambda: images[:, 0]),
            ("images[:, None]", "image[None]", lambda: images[:, None]),
            (
                "images[:, None].expand(-1, 3, -1, -1)",
                "image.expand(3, -1, -1)",
                lambda: images[:, None].expand(-1, 3, -1, -1),
            ),
        ],
        4: [
            ("images[:, 0]", "image[0]", lambda: images[:, 0]),
            ("images.permute(0, 3, 1, 2)", "image.permute(2, 0, 1)", lambda: images.permute(0, 3, 1, 2)),
            ("images.permute(0, 2, 3, 1)", "image.permute(1, 2, 0)", lambda: images.permute(0, 2, 3, 1)),
            ("images.expand(-1, 3, -1, -1)", "image.expand(3, -1, -1)", lambda: images.expand(-1, 3, -1, -1)),
        ],
        5: [("images[:, 0]", "image[0]", lambda: images[:, 0])],
    }
    possible = changes.get(len(shape), [])
    if len(shape) in (3, 4, 5) and shape[1] != 1:  # there is no dimension of 1 to leave out
        possible = possible[1:]
    return [*possible, ("images.flatten(1)", "image.flatten()", lambda: images.flatten(1))]


def logits(net: nn.Module, images: Tensor, name: str = "images") -> Float[Tensor, "images classes"]:
    """The net's logits by `forward_eval`. ValueError if its output is not one row of numbers for each image."""
    output = forward_eval(net, images, name)
    if isinstance(output, Tensor) and output.ndim == 2:
        return output
    kind = str(tuple(output.shape[1:])) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    raise ValueError(f"the net gives {kind} for an image: give one that ends in a row of logits, one a class.")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Has torch found no room, on whichever device?"""
    words = ("DefaultCPUAllocator", "MPS backend out of memory")  # of the CPU and of Apple's GPU: a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
