"""Which pixels a net's output depends on: saliency, integrated gradients, and images that maximise a unit."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, Saliency
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.examining import check_class, examines
from dlkit.analysis.features import find_module, forward_hooks, output_of
from dlkit.core.evaluation import logits, to_device_of

BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


@examines
def saliency(net: nn.Module, image: Float[Tensor, "... height width"], label: int) -> Float[Tensor, "... height width"]:
    """|∂ logit / ∂ pixel| of the logit of `label`, for each pixel, by captum.

    `image` has the shape that the net takes, without the batch. ValueError for a label that the net does not have.
    Source: Simonyan, Vedaldi, Zisserman 2013, Deep inside convolutional networks, §3.
    """
    label = check_label(net, image, label)
    x = to_device_of(net, image[None]).detach().clone().requires_grad_()
    return Saliency(_on_a_copy(net)).attribute(x, target=label)[0].detach()


def _on_a_copy(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """The net for captum: what it does to its input in place happens to a copy."""
    return lambda images: net(images.clone())


class Attribution(NamedTuple):
    """The attribution of each pixel, in units of the logit; they add up to a difference of two logits.

    `residual` is that difference (image minus baseline) less the sum of `values`: the error of the approximation.
    """

    values: Float[Tensor, "... height width"]
    residual: float

    def __repr__(self) -> str:
        return f"Attribution({'x'.join(map(str, self.values.shape))} values, residual {self.residual:.3g})"


@examines
def integrated_gradients(
    net: nn.Module,
    image: Float[Tensor, "... height width"],
    label: int,
    baseline: Float[Tensor, "... height width"] | None = None,
    steps: int = 64,
) -> Attribution:
    """The gradient of the logit of `label`, averaged over the line from `baseline` to `image`, times their difference.

    By captum, with `steps` points on the line; the baseline is black by default. ValueError for a baseline of another
    shape, or a label that the net does not have.
    Source: Sundararajan, Taly, Yan 2017, Axiomatic attribution for deep networks, §3.
    """
    label = check_label(net, image, label)
    start = torch.zeros_like(image) if baseline is None else baseline
    if start.shape != image.shape:
        raise ValueError(
            f"a baseline of shape {tuple(start.shape)} for an image of {tuple(image.shape)}: both must be equal."
        )
    x, start = to_device_of(net, image[None]).detach().clone().requires_grad_(), to_device_of(net, start[None])
    values, delta = IntegratedGradients(_on_a_copy(net)).attribute(
        x, start, target=label, n_steps=steps, return_convergence_delta=True
    )
    return Attribution(values[0].detach().to(image.dtype), -float(delta))


def check_label(net: nn.Module, image: Tensor, label: int) -> int:
    """The label. ValueError unless the net gives logits for this image, and it is one of its classes."""
    return check_class(label, logits(net, image[None], "image").shape[1])


class Maximised(NamedTuple):
    """The image after the last step, and the activation before each step and after the last."""

    image: Float[Tensor, "*shape"]
    activations: list[float]

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image.shape))
        return f"Maximised(image of {size}, activation {self.activations[0]:.3g} to {self.activations[-1]:.3g})"


@examines
def maximise(
    net: nn.Module,
    name: str,
    number: int,
    start: Float[Tensor, "... height width"],
    *,
    steps: int = 100,
    rate: float = 3.0,
    decay: float = 0.01,
    blur_every: int | None = 1,
) -> Maximised:
    """Gradient ascent on the activation of unit `number` (or the mean of map `number`) of module `name`.

    It starts from the image `start`. Each step adds `rate` times the gradient's direction, multiplies the image by
    1 - decay, blurs it (every `blur_every` steps; None: never) and clips pixels to [0, 1]. Without decay and blur the
    image becomes noise. ValueError for a name or a number that does not exist, or blur_every below 1.
    Sources: Erhan, Bengio, Courville, Vincent 2009, Visualizing higher-layer features of a deep network, §3; Yosinski,
    Clune, Nguyen, Fuchs, Lipson 2015, Understanding neural networks through deep visualization, §3.
    """
    if blur_every is not None and blur_every < 1:
        raise ValueError(f"blur_every={blur_every}: a number of steps, at least 1, or None for no blur.")
    module, outputs = find_module(net, name), []
    units = output_of(net, start[None], name, "image").shape[1]  # ValueError for a wrong image or name
    if not 0 <= number < units:
        raise ValueError(f"no unit {number}: {name!r} has {units}, 0 to {units - 1}.")
    x = to_device_of(net, start[None]).detach().clone()
    activations = []
    with (
        torch.enable_grad(),
        forward_hooks([module], lambda _module, _inputs, output: outputs.append(output.clone())),
    ):
        for step in range(steps + 1):
            x.requires_grad_()
            outputs.clear()
            net(x.clone())
            activation = outputs[0][0, number].mean()
            activations.append(activation.item())
            (gradient,) = torch.autograd.grad(activation, x)
            x = x.detach()
            if step < steps:
                x = (1 - decay) * (x + rate * gradient / gradient.norm().clamp_min(1e-12))
                if blur_every is not None and step % blur_every == blur_every - 1:
                    x = blurred(x)
                x = x.clamp(0, 1)
    return Maximised(x[0], activations)


def blurred(images: Float[Tensor, "... height width"]) -> Float[Tensor, "... height width"]:
    """Images convolved with a 3x3 binomial kernel: 1/4 of the pixel, 1/8 of each neighbour, 1/16 of each diagonal."""
    single = images.reshape(-1, 1, *images.shape[-2:])
    return F.conv2d(F.pad(single, [1] * 4, mode="replicate"), BLUR.to(images)[None, None]).view_as(images)
