"""Whitened patches of photographs, as the models of early vision take them."""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dlkit.data import files
from dlkit.data.images import Split

RIDGE = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class Patches(Split):
    """Patches (n, size, size) and the map between them and pixels: images = (pixels - mean) @ whitening.

    mean (size²,); whitening and its inverse dewhitening (size², size²). A filter w on the patches weighs pixels
    by `whitening @ w`; a patch, or what a model reconstructs, looks like `to_pixels(patch)`.
    """

    mean: Float[Tensor, "pixels"] = field(kw_only=True)
    whitening: Float[Tensor, "pixels pixels"] = field(kw_only=True)
    dewhitening: Float[Tensor, "pixels pixels"] = field(kw_only=True)

    def to_pixels(self, images: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Back to intensities, 0 black and 1 white, without clipping."""
        return (images.flatten(1) @ self.dewhitening + self.mean).view_as(images)


def patches(
    size: int = 12,
    count: int = 20_000,
    *,
    whiten: str | None = "zca",
    seed: int = 0,
    root: str | Path | None = None,
) -> Patches:
    """`count` grey patches of size x size pixels at random places of the photographs, each as likely as the next.

    float32 (count, size, size), each pixel of mean 0 over the patches, variance 1 overall. "zca" decorrelates the
    pixels by the symmetric whitening C^(-1/2) of their covariance C (Bell, Sejnowski 1997), of which each
    eigenvalue is first raised by 1/1000 of their mean so that noise is not blown up; None only shifts and scales.

    Raises ValueError for a size, count or whitening that cannot be, and what `verify("photos")` raises.
    """
    if whiten not in ("zca", None):
        raise ValueError(f"whiten={whiten!r} is not known: use 'zca' or None.")
    photos = _photos(files.data_root(root))
    largest = min(min(photo.shape) for photo in photos)
    if not 1 <= size <= largest:
        raise ValueError(f"size={size} does not fit the photographs: use 1 to {largest} pixels.")
    least = size * size + 1 if whiten else 2
    if count < least:
        raise ValueError(f"count={count} is too few for patches of {size}x{size} pixels: use {least:,} or more.")

    pixels = _cut(photos, size, count, np.random.default_rng(seed)).reshape(count, -1)
    mean = pixels.mean(0)
    covariance = np.cov(pixels, rowvar=False, bias=True).reshape(size * size, size * size)
    if whiten == "zca":
        variances, axes = np.linalg.eigh(covariance)
        stretch = np.sqrt(variances + RIDGE * variances.mean())
    else:
        axes, stretch = np.eye(size * size), np.ones(size * size)
    # What is left after the ridge has taken its share is scaled to variance 1.
    stretch *= np.sqrt(np.mean(np.diag(axes.T @ covariance @ axes) / stretch**2))
    whitening, dewhitening = (axes / stretch) @ axes.T, (axes * stretch) @ axes.T
    images = ((pixels - mean) @ whitening).reshape(count, size, size)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32))

    return Patches(tensor(images), mean=tensor(mean), whitening=tensor(whitening), dewhitening=tensor(dewhitening))


def _photos(root: Path) -> list[np.ndarray]:
    """The photographs in grey, 0 black and 1 white."""
    raw = (files.read(path, known) for path, known in files.listed("photos", root).items())
    return [np.asarray(Image.open(BytesIO(photo)).convert("L")) / 255 for photo in raw]


def _cut(photos: list[np.ndarray], size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    which = rng.integers(len(photos), size=count)
    cut = np.empty((count, size, size))
    for i, photo in enumerate(photos):
        windows = np.lib.stride_tricks.sliding_window_view(photo, (size, size))
        here = np.flatnonzero(which == i)
        rows, columns = (rng.integers(n, size=len(here)) for n in windows.shape[:2])
        cut[here] = windows[rows, columns]
    return cut
