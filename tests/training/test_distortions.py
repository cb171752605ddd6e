"""Distortions of images, against the geometry that they promise."""

import pytest
import torch
from oracles import seeded

from dlkit.training import Affine, InputDropout

STILL = {"shift": 0.0, "scale": 0.0, "turn": 0.0, "shear": 0.0}
CENTRE = torch.tensor([19.5, 14.5], dtype=torch.float64)  # of images 40 wide and 30 high


def spot(x, y):
    """An image of 30x40 with a soft spot x pixels right of its middle and y below it."""
    rows, columns = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    return torch.exp(-((columns - 19.5 - x) ** 2 + (rows - 14.5 - y) ** 2) / 8).double()


def middle(images):
    """(batch, 2): where the mean of the ink is, right and down from the middle, in pixels."""
    rows, columns = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    places = torch.stack([columns, rows], -1).double() - CENTRE
    return (images[..., None] * places).sum((1, 2)) / images.sum((1, 2))[:, None]


def test_dropped_inputs_are_0_the_others_larger_and_their_mean_the_same():
    images = 0.1 + torch.rand(20_000, 6, generator=seeded())
    seen = InputDropout(0.2)(images, seeded(1))
    dropped = seen == 0
    assert dropped.float().mean().item() == pytest.approx(0.2, abs=0.005)
    torch.testing.assert_close(seen[~dropped], images[~dropped] / 0.8)
    torch.testing.assert_close(seen.mean(), images.mean(), rtol=0.01, atol=0)


def test_nothing_drawn_is_nothing_changed():
    images = torch.rand(5, 28, 28, generator=seeded())
    torch.testing.assert_close(Affine(**STILL)(images, seeded()), images, atol=1e-5, rtol=0)
    coloured = torch.rand(5, 3, 20, 28, generator=seeded())
    torch.testing.assert_close(Affine(**STILL)(coloured, seeded()), coloured, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changes", [{"shift": 3.0}, {"scale": 0.2}, {"turn": 0.3}, {"shear": 0.4}, {}])
def test_a_spot_comes_from_where_the_formula_says(changes):
    """For each pixel of the result the source is diag(wide, tall) · rotation · shear · pixel + shift."""
    how = Affine(**STILL | changes) if changes else Affine()
    start = torch.tensor([6.0, -4.0], dtype=torch.float64)
    found = middle(how(spot(*start.tolist()).expand(50, -1, -1), seeded(3)))
    right, down, size, squeeze, turn, shear = torch.empty(6, 50, dtype=torch.float64).uniform_(
        -1, 1, generator=seeded(3)
    )
    for i in range(50):
        tall = 1 + how.scale * size[i]
        wide = tall * (1 + how.scale * squeeze[i])
        angle = how.turn * turn[i]
        rotation = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        slant = torch.tensor([[1.0, how.shear * shear[i]], [0.0, 1.0]], dtype=torch.float64)
        source = torch.diag(torch.stack([wide, tall])) @ rotation @ slant
        moved = torch.linalg.solve(source, start - how.shift * torch.stack([right[i], down[i]]))
        torch.testing.assert_close(found[i], moved, atol=0.05, rtol=0)


def test_each_image_is_distorted_for_itself_and_alike_in_all_its_maps():
    images = torch.rand(2, 1, 20, 20, generator=seeded()).expand(2, 3, 20, 20)
    found = Affine()(images, seeded(1))
    assert torch.equal(found[:, 0], found[:, 2])
    assert torch.equal(Affine()(images, seeded(1)), found)
    twice = Affine()(images[:1].expand(2, 3, 20, 20), seeded(1))
    assert not torch.equal(twice[0], twice[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputDropout(0), "an input dropout of 0: between 0 and 1"),
        (lambda: InputDropout(1.0), "0.2 is usual"),
        (lambda: Affine(shift=-1), "shift=-1: at least 0, which leaves it out"),
        (lambda: Affine(turn=float("nan")), "turn=nan"),
        (lambda: Affine(scale=1.0), "scale=1.0: below 1, or an image may vanish"),
        (lambda: Affine()(torch.zeros(3, 784), seeded()), r"shape \(3, 784\) have no height and width to distort"),
    ],
)
def test_what_means_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
