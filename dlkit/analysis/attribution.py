"""What in an image a net's answer comes from: saliency, integrated gradients; and the image that a unit likes best."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, Saliency
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.analysis.features import maps, named, watching
from dlkit.core.evaluation import evaluating, logits, to_device_of

BLUR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def saliency(net: nn.Module, image: Float[Tensor, "... height width"], label: int) -> Float[Tensor, "... height width"]:
    """How much the logit of `label` moves with each pixel: |∂ logit / ∂ pixel|. By captum.

    Images are what the net takes, less the batch. ValueError for a label that the net has not.
    Source: Simonyan, Vedaldi, Zisserman 2013, Deep inside convolutional networks, §3.
    """
    check_label(net, image, label)
    x = to_device_of(net, image[None]).detach().clone().requires_grad_()
    with evaluating(net):
        return Saliency(net).attribute(x, target=int(label))[0].detach().to(image.device)


class Attribution(NamedTuple):
    """Each pixel's part of a logit's rise from the baseline to the image, and `rest`, what the parts' sum misses."""

    parts: Float[Tensor, "... height width"]
    rest: float


def integrated_gradients(
    net: nn.Module,
    image: Float[Tensor, "... height width"],
    label: int,
    baseline: Float[Tensor, "... height width"] | None = None,
    steps: int = 64,
) -> Attribution:
    """The logit of `label` shared out among the pixels: each one's gradient, averaged on the straight way from
    `baseline` (by default black), times its change. By captum, in `steps` steps.

    ValueError for a baseline of another shape, or a label that the net has not.
    Source: Sundararajan, Taly, Yan 2017, Axiomatic attribution for deep networks, §3.
    """
    check_label(net, image, label)
    start = torch.zeros_like(image) if baseline is None else baseline
    if start.shape != image.shape:
        raise ValueError(f"a baseline of shape {tuple(start.shape)} for an image of {tuple(image.shape)}: give equals.")
    x, start = to_device_of(net, image[None]).detach().clone().requires_grad_(), to_device_of(net, start[None])
    with evaluating(net):
        parts, rest = IntegratedGradients(net).attribute(
            x, start, target=int(label), n_steps=steps, return_convergence_delta=True
        )
    return Attribution(parts[0].detach().to(image), -float(rest))


def check_label(net: nn.Module, image: Tensor, label: int) -> None:
    """Raise ValueError unless the net makes logits of such an image, and one of them is this label's."""
    classes = logits(net, image[None]).shape[1]
    if not 0 <= label < classes:
        raise ValueError(f"label {label}: the net has {classes} classes, 0 to {classes - 1}.")


class Maximised(NamedTuple):
    """The image found, in [0, 1], and the activation before the first step, before the second, …, at last."""

    image: Float[Tensor, "... height width"]
    activations: list[float]


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
    """Gradient ascent from the image `start` on map (or unit) `number` of the module `name`; of a map, on its mean.

    A step goes `rate` far along the gradient, shrinks the image by `decay`, and keeps pixels in [0, 1]; every
    `blur_every` steps (None: never) a small blur takes out what single pixels have made up. Without decay and blur it
    finds pictures that no eye can read. ValueError for a name or a number that there is not, or blurs every 0 steps.
    Sources: Erhan, Bengio, Courville, Vincent 2009, Visualizing higher-layer features of a deep network, §3; Yosinski,
    Clune, Nguyen, Fuchs, Lipson 2015, Understanding neural networks through deep visualization, §3.
    """
    if blur_every is not None and blur_every < 1:
        raise ValueError(f"blur_every={blur_every}: a number of steps, at least 1, or None for no blur.")
    module, found = named(net, name), []
    units = maps(net, start[None], name).shape[1]  # says what is wrong with the image or the name, if anything is
    if not 0 <= number < units:
        raise ValueError(f"no unit {number}: {name!r} has {units}, 0 to {units - 1}.")
    x = to_device_of(net, start[None]).detach().clone()
    activations = []
    with (
        evaluating(net),
        torch.enable_grad(),
        watching([module], lambda _module, _given, output: found.append(output.clone())),
    ):
        for step in range(steps + 1):
            x.requires_grad_()
            found.clear()
            net(x)
            activation = found[0][0, number].mean()
            activations.append(activation.item())
            (gradient,) = torch.autograd.grad(activation, x)
            x = x.detach()
            if step < steps:
                x = (1 - decay) * (x + rate * gradient / gradient.norm().clamp_min(1e-12))
                if blur_every is not None and step % blur_every == blur_every - 1:
                    x = blurred(x)
                x = x.clamp(0, 1)
    return Maximised(x[0].to(start.device), activations)


def blurred(images: Float[Tensor, "... height width"]) -> Float[Tensor, "... height width"]:
    """Each pixel with a quarter of itself, an eighth of each neighbour, a sixteenth of each diagonal one."""
    single = images.reshape(-1, 1, *images.shape[-2:])
    return F.conv2d(F.pad(single, [1] * 4, mode="replicate"), BLUR.to(images)[None, None]).view_as(images)
