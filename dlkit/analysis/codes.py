"""The codes that a deep autoencoder gives to labelled images, and their positions on a map of two dimensions."""

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dlkit.analysis.examining import examines
from dlkit.core.evaluation import forward_eval

ENCODED_AT_ONCE = 1000  # images


class Codes:
    """The codes of labelled images, `codes` (images, code), and their `positions` (images, 2) on a map.

    A code of two numbers is its own position. Of longer codes the map shows the first two principal components, with
    the share `explained` of the variance: a position is then no whole code, and cannot be decoded. All is on the CPU.
    ValueError if `autoencoder` is no Sequential(encoder, decoder) for these images, or its code has only one number.
    """

    @examines
    def __init__(
        self,
        autoencoder: nn.Sequential,
        images: Float[Tensor, "images height width"],
        labels: Int64[Tensor, " labels"],
    ):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels: give one label an image.")
        if len(images) < 2:
            raise ValueError(f"{len(images)} images make no map: give two at least, better some thousands.")
        if len(autoencoder) != 2:
            raise ValueError(
                f"a Sequential of {len(autoencoder)} parts: give Sequential(encoder, decoder), such as "
                "dbn.autoencoder()."
            )
        first = _first_linear(autoencoder[0])
        if first is not None and first.in_features != images[0].numel():
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels for an encoder of {first.in_features}: "
                "give images of the size it was trained on."
            )
        self.encoder, self.decoder = autoencoder
        self.images, self.labels = images.cpu(), labels.cpu()
        self.shape = images.shape[1], images.shape[2]
        self.codes = torch.cat([forward_eval(self.encoder, x).cpu() for x in images.split(ENCODED_AT_ONCE)])
        if self.codes.shape[1] < 2:
            raise ValueError("a code of one number makes no map: train an autoencoder whose code has two or more.")
        first = _first_linear(self.decoder)
        if first is not None and first.in_features != self.codes.shape[1]:
            raise ValueError(
                f"codes of {self.codes.shape[1]} numbers and a decoder of codes of {first.in_features} numbers: "
                "give the encoder and the decoder of one autoencoder."
            )
        self.positions, self.explained = self.codes, 1.0
        if not self.two_dimensional:
            self.positions, self.explained = _principal_components(self.codes)

    def __repr__(self) -> str:
        return f"Codes({len(self.images)} images, codes of {self.codes.shape[1]} numbers)"

    @property
    def two_dimensional(self) -> bool:
        """Whether each position on the map is a code."""
        return self.codes.shape[1] == 2

    def decode(self, codes: Float[Tensor, "codes code"]) -> Float[Tensor, "codes height width"]:
        """The images that the decoder makes of these codes."""
        return forward_eval(self.decoder, codes, "codes").cpu().view(-1, *self.shape)

    def nearest(self, x: float, y: float) -> int:
        """The number of the image whose position is nearest to (x, y)."""
        return int((self.positions - torch.tensor([x, y])).square().sum(1).argmin())

    def between(self, first: int, second: int, t: Float[Tensor, " points"]) -> Float[Tensor, "points code"]:
        """The codes on the straight line from the code of image `first` (t = 0) to that of image `second` (t = 1)."""
        return torch.lerp(self.codes[first], self.codes[second], t[:, None])


def _principal_components(codes: Float[Tensor, "images code"]) -> tuple[Float[Tensor, "images 2"], float]:
    """The first two principal components, and the share of the variance that they explain.

    The sign of an axis is free; it is chosen so that its numbers have a positive sum.
    """
    centred = codes - codes.mean(0)
    _, deviations, axes = np.linalg.svd(centred.double().numpy(), full_matrices=False)
    axes *= np.where(axes.sum(1, keepdims=True) < 0, -1.0, 1.0)
    explained = float((deviations[:2] ** 2).sum() / (deviations**2).sum())
    return centred @ torch.from_numpy(axes[:2].T).float(), explained


def _first_linear(net: nn.Module) -> nn.Linear | None:
    return next((module for module in net.modules() if isinstance(module, nn.Linear)), None)
