"""Images, and their labels."""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.slices import Slice


class Batch(NamedTuple):
    """Images (batch, height, width) or (batch, pixels), and their labels (batch,) where there are any.

    Where a batch is split over workers, `part` says which of its images are here, and `weight` the share of them that
    counts: 0 for a worker that is left none, and takes one all the same.
    """

    images: Float[Tensor, "batch ..."]
    labels: Int64[Tensor, " batch"] | None = None
    weight: float = 1.0
    part: Slice | None = None

    def __len__(self) -> int:  # of images, not of fields
        return len(self.images)
