"""A trained stack as a plain feed-forward net, to be fine-tuned by backprop."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dlkit.core.random import drawn
from dlkit.models.rbm import GaussianRBM
from dlkit.models.top_rbms import CodeRBM, LabelledRBM


@runtime_checkable
class Layer(Protocol):
    """A layer of a stack: an RBM, a DirectedLayer, an Autoassociator, or any module with these two methods."""

    def recognition(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and b (hidden,) of the way up."""
        ...

    def generation(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and a (visible,) of the way down."""
        ...


def classifier(
    layers: Sequence[Layer], classes: int | None = None, *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Sequential of Flatten, a Linear and a Sigmoid for each layer, and a Linear to the logits (batch, classes).

    The weights of the way up are copied; a CodeRBM gets no Sigmoid. The last Linear holds the label weights of a
    LabelledRBM on top; for another top, or other `classes`, it starts at N(0, 0.01²). ValueError if the stack has no
    labels and `classes` is not given, or if the sizes of neighbouring layers do not match.
    """
    check_stack(_shapes(layers))
    net: list[nn.Module] = [nn.Flatten()]
    for layer in layers:
        W, b = layer.recognition()
        net += [_linear(W.T, b)] if isinstance(layer, CodeRBM) else [_linear(W.T, b), nn.Sigmoid()]
    top = layers[-1]
    if isinstance(top, LabelledRBM) and classes in (None, top.labels):
        net.append(_linear(top.W[top.features :], top.a[top.features :]))
    elif classes is None:
        raise ValueError("this stack has no labels: say how many classes the net is to tell apart, classifier(10).")
    else:
        W, _ = top.recognition()
        weight = 0.01 * drawn(torch.randn, classes, W.shape[1], generator=generator)
        net.append(_linear(weight.to(W), W.new_zeros(classes)))
    return nn.Sequential(*net)


def autoencoder(layers: Sequence[Layer]) -> nn.Sequential:
    """Sequential(encoder, decoder): the way up through the layers, then the way down, with separate weights.

    The code (batch, hidden units of the last layer) is linear. The output (batch, pixels) is probabilities, or real
    values if the lowest layer is a GaussianRBM. ValueError if the sizes of neighbouring layers do not match.
    """
    check_stack(_shapes(layers))
    encoder: list[nn.Module] = [nn.Flatten()]
    decoder: list[nn.Module] = []
    for layer in layers:
        W, b = layer.recognition()
        encoder += [_linear(W.T, b), nn.Sigmoid()]
        W, a = layer.generation()
        decoder = [_linear(W, a), nn.Sigmoid(), *decoder]
    if isinstance(layers[0], GaussianRBM):
        decoder.pop()
    return nn.Sequential(nn.Sequential(*encoder[:-1]), nn.Sequential(*decoder))


def check_stack(shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError for no layers, or layers (visible, hidden) that do not take what the layer below gives."""
    if not shapes:
        raise ValueError("an empty stack: give one layer at least, the one next to the images first.")
    for number, ((_, hidden), (visible, _)) in enumerate(pairwise(shapes), 1):
        if hidden != visible:
            raise ValueError(
                f"layer {number} has {hidden} hidden units and layer {number + 1} takes {visible}: "
                "each layer must take as many as the one below it gives."
            )


def _shapes(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """(visible, hidden) of each layer."""
    return [(W.shape[0], W.shape[1]) for W, _ in (layer.recognition() for layer in layers)]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear with copies of this weight (out, in) and bias (out,)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    linear.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return linear
