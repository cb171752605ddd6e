"""Whitened patches of photographs, the usual input of models of early vision."""

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
    """Whitened patches (n, size, size): images = (pixels - mean) @ whitening, one row of pixels for each patch.

    mean (size²,); whitening and its inverse dewhitening (size², size²). A filter w on patches is the filter
    `whitening @ w` on pixels; `to_pixels` turns patches, or a model's reconstructions of them, back to pixels.
    """

    mean: Float[Tensor, "pixels"] = field(kw_only=True)
    whitening: Float[Tensor, "pixels pixels"] = field(kw_only=True)
    dewhitening: Float[Tensor, "pixels pixels"] = field(kw_only=True)

    def to_pixels(self, images: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Intensities of these whitened images, 0 black and 1 white, not clipped."""
        return (images.flatten(1) @ self.dewhitening + self.mean).view_as(images)


def patches(
    size: int = 12,
    count: int = 20_000,
    *,
    whiten: str | None = "zca",
    seed: int = 0,
    root: str | Path | None = None,
) -> Patches:
    """`count` grey patches, float32 (count, size, size), cut from the photographs at random positions.

    Each photograph is equally likely. Each pixel has mean 0 over the patches; the variance over all pixels is 1.
    whiten: "zca" decorrelates the pixels by C^(-1/2), where C is their covariance (Bell, Sejnowski 1997) with 1/1000 of
    the mean eigenvalue added to each eigenvalue, so that noise is not amplified; None only shifts and scales.

    ValueError for a size or count out of range or an unknown whitening; the errors of `verify("photos")`.
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
    # The ridge lowers the variance: scale it back to 1.
    stretch *= np.sqrt(np.mean(np.diag(axes.T @ covariance @ axes) / stretch**2))
    whitening, dewhitening = (axes / stretch) @ axes.T, (axes * stretch) @ axes.T
    images = ((pixels - mean) @ whitening).reshape(count, size, size)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32))

    return Patches(tensor(images), mean=tensor(mean), whitening=tensor(whitening), dewhitening=tensor(dewhitening))


def _photos(root: Path) -> list[np.ndarray]:
    """The photographs in grey, 0 black and 1 white."""
    raw = (files.read(path, checksum) for path, checksum in files.checksums("photos", root).items())
    return [np.asarray(Image.open(BytesIO(photo)).convert("L")) / 255 for photo in raw]


def _cut(photos: list[np.ndarray], size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` windows (count, size, size), each from a random photograph at a random position."""
    chosen = rng.integers(len(photos), size=count)
    cut = np.empty((count, size, size))
    for i, photo in enumerate(photos):
        windows = np.lib.stride_tricks.sliding_window_view(photo, (size, size))
        from_photo = np.flatnonzero(chosen == i)
        rows, columns = (rng.integers(n, size=len(from_photo)) for n in windows.shape[:2])
        cut[from_photo] = windows[rows, columns]
    return cut
