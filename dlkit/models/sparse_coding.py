"""Sparse coding: each input as a sum of a few dictionary atoms."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.apple import off_apple
from dlkit.core.matmul import matmul
from dlkit.core.random import drawn
from dlkit.models.rbm import check_rows


class SparseCoding(nn.Module):
    """v ≈ hD, where the code h ≥ 0 minimises |v - hD|²/2 + penalty·Σh, so that few of its entries are above 0.

    The rows of the dictionary D (hidden, visible) are its atoms, of length 1. The code has no closed form:
    `hidden_given` computes it by `steps` iterations of FISTA. `penalty` has the unit of the inputs.
    Sources: Olshausen, Field 1996, Emergence of simple-cell receptive field properties by learning a sparse code for
    natural images; Beck, Teboulle 2009, A fast iterative shrinkage-thresholding algorithm, §4.
    """

    def __init__(
        self,
        visible: int,
        hidden: int,
        *,
        penalty: float = 0.5,
        steps: int = 30,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not penalty > 0:  # nor NaN
            raise ValueError(f"a penalty of {penalty}: it must be above 0, or nothing keeps the code sparse.")
        self.D = nn.Parameter(drawn(torch.randn, hidden, visible, generator=generator))
        self.penalty, self.steps = penalty, steps
        self.normalise()

    @property
    def features(self) -> int:
        return self.D.shape[1]

    @property
    def hidden(self) -> int:
        return self.D.shape[0]

    def extra_repr(self) -> str:
        return f"visible={self.features}, hidden={self.hidden}, penalty={self.penalty}"

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale each atom to length 1."""
        self.D.div_(self.D.norm(dim=1, keepdim=True).clamp_min(1e-8))

    @torch.no_grad()
    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        """The code of each input; no entry is below 0."""
        check_rows(v, self.D.T)
        D = self.D.detach()
        gram, drive = matmul(D, D.T), matmul(v, D.T) - self.penalty
        step_size = 1 / torch.linalg.eigvalsh(off_apple(gram))[-1]  # a tensor: its value need not leave CUDA
        h = extrapolated = torch.zeros_like(drive)
        t = 1.0
        for _ in range(self.steps):
            new = (extrapolated + step_size * (drive - matmul(extrapolated, gram))).clamp_min_(0)
            t, previous_t = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
            extrapolated = new + (previous_t - 1) / t * (new - h)
            h = new
        return h

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        """Reconstruction of the inputs: hD, the sum of the atoms weighted by the code."""
        return matmul(h, self.D)
