"""Drawings made into MNIST's format: against MNIST itself, and figures whose middle is known."""

import pytest
import torch
import torch.nn.functional as F

from dlkit import data
from dlkit.data.drawing import as_mnist, shrunk


def test_an_mnist_digit_drawn_large_and_off_the_middle_comes_back():
    """Its own 20x20 box enlarged ten times, somewhere on a pad of 280x280."""
    for image in data.load("mnist").test.images[:200]:
        ink = (image > 0).nonzero()
        (top, left), (bottom, right) = ink.min(0).values, ink.max(0).values + 1
        digit = image[top:bottom, left:right]
        pad = torch.zeros(280, 280)
        large = digit.repeat_interleave(10, 0).repeat_interleave(10, 1)
        pad[5 : 5 + large.shape[0], 70 : 70 + large.shape[1]] = large
        torch.testing.assert_close(as_mnist(pad), image, atol=1e-5, rtol=0)


def test_a_drawing_comes_out_the_same_wherever_and_however_large_it_is():
    pad = torch.zeros(140, 140)
    pad[20:60, 30:50] = 1  # 40 high, 20 wide
    digit = as_mnist(pad)
    expected = torch.zeros(28, 28)
    expected[4:24, 9:19] = 1
    torch.testing.assert_close(digit, expected)
    moved, larger = torch.zeros(140, 140), torch.zeros(140, 140)
    moved[90:130, 100:120] = 1
    larger[10:130, 30:90] = 1
    torch.testing.assert_close(as_mnist(moved), expected)
    torch.testing.assert_close(as_mnist(larger), expected)


def test_the_centre_of_mass_is_in_the_middle_and_nothing_leaves_the_image():
    pad = torch.zeros(140, 140)
    pad[20:120, 20:30] = 1  # an L: heavy at the left and below
    pad[110:120, 20:100] = 1
    digit = as_mnist(pad)
    position = torch.arange(28) + 0.5
    middle = [float((digit.sum(1 - axis) * position).sum() / digit.sum()) for axis in (0, 1)]
    assert middle == pytest.approx([14.5, 14.5], abs=0.51)
    assert float(digit.sum()) == pytest.approx(float(pad.sum()) / 25, rel=0.02)
    pan = torch.zeros(140, 140)  # so heavy at the left that its handle would leave the image
    pan[50:90, 20:30] = 1
    pan[68:72, 20:120] = 1
    assert (as_mnist(pan).sum(0) > 0).nonzero()[:, 0].tolist() == list(range(8, 28))


def test_a_point_and_nothing():
    pad = torch.zeros(140, 140)
    assert torch.equal(as_mnist(pad), torch.zeros(28, 28))
    pad[3, 100] = 1
    assert as_mnist(pad)[4:24, 4:24].min() == 1


def test_merely_shrunk_it_stays_where_it_was_drawn():
    pad = torch.zeros(280, 280)
    pad[10:60, 200:240] = 1
    torch.testing.assert_close(shrunk(pad), F.avg_pool2d(pad[None], 10)[0])
