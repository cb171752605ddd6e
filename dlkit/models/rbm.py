"""Restricted Boltzmann machines: energies and conditionals, with no training code."""

import math
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dlkit.core import storage
from dlkit.core.matmul import matmul
from dlkit.core.random import bernoulli, drawn, normal

M = TypeVar("M", bound="RBM")


def check_rows(v: Tensor, W: Tensor) -> None:
    """Raise ValueError unless v is (batch, visible), for weights W (visible, hidden) and of their dtype."""
    visible = len(W)
    if v.shape[1:] != (visible,):
        mend = "`images.flatten(1)`" if math.prod(v.shape[1:]) == visible else f"give rows of {visible}"
        raise ValueError(f"images of shape {tuple(v.shape)} for {visible} visible units: {mend}.")
    if v.dtype != W.dtype and not torch.is_autocast_enabled(v.device.type):
        actual, expected = (str(dtype).removeprefix("torch.") for dtype in (v.dtype, W.dtype))
        mend = "`images.float() / 255`" if v.dtype == torch.uint8 else f"`images.to(torch.{expected})`"
        raise ValueError(f"images are {actual} and the weights {expected}: {mend}.")


class RBM(nn.Module):
    """Restricted Boltzmann machine with binary units: E(v, h) = -a·v - b·h - vᵀWh.

    Holds W (visible, hidden), which starts at N(0, std²), and a (visible,) and b (hidden,), which start at 0. It
    contains no training code.
    Source: Hinton 2010, A practical guide to training restricted Boltzmann machines, §2 and §8.
    """

    binary_visible = binary_hidden = True  # 0/1 units, independent given the other side: their states can be enumerated
    pixel_range: tuple[float, float] | None = (0.0, 1.0)

    def __init__(self, visible: int, hidden: int, *, std: float = 0.01, generator: torch.Generator | None = None):
        super().__init__()
        if visible < 1 or hidden < 1:
            raise ValueError(f"an RBM of {visible} visible and {hidden} hidden units: both must be at least 1.")
        self.W = nn.Parameter(std * drawn(torch.randn, visible, hidden, generator=generator))
        self.a = nn.Parameter(torch.zeros(visible))
        self.b = nn.Parameter(torch.zeros(hidden))

    @property
    def visible(self) -> int:
        return self.W.shape[0]

    @property
    def hidden(self) -> int:
        return self.W.shape[1]

    @property
    def features(self) -> int:
        """Number of visible units that hold the image: here all."""
        return self.visible

    @property
    def labels(self) -> int | None:
        """Number of label units among the visible units, or None."""
        return None

    def extra_repr(self) -> str:
        return f"visible={self.visible}, hidden={self.hidden}"

    def encode_visible(
        self, images: Float[Tensor, "batch ..."], labels: Int64[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch visible"]:
        """The visible states (batch, visible) of a batch: here its pixels; labels are not used."""
        return images.flatten(1)

    # Subclasses with other hidden units override these.

    def hidden_mean(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        """Mean of each hidden unit given its total input x (with the bias): for binary units the probability of 1."""
        return x.sigmoid()

    def draw_hidden(
        self, mean: Float[Tensor, "batch hidden"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """A sample of the hidden units, given their mean."""
        return bernoulli(mean, generator)

    def log_sum_hidden(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """log Σ_h exp(h·x), in nats."""
        return F.softplus(x).sum(1)

    # Subclasses with other visible units override these. `a` is an argument because annealing uses other biases.

    def scaled(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch visible"]:
        """The visible units as multiplied with W in the energy: here `v` itself."""
        return v

    def visible_term(self, v: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]) -> Float[Tensor, " batch"]:
        """The term of -E(v, h) without hidden units, in nats: a·v."""
        return v @ a

    def log_sum_visible(
        self, x: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]
    ) -> Float[Tensor, " batch"]:
        """log Σ_v exp(visible_term(v) + scaled(v)·x), in nats; x = Wh is the input from the hidden units."""
        return F.softplus(x + a).sum(1)

    def visible_mean(
        self, x: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]
    ) -> Float[Tensor, "batch visible"]:
        """Mean of each visible unit given the input x = Wh from the hidden units."""
        return (x + a).sigmoid_()

    def draw_visible(
        self, mean: Float[Tensor, "batch visible"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch visible"]:
        """A sample of the visible units, given their mean."""
        return bernoulli(mean, generator)

    @torch.no_grad()
    def set_visible_bias(self, images: Float[Tensor, "images visible"]) -> None:
        """Set a = log p/(1-p), where p is the mean of each pixel over `images` and one more image, all 1/2.

        The added image keeps p away from 0 and 1.

        Source: Hinton 2010, §8.1.
        """
        p = (images.sum(0) + 0.5) / (len(images) + 1)
        self.a.copy_(torch.logit(p))

    # The same for all kinds of unit.

    def hidden_input(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        """b + Wᵀv, in nats, in the dtype of the bias even if autocast computes the product in bfloat16.

        ValueError if v is not (batch, visible).
        """
        check_rows(v, self.W)
        return matmul(self.scaled(v), self.W).to(self.b.dtype) + self.b

    def visible_input(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        """Wh, without the bias."""
        return matmul(h, self.W.T).to(self.a.dtype)

    def energy(self, v: Float[Tensor, "batch visible"], h: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        """Energy of each joint state, in nats."""
        return -self.visible_term(v, self.a) - (self.hidden_input(v) * h).sum(1)

    def free_energy(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, " batch"]:
        """-log Σ_h exp(-E(v, h)), in nats."""
        return self.free_energy_given(v, self.hidden_input(v))

    def free_energy_given(
        self, v: Float[Tensor, "batch visible"], hidden_input: Float[Tensor, "batch hidden"]
    ) -> Float[Tensor, " batch"]:
        """The free energy, in nats, from a `hidden_input(v)` that is already computed."""
        return -self.visible_term(v, self.a) - self.log_sum_hidden(hidden_input)

    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        """Mean of each hidden unit: for binary units the probability that it is on."""
        return self.hidden_mean(self.hidden_input(v))

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        """Mean of each visible unit: for binary units the probability that it is on."""
        return self.visible_mean(self.visible_input(h), self.a)

    def energy_gradient(
        self, v: Float[Tensor, "batch visible"], h: Float[Tensor, "batch hidden"], weight: Float[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """Σ weight · ∂E(v, h)/∂θ over the batch, by parameter name.

        h may be probabilities, because E is linear in h.
        """
        s = self.scaled(v)
        weighted = h * -weight[:, None]
        W = matmul(s.T, weighted).to(self.W.dtype)
        return {"W": W, "a": -torch.mv(s.T, weight).to(self.a.dtype), "b": weighted.sum(0)}

    def recognition(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and b (hidden,) of the way up in a stack of layers."""
        return self.W, self.b

    def generation(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and a (visible,) of the way down in a stack of layers."""
        return self.W, self.a

    def config(self) -> dict:
        """The arguments that make a model of this shape."""
        return {"visible": self.visible, "hidden": self.hidden}

    def save(self, path: str | Path) -> None:
        """Write the parameters to a safetensors file, atomically."""
        storage.save(self, path)

    @classmethod
    def load(cls: type[M], path: str | Path) -> M:  # not Self, which beartype's import hook cannot check
        """Read a model that `save` wrote. ValueError if the file holds another kind of model."""
        return storage.load(cls, path)


class GaussianRBM(RBM):
    """RBM with real-valued visible units: E(v, h) = Σ (v-a)²/2σ² - b·h - (v/σ²)ᵀWh.

    `log_variance` (visible,) is log σ², a parameter that is trained unless `learn_variance` is False.
    Source: Cho, Ilin, Raiko 2011, Improved learning of Gaussian-Bernoulli restricted Boltzmann machines, §3.
    """

    binary_visible = False
    pixel_range = None

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        variance: float = 1.0,
        learn_variance: bool = True,
        std: float = 0.01,
        generator: torch.Generator | None = None,
    ):
        super().__init__(visible, hidden, std=std, generator=generator)
        if not variance > 0:
            raise ValueError(f"a variance of {variance}: it must be above 0.")
        self.log_variance = nn.Parameter(torch.full((visible,), variance).log(), requires_grad=learn_variance)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, learn_variance={self.log_variance.requires_grad}"

    def scaled(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch visible"]:
        """The visible units as multiplied with W in the energy: v/σ²."""
        return v * torch.exp(-self.log_variance)

    def visible_term(self, v: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]) -> Float[Tensor, " batch"]:
        """The term of -E(v, h) without hidden units, in nats: -Σ (v-a)²/2σ²."""
        return -0.5 * ((v - a) ** 2) @ torch.exp(-self.log_variance)

    def log_sum_visible(
        self, x: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]
    ) -> Float[Tensor, " batch"]:
        """log ∫ exp(visible_term(v) + scaled(v)·x) dv, in nats; x = Wh is the input from the hidden units."""
        log_volume = 0.5 * (self.log_variance + math.log(2 * math.pi)).sum()
        return log_volume + (a * x + 0.5 * x**2) @ torch.exp(-self.log_variance)

    def visible_mean(
        self, x: Float[Tensor, "batch visible"], a: Float[Tensor, " visible"]
    ) -> Float[Tensor, "batch visible"]:
        """Mean of each visible unit given the input x = Wh from the hidden units: a + x."""
        return x + a

    def draw_visible(
        self, mean: Float[Tensor, "batch visible"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch visible"]:
        """A sample from N(mean, σ²)."""
        return mean + normal(mean, generator) * torch.exp(0.5 * self.log_variance)

    @torch.no_grad()
    def set_visible_bias(self, images: Float[Tensor, "images visible"]) -> None:
        """Set a to the mean of each pixel and, if it is learned, σ² to its variance."""
        self.a.copy_(images.mean(0))
        if self.log_variance.requires_grad:
            self.log_variance.copy_(images.var(0, correction=0).clamp_min(1e-4).log())

    def energy_gradient(
        self, v: Float[Tensor, "batch visible"], h: Float[Tensor, "batch hidden"], weight: Float[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """As for the RBM, and ∂E/∂log σ² = -((v-a)²/2 - v·Wh)/σ² if the variance is learned."""
        gradient = super().energy_gradient(v, h, weight)
        precision = torch.exp(-self.log_variance)
        gradient["a"] = (-weight @ ((v - self.a) * precision)).to(self.a.dtype)
        if self.log_variance.requires_grad:
            residual = 0.5 * (v - self.a) ** 2 - v * self.visible_input(h)
            gradient["log_variance"] = (-weight @ residual).to(precision.dtype) * precision
        return gradient

    def recognition(self) -> tuple[Tensor, Tensor]:
        """W/σ² (visible, hidden) and b (hidden,) of the way up, for unscaled pixels."""
        return self.W * torch.exp(-self.log_variance)[:, None], self.b

    def config(self) -> dict:
        return super().config() | {"learn_variance": self.log_variance.requires_grad}
