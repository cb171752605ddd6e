"""A batch of images and labels."""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.slices import Slice


class Batch(NamedTuple):
    """Images (batch, height, width) or (batch, pixels), and their labels (batch,) or None.

    If the batch is split over ranks, `rows` says which of its images this rank holds, and `weight` which fraction of
    the whole batch they are; a rank without images of its own holds one image with weight 0.
    """

    images: Float[Tensor, "batch ..."]
    labels: Int64[Tensor, " batch"] | None = None
    weight: float = 1.0
    rows: Slice | None = None

    def __len__(self) -> int:  # images, not fields
        return len(self.images)

    def __repr__(self) -> str:
        labels = "no labels" if self.labels is None else "labelled"
        rows = "" if self.rows is None else f", rows {self.rows.start} to {self.rows.stop} of {self.rows.whole}"
        return f"Batch({describe_images(self.images)}, {labels}{rows})"


def describe_images(images: Tensor) -> str:
    """The number and shape of some images, as text: 100 images of 28x28."""
    return f"{len(images):,} images of {'x'.join(str(n) for n in images.shape[1:])}"
