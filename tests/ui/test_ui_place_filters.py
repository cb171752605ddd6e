"""The filters of a place, as they are shown."""

import pytest
import torch
from oracles import seeded
from seen import framed, pixels
from torch import nn

from dlkit.models import LocallyConnected2d
from dlkit.ui import PlaceFilters
from dlkit.ui.draw.pictures import ORANGE

IMAGES = torch.randn(4, 16, 12, generator=seeded())


def layer(**settings):
    return LocallyConnected2d(1, 3, 4, (16, 12), generator=seeded(1), **settings)


def test_it_frames_the_window_of_the_place_that_is_pointed_at():
    widget = PlaceFilters(layer(stride=2), IMAGES)
    assert widget.places == (7, 5)
    for row, column in ((0, 0), (3, 2), (6, 4)):
        widget.picture.go_to(row, column)
        assert widget.titles[0].value.endswith(f"row {row}, column {column}</div>")
        top, bottom, left, right = framed(widget.picture, ORANGE)
        scale = pixels(widget.picture).shape[0] / 16
        assert (top, left) == pytest.approx((2 * row * scale, 2 * column * scale), abs=3)
        assert (bottom, right) == pytest.approx(((2 * row + 4) * scale, (2 * column + 4) * scale), abs=3)


def test_a_filter_is_what_the_layer_multiplies_by():
    own = layer()
    widget = PlaceFilters(own, IMAGES)
    image = torch.randn(1, 1, 16, 12, generator=seeded(2))
    with torch.no_grad():
        outputs = own(image)
    window = image[0, 0, 5:9, 3:7]
    wanted = outputs[0, :, 5, 3] - own.bias[5, 3]
    torch.testing.assert_close((widget.filters(5, 3)[:, 0] * window).sum((1, 2)), wanted.detach())


def test_it_counts_the_parameters_of_both_kinds():
    widget = PlaceFilters(layer(), IMAGES, nn.Conv2d(1, 6, 4).weight)
    assert "13x9 places with 48 weights each: <b>5,616</b> parameters, and 96 where all" in widget.caption.value
    assert 'alt="6 filters that are the same everywhere; grey is 0."' in widget.common.value
    assert PlaceFilters(layer(), IMAGES).common.value == ""
    assert str(widget) == "PlaceFilters(3 filters at each of 13x9 places)"


def test_another_image_is_shown_from_its_darkest_to_its_brightest_pixel():
    widget = PlaceFilters(layer(), IMAGES)
    before = widget.picture.value
    widget.image.value = 2
    assert widget.picture.value != before
    shown = pixels(widget.picture)
    assert (shown.min(), shown.max()) == (0, 255)


@pytest.mark.parametrize(
    ("images", "shared", "said"),
    [
        (IMAGES[:, :15], None, r"images of \(15, 12\) pixels for a layer that sees 16x12"),
        (IMAGES, torch.zeros(2, 1, 5, 5), r"shared kernels of shape \(2, 1, 5, 5\): \(maps, 1, 4, 4\)"),
    ],
)
def test_what_does_not_fit_the_layer_is_refused(images, shared, said):
    with pytest.raises(ValueError, match=said):
        PlaceFilters(layer(), images, shared)
