"""Sparse coding: each input as a sum of few parts out of many."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.matmul import matmul
from dlkit.models.rbm import check_rows


class SparseCoding(nn.Module):
    """v ≈ h·D with as few parts as will do: h ≥ 0 minimises |v - hD|²/2 + penalty·Σh.

    D (hidden, visible) has rows of length 1, the parts. There is no formula for h: `hidden_given` looks for it, by
    `steps` steps of FISTA. The units of `penalty` are those of the inputs.
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
        self.D = nn.Parameter(torch.randn(hidden, visible, generator=generator))
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
        """Bring every part back to length 1."""
        self.D.div_(self.D.norm(dim=1, keepdim=True).clamp_min(1e-8))

    @torch.no_grad()
    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        """The code of each input, at least 0."""
        check_rows(v, self.D.T)
        D = self.D.detach()
        gram, drive = matmul(D, D.T), matmul(v, D.T) - self.penalty
        rate = 1 / float(torch.linalg.eigvalsh(gram)[-1])
        h = ahead = torch.zeros_like(drive)
        t = 1.0
        for _ in range(self.steps):
            new = (ahead + rate * (drive - matmul(ahead, gram))).clamp_min_(0)
            t, before = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
            ahead = new + (before - 1) / t * (new - h)
            h = new
        return h

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        """The sum of the parts."""
        return matmul(h, self.D)
