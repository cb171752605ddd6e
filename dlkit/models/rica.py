"""Filters that share no weights, learned without labels: reconstruction with a sparse pooled code, stage on stage.

Sources: Le, Karpenko, Ngiam, Ng 2011, ICA with reconstruction cost for efficient overcomplete feature learning; Le,
Ranzato, Monga, Devin, Chen, Corrado, Dean, Ng 2012, Building high-level features using large scale unsupervised
learning; Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.models.locally_connected import L2Pool, LocalContrastNorm, LocallyConnected2d, num_windows


class RICAStage(nn.Module):
    """Locally connected linear filters, L2 pooling, and contrast normalisation in Gaussian windows.

    At each place `maps` filters share a patch of size x size, and are one matrix product. As a net it gives the cost of
    each image x, (batch,), which an `OwnCost` learner makes smaller:
    ‖WᵀWx - x‖² + sparsity · Σ √(ε + Σ (Wx)²), over the pools and the units in each.
    `hidden_given(x)` are its features, what the next stage sees.
    input: the (height, width) of the maps that come in. pool: the size of pools, and their stride. contrast: the size
    of the windows; None leaves contrast as it is. ValueError where a pool does not fit the maps.
    """

    def __init__(
        self,
        in_maps: int,
        maps: int,
        size: int,
        input: tuple[int, int],
        *,
        stride: int = 1,
        pool: tuple[int, int] = (3, 2),
        contrast: int | None = 5,
        sparsity: float = 0.1,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if sparsity < 0:
            raise ValueError(f"a sparsity of {sparsity}: 0 or more; 0.1 is usual.")
        self.filters = LocallyConnected2d(in_maps, maps, size, input, stride, bias=False, generator=generator)
        places = tuple(self.filters.weight.shape[:2])
        if min(places) < pool[0]:
            raise ValueError(f"pools of {pool[0]}x{pool[0]} for maps of {places[0]}x{places[1]}: make them smaller.")
        self.pool = L2Pool(*pool)
        self.contrast = nn.Identity() if contrast is None else LocalContrastNorm(contrast)
        self.sparsity = sparsity
        high, wide = (num_windows(length, *pool) for length in places)
        self.output = maps, high, wide  # of the features of an image

    def extra_repr(self) -> str:
        return f"sparsity={self.sparsity}"

    def costs(
        self, x: Float[Tensor, "batch in height width"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch out high wide"]]:
        """The cost of each image, and what is pooled for it."""
        code = self.filters(x)
        pooled = self.pool(code)
        error = (self.filters.transposed(code) - x).square().sum((1, 2, 3))
        return error + self.sparsity * pooled.sum((1, 2, 3)), pooled

    def forward(self, images: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        return self.costs(self.as_maps(images))[0]

    def hidden_given(self, images: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch out high wide"]:
        return self.contrast(self.pool(self.filters(self.as_maps(images))))

    def as_maps(self, images: Tensor) -> Tensor:
        """Images (batch, height, width), or rows of their pixels, as maps."""
        if images.ndim == 4:
            return images
        return images.view(len(images), self.filters.in_maps, *self.filters.input)


class RICAStack(nn.Module):
    """Stages one on another, trained all together: its cost is the sum of theirs, each of what the one below gives."""

    def __init__(self, stages: Sequence[RICAStage]):
        super().__init__()
        if not stages:
            raise ValueError("a stack without stages: give one at least.")
        for lower, upper in pairwise(stages):
            wants = (upper.filters.in_maps, *upper.filters.input)
            if lower.output != wants:
                raise ValueError(f"a stage that gives {lower.output} below one that takes {wants}: make them alike.")
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        x, total = images, 0.0
        for number, stage in enumerate(self.stages, 1):
            cost, pooled = stage.costs(stage.as_maps(x))  # pyrefly: ignore[not-callable]
            total = cost + total
            if number < len(self.stages):
                x = stage.contrast(pooled)  # pyrefly: ignore[not-callable]
        return total  # pyrefly: ignore[bad-return]

    def hidden_given(self, images: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch out high wide"]:
        """The features of the highest stage."""
        for stage in self.stages:
            images = stage.hidden_given(images)  # pyrefly: ignore[not-callable]
        return images
