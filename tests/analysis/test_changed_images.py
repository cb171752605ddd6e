"""Shifts, scales and turns, against ones that need no interpolation."""

import pytest
import torch
from oracles import seeded

from dlkit.analysis.changed_images import invariance, scaled, shifted, turned

IMAGES = torch.rand(3, 9, 9, dtype=torch.float64, generator=seeded())


def test_whole_pixels_and_quarter_turns_need_no_interpolation():
    right = torch.zeros_like(IMAGES)
    right[:, :, 2:] = IMAGES[:, :, :-2]
    torch.testing.assert_close(shifted(IMAGES, 2), right)
    left = torch.zeros_like(IMAGES)
    left[:, :, :-3] = IMAGES[:, :, 3:]
    torch.testing.assert_close(shifted(IMAGES, -3), left)
    torch.testing.assert_close(turned(IMAGES, 90), IMAGES.rot90(1, (1, 2)))
    torch.testing.assert_close(turned(IMAGES, -180), IMAGES.rot90(2, (1, 2)))
    for same in (shifted(IMAGES, 0), scaled(IMAGES, 1), turned(IMAGES, 0), turned(IMAGES, 360)):
        torch.testing.assert_close(same, IMAGES)


def test_an_image_three_times_as_large_shows_its_middle():
    torch.testing.assert_close(scaled(IMAGES, 3)[:, 1::3, 1::3], IMAGES[:, 3:6, 3:6])
    small = scaled(IMAGES, 1 / 3)
    torch.testing.assert_close(small[:, 3:6, 3:6], IMAGES[:, 1::3, 1::3])
    assert (small[:, :2] == 0).all()


def test_maps_of_several_colours_are_changed_alike():
    colours = torch.rand(2, 3, 8, 6, generator=seeded(1))
    found = turned(colours, 30)
    for number in range(3):
        torch.testing.assert_close(found[:, number], turned(colours[:, number], 30))


def test_a_unit_that_looks_at_the_middle_loses_a_shifted_spot_as_it_leaves():
    spots = torch.zeros(4, 9, 9)
    spots[:, 4, 4] = 1.0
    found = invariance(lambda images: images[:, 3:6, 3:6].sum((1, 2)), spots, shifted, [-2, -1, 0, 1, 2])
    assert found.tolist() == pytest.approx([0, 1, 1, 1, 0], abs=1e-6)


def test_what_gives_no_value_for_each_image_is_refused():
    with pytest.raises(ValueError, match=r"respond gives \(3, 9\) for 3 images: one value for each"):
        invariance(lambda images: images.sum(2), IMAGES, shifted, [0.0])
    with pytest.raises(ValueError, match="images 0 times as large: more than 0"):
        scaled(IMAGES, 0)
