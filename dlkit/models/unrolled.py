"""A trained stack as a plain feed-forward net: the start of fine-tuning by backprop."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dlkit.models.rbm import GaussianRBM
from dlkit.models.top_rbms import CodeRBM, LabelledRBM


@runtime_checkable
class Layer(Protocol):
    """What a stack is made of: an RBM, a DirectedLayer, an Autoassociator, or a module of yours."""

    def recognition(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and b (hidden,) of the way up."""
        ...

    def generation(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and a (visible,) of the way down."""
        ...


def classifier(
    layers: Sequence[Layer], classes: int | None = None, *, generator: torch.Generator | None = None
) -> nn.Sequential:
    """Flatten, a Linear and a Sigmoid for each layer, and a Linear to the logits.

    The layers' weights going up are copied. The last Linear is drawn from N(0, 0.01²) for `classes`; a LabelledRBM on
    top has its own, the weights between its hidden and its label units. ValueError if the number of classes is unknown.
    """
    check_chain(_shapes(layers))
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
        weight = 0.01 * torch.randn(classes, W.shape[1], generator=generator)
        net.append(_linear(weight.to(W), W.new_zeros(classes)))
    return nn.Sequential(*net)


def autoencoder(layers: Sequence[Layer]) -> nn.Sequential:
    """Sequential(encoder, decoder): up through the layers and down again, each way with weights of its own.

    The code, the last layer's hidden units, is linear; pixels come out in rows, as probabilities, or as real values
    where the lowest layer is a GaussianRBM. ValueError if the layers do not chain.
    """
    check_chain(_shapes(layers))
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


def check_chain(shapes: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError unless there are layers (visible, hidden), and each takes as many as the one below it gives."""
    if not shapes:
        raise ValueError("an empty stack: give one layer at least, the one next to the images first.")
    for place, ((_, hidden), (visible, _)) in enumerate(pairwise(shapes), 1):
        if hidden != visible:
            raise ValueError(
                f"layer {place} has {hidden} hidden units and layer {place + 1} takes {visible}: "
                "each layer must take as many as the one below it gives."
            )


def _shapes(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """(visible, hidden) of each layer's way up."""
    return [(W.shape[0], W.shape[1]) for W, _ in (layer.recognition() for layer in layers)]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A Linear that holds copies of these."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    linear.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return linear
