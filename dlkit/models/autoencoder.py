"""One-layer autoencoders, to be stacked where RBMs could be."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.matmul import matmul
from dlkit.core.random import drawn
from dlkit.models.rbm import check_rows


class Autoassociator(nn.Module):
    """One-layer autoencoder: h = sigmoid(b + Wᵀv), decoded by the same weights as sigmoid(a + Wh).

    With `real` the decoder is linear, a + Wh, for real-valued inputs. W (visible, hidden) starts uniform in
    ±√(6/(visible + hidden)); the biases a (visible,) and b (hidden,) start at 0. Ordinary, denoising and sparse
    autoencoders differ only in how they are trained: see `training.Reconstruction`.
    Source: Bengio, Lamblin, Popovici, Larochelle 2007, Greedy layer-wise training of deep networks.
    """

    def __init__(self, visible: int, hidden: int, *, real: bool = False, generator: torch.Generator | None = None):
        super().__init__()
        if visible < 1 or hidden < 1:
            raise ValueError(f"an autoassociator of {visible} inputs and {hidden} hidden units: both at least 1.")
        bound = (6 / (visible + hidden)) ** 0.5
        self.W = nn.Parameter(bound * (2 * drawn(torch.rand, visible, hidden, generator=generator) - 1))
        self.a = nn.Parameter(torch.zeros(visible))
        self.b = nn.Parameter(torch.zeros(hidden))
        self.real = real

    @property
    def features(self) -> int:
        return self.W.shape[0]

    @property
    def hidden(self) -> int:
        return self.W.shape[1]

    def extra_repr(self) -> str:
        return f"visible={self.features}, hidden={self.hidden}, real={self.real}"

    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        """Activation of the hidden units, between 0 and 1."""
        check_rows(v, self.W)
        return (matmul(v, self.W) + self.b).sigmoid()

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        """Reconstruction of the input from the hidden units."""
        x = matmul(h, self.W.T) + self.a
        return x if self.real else x.sigmoid()

    def forward(self, v: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch visible"]:
        return self.visible_given(self.hidden_given(v.flatten(1)))

    def recognition(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and b (hidden,) of the way up in a stack of layers."""
        return self.W, self.b

    def generation(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and a (visible,) of the way down in a stack of layers."""
        return self.W, self.a
