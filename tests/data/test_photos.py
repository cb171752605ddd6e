"""Patches: decorrelated, reproducible, and able to go back to pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dlkit import data

PHOTOS = sorted((Path(__file__).parents[2] / "data" / "photos").glob("*.png"))


@pytest.fixture(scope="module")
def zca() -> data.Patches:
    return data.patches(size=12, count=20_000)


@pytest.fixture(scope="module")
def grey() -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("L"), np.float32) / 255 for path in PHOTOS]


def covariance(patches: data.Patches) -> torch.Tensor:
    return patches.images.flatten(1).double().T.cov(correction=0)


def test_patches_are_float32_of_mean_zero_and_variance_one(zca):
    assert zca.images.shape == (20_000, 12, 12)
    assert zca.images.dtype == torch.float32
    assert zca.labels is None
    assert zca.images.mean(0).abs().max() < 1e-4
    assert zca.images.double().var().item() == pytest.approx(1, abs=1e-4)


def test_whitened_pixels_are_uncorrelated(zca):
    white = covariance(zca)
    assert (white - torch.eye(144)).abs().max() < 0.03
    plain = covariance(data.patches(size=12, count=20_000, whiten=None))
    assert plain[0, 1] > 0.8  # neighbours, before


def test_whitening_is_symmetric_so_that_patches_stay_in_place(zca):
    """What makes ZCA of all whitenings: C^(-1/2) is symmetric, so each pixel weighs itself most."""
    torch.testing.assert_close(zca.whitening, zca.whitening.T)
    assert (zca.whitening.argmax(1) == torch.arange(144)).all()
    torch.testing.assert_close(zca.whitening @ zca.dewhitening, torch.eye(144), atol=1e-3, rtol=0)


@pytest.mark.parametrize("whiten", ["zca", None])
def test_patches_go_back_to_windows_of_the_photographs(grey, whiten):
    patches = data.patches(size=6, count=300, whiten=whiten)
    windows = [np.lib.stride_tricks.sliding_window_view(photo, (6, 6)) for photo in grey]
    for patch in patches.to_pixels(patches.images[:10]).numpy():
        near = [photo[abs(photo[:, :, 0, 0] - patch[0, 0]) < 1e-3] for photo in windows]
        assert min(abs(photo - patch).max((1, 2)).min(initial=1) for photo in near) < 1e-3


def test_a_filter_weighs_pixels_by_whitening(zca):
    w = torch.randn(144, generator=torch.Generator().manual_seed(0))
    pixels = zca.to_pixels(zca.images[:50]).flatten(1)
    torch.testing.assert_close(
        zca.images[:50].flatten(1) @ w, (pixels - zca.mean) @ (zca.whitening @ w), atol=1e-2, rtol=1e-3
    )


def test_the_seed_decides_the_patches():
    first, same, other = (data.patches(size=4, count=100, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, same.images)
    assert not torch.equal(first.images, other.images)


def test_each_photograph_gives_as_many_patches_as_the_next(grey):
    single = data.patches(size=1, count=30_000, whiten=None)
    histogram, _ = np.histogram(single.to_pixels(single.images), bins=32, range=(0, 1))
    shares = [np.histogram(photo, bins=32, range=(0, 1))[0] / photo.size for photo in grey]
    assert abs(histogram / 30_000 - np.mean(shares, axis=0)).sum() < 0.03  # 0.046 if by their areas


def test_a_slice_of_patches_keeps_the_way_back(zca):
    few = zca[:7]
    assert repr(few) == "Patches(7 images of 12x12, no labels)"
    torch.testing.assert_close(few.to_pixels(few.images), zca.to_pixels(zca.images)[:7])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 0}, "size=0 does not fit the photographs: use 1 to 300 pixels"),
        ({"size": 301}, "size=301 does not fit the photographs: use 1 to 300 pixels"),
        ({"count": 0}, "count=0 is too few for patches of 12x12 pixels: use 145 or more"),
        ({"count": 144}, "count=144 is too few for patches of 12x12 pixels: use 145 or more"),
        ({"whiten": "pca"}, "whiten='pca' is not known: use 'zca' or None"),
    ],
)
def test_patches_that_cannot_be_are_refused(how, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        data.patches(**how)
