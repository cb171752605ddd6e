"""RBMs for the top of a stack: one with label units beside the features, one with real-valued hidden units."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.matmul import matmul
from dlkit.core.random import bernoulli, categorical, normal
from dlkit.models.rbm import RBM, check_rows

Labels = Int64[Tensor, " batch"]


class LabelledRBM(RBM):
    """RBM whose last `labels` visible units are a softmax group: exactly one of them is on.

    Visible states are (batch, features + labels), with the one-hot label last. On top of a DBN it is the associative
    memory of features and labels.
    Source: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets, §4 and figure 1.
    """

    binary_visible = False  # the label units are not independent of each other

    def __init__(
        self, features: int, hidden: int, *, labels: int, std: float = 0.01, generator: torch.Generator | None = None
    ):
        if labels < 2:
            raise ValueError(f"an RBM with {labels} labels: at least 2 are needed, or take RBM({features}, {hidden}).")
        super().__init__(features + labels, hidden, std=std, generator=generator)
        self._labels = labels

    @property
    def labels(self) -> int:
        return self._labels

    @property
    def features(self) -> int:
        return self.visible - self.labels

    def extra_repr(self) -> str:
        return f"features={self.features}, hidden={self.hidden}, labels={self.labels}"

    def config(self) -> dict:
        return {"features": self.features, "hidden": self.hidden, "labels": self.labels}

    def encode_visible(
        self, images: Float[Tensor, "batch ..."], labels: Labels | None
    ) -> Float[Tensor, "batch visible"]:
        """The visible states (batch, features + labels) of a batch. ValueError if it has no labels."""
        if labels is None:
            raise ValueError(f"{self.labels} label units, but the data have no labels: give (images, labels).")
        return torch.cat([images.flatten(1), F.one_hot(labels, self.labels).to(images.dtype)], dim=1)

    def split_labels(self, v: Float[Tensor, "batch visible"]) -> tuple[Float[Tensor, "batch features"], Tensor]:
        """The features (batch, features) and the label units (batch, labels) of visible states or means."""
        return v[:, : self.features], v[:, self.features :]

    def recognition(self) -> tuple[Tensor, Tensor]:
        return self.W[: self.features], self.b

    def generation(self) -> tuple[Tensor, Tensor]:
        return self.W[: self.features], self.a[: self.features]

    def log_sum_visible(
        self, x: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]
    ) -> Float[Tensor, " batch"]:
        """log Σ_v exp((x + a)·v), in nats, over the states of the features and over which label is on."""
        features, labels = self.split_labels(x + a)
        return F.softplus(features).sum(1) + torch.logsumexp(labels, 1)

    def visible_mean(
        self, x: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]
    ) -> Float[Tensor, "batch visible"]:
        """Probability that each feature is on, and of each label, given the input x = Wh from the hidden units."""
        features, labels = self.split_labels(x + a)
        return torch.cat([features.sigmoid(), labels.softmax(1)], dim=1)

    def draw_visible(
        self, mean: Float[Tensor, "batch visible"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch visible"]:
        """A sample of the features and of one label, given their probabilities."""
        features, labels = self.split_labels(mean)
        label = torch.zeros_like(labels).scatter_(1, categorical(labels, generator), 1.0)
        return torch.cat([bernoulli(features, generator), label], dim=1)

    @torch.no_grad()
    def set_visible_bias(self, images: Float[Tensor, "images visible"]) -> None:
        """As for the RBM; the bias of a label unit is log p, p its mean over the images and one of each label."""
        super().set_visible_bias(images)
        _, labels = self.split_labels(images)
        self.a[self.features :] = ((labels.sum(0) + 1) / (len(images) + self.labels)).log()

    def label_free_energies(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch labels"]:
        """Free energy of the features together with each of the labels, in nats."""
        W, U = self.W[: self.features], self.W[self.features :]
        check_rows(features, W)
        x = matmul(features, W) + self.b
        a, bias = self.a[: self.features], self.a[self.features :]
        hidden = torch.stack([F.softplus(x + row).sum(1) for row in U], dim=1)
        return -(features @ a)[:, None] - bias - hidden

    def label_probabilities(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch labels"]:
        """p(label | features), exact, with the hidden units summed out."""
        return (-self.label_free_energies(features)).softmax(1)


class CodeRBM(RBM):
    """RBM with real-valued hidden units: E(v, h) = -a·v - b·h + |h|²/2 - vᵀWh, so h given v is N(b + Wᵀv, 1).

    It is the code layer of a deep autoencoder. A suitable learning rate is 1/100 of that of a binary RBM.
    Source: Hinton, Salakhutdinov 2006, Reducing the dimensionality of data with neural networks, supporting text.
    """

    binary_hidden = False

    def hidden_mean(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        """Mean of each hidden unit: its total input x."""
        return x

    def draw_hidden(
        self, mean: Float[Tensor, "batch hidden"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """A sample from N(mean, 1)."""
        return mean + normal(mean, generator)

    def log_sum_hidden(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """log ∫ exp(h·x - |h|²/2) dh, in nats."""
        return 0.5 * (x**2 + math.log(2 * math.pi)).sum(1)

    def energy(self, v: Float[Tensor, "batch visible"], h: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """Energy of each joint state, in nats."""
        return super().energy(v, h) + 0.5 * (h**2).sum(1)
