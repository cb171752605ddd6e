"""A layer of a DBN with separate weights for the way up and the way down."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.matmul import matmul
from dlkit.core.random import drawn
from dlkit.models.rbm import RBM, check_rows


class DirectedLayer(nn.Module):
    """Binary units with recognition weights R, b for the way up and generative weights G, a for the way down.

    R and G are (visible, hidden), like the W of an RBM; a is (visible,), b (hidden,). R starts at N(0, std²), G equal
    to R, the biases at 0. Up-down learning trains each direction with the other one's samples as targets.
    Source: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets, §5.
    """

    def __init__(self, visible: int, hidden: int, *, std: float = 0.01, generator: torch.Generator | None = None):
        super().__init__()
        self.R = nn.Parameter(std * drawn(torch.randn, visible, hidden, generator=generator))
        self.b = nn.Parameter(torch.zeros(hidden))
        self.G = nn.Parameter(self.R.detach().clone())
        self.a = nn.Parameter(torch.zeros(visible))

    @classmethod
    def like(cls, rbm: RBM) -> "DirectedLayer":
        """A layer with copies of the RBM's weights in both directions. ValueError if its units are not all binary."""
        if not (rbm.binary_visible and rbm.binary_hidden):
            raise ValueError(f"a {type(rbm).__name__} cannot be untied: its units are not all binary.")
        layer = cls(rbm.visible, rbm.hidden).to(rbm.W)
        layer.load_state_dict({"R": rbm.W, "G": rbm.W, "a": rbm.a, "b": rbm.b})
        return layer

    @property
    def features(self) -> int:
        return self.R.shape[0]

    @property
    def hidden(self) -> int:
        return self.R.shape[1]

    def extra_repr(self) -> str:
        return f"visible={self.features}, hidden={self.hidden}"

    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        """Probability that each hidden unit is on, by the recognition weights."""
        check_rows(v, self.R)
        return (matmul(v, self.R) + self.b).sigmoid_()

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        """Probability that each visible unit is on, by the generative weights."""
        return (matmul(h, self.G.T) + self.a).sigmoid_()

    def recognition(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and b (hidden,) of the way up."""
        return self.R, self.b

    def generation(self) -> tuple[Tensor, Tensor]:
        """W (visible, hidden) and a (visible,) of the way down."""
        return self.G, self.a
