"""The code map without a browser: its map, its decoded images, and that each control shows them."""

import io

import numpy as np
import pytest
import torch
from oracles import randomised, seeded
from PIL import Image
from torch import nn

from dlkit.analysis.codes import Codes
from dlkit.models import DBN
from dlkit.ui.codes import SIDE, SMALL, CodeMap
from dlkit.ui.draw.code_chart import MAP, CodeChart


@pytest.fixture
def images():
    """Thirty images of 4x5 pixels."""
    return torch.rand(30, 4, 5, generator=seeded(1))


@pytest.fixture
def labels():
    return torch.arange(30) % 10


def net(code=2):
    return randomised(DBN.of([20, 7, code]), 0, 1.0).autoencoder()


@pytest.fixture
def flat(images, labels):
    return CodeMap(net(), images, labels)


@pytest.fixture
def deep(images, labels):
    return CodeMap(net(6), images, labels)


def pixels(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.value)))


def image_at(sheet, y, x, side) -> np.ndarray:
    """The 4x5 image in a sheet, whose left upper corner is at (y, x), from the middle of each of its pixels."""
    rows, columns = y + (np.arange(4) + 0.5) * (side * 4 // 5) / 4, x + (np.arange(5) + 0.5) * side / 5
    return sheet[np.ix_(rows.astype(int), columns.astype(int))]


def in_grey(image) -> np.ndarray:
    return (image.detach() * 255).round().numpy()


def test_the_chart_puts_a_code_where_its_numeral_is(images, labels):
    """One image far from the others: there is ink around its pixel, in its colour, and none around empty places."""
    codes = Codes(net(), images, labels)
    codes.positions = torch.zeros(30, 2)
    codes.positions[3] = torch.tensor([10.0, 5.0])
    chart = CodeChart(codes)
    row, column = chart.pixel(10.0, 5.0)
    assert (chart.pixels[row - 8 : row + 9, column - 8 : column + 9] < 250).any()
    row, column = chart.pixel(5.0, 2.5)
    assert (chart.pixels[row - 8 : row + 9, column - 8 : column + 9] == 255).all()
    assert chart.pixel(chart.x[0], chart.y[1]) == (0, 0)
    assert chart.pixel(chart.x[1], chart.y[0]) == (MAP - 1, MAP - 1)
    assert chart.pixel(1e6, -1e6) == (MAP - 1, MAP - 1)


def test_at_the_cursor_is_what_its_place_decodes_to_and_the_nearest_image(flat, images):
    x, y = (0.3 * slider.min + 0.7 * slider.max for slider in (flat.x, flat.y))
    flat.x.value, flat.y.value = x, y
    sheet = pixels(flat.picture)
    decoded = net()[1](torch.tensor([[x, y]])).view(4, 5)
    assert np.abs(image_at(sheet, 0, 0, SIDE) - in_grey(decoded)).max() <= 1
    near = flat.codes.nearest(x, y)
    assert (image_at(sheet, SIDE * 4 // 5 + 17, 0, SIDE) == in_grey(images[near])).all()
    assert f"Decoded at the cursor ({x:.2f}, {y:.2f})" in flat.caption.value
    assert f"image {near}, a{'n' if near % 10 == 8 else ''} {near % 10}." in flat.caption.value


def test_of_longer_codes_it_shows_the_nearest_image_and_its_reconstruction(deep, images):
    deep.x.value = deep.x.min
    near = deep.codes.nearest(deep.x.value, deep.y.value)
    sheet = pixels(deep.picture)
    assert (image_at(sheet, 0, 0, SIDE) == in_grey(images[near])).all()
    again = net(6)(images[near : near + 1]).view(4, 5)
    assert np.abs(image_at(sheet, SIDE * 4 // 5 + 17, 0, SIDE) - in_grey(again)).max() <= 1
    assert "Of its 6 numbers the map shows the first two principal components" in deep.caption.value


@pytest.mark.parametrize("name", ["flat", "deep"])
def test_the_walk_is_decoded_and_between_its_digits(name, images, request):
    widget = request.getfixturevalue(name)
    widget.first.value, widget.second.value, widget.t.value = 4, 9, 0.3
    decode, h = widget.codes.decoder, widget.codes.codes
    strip = pixels(widget.strip)
    at = {0: images[4], 12: images[9]}  # t = 0 is at place 1, t = 1 at place 11
    at |= {place: decode(torch.lerp(h[4], h[9], (place - 1) / 10)[None]).view(4, 5) for place in (1, 4, 11)}
    for place, image in at.items():
        assert np.abs(image_at(strip, 0, place * (SMALL + 6), SMALL) - in_grey(image)).max() <= 1
    here = decode(torch.lerp(h[4], h[9], 0.3)[None]).view(4, 5)
    assert np.abs(image_at(pixels(widget.walk_picture), 0, 0, SIDE) - in_grey(here)).max() <= 1
    assert "from image 4, a 4, at t = 0 to image 9, a 9, at t = 1" in widget.walk_caption.value


def test_every_control_changes_what_it_should(flat):
    def changed(name, value) -> set[str]:
        names = ("map", "picture", "walk_picture", "strip")
        before = {name: getattr(flat, name).value for name in names}
        getattr(flat, name).value = value
        return {name for name in names if getattr(flat, name).value != before[name]}

    assert changed("x", flat.x.max) == {"map", "picture"}
    assert changed("y", flat.y.min) == {"map", "picture"}
    assert changed("t", 0.9) == {"map", "walk_picture"}
    assert changed("first", 7) == changed("second", 12) == {"map", "walk_picture", "strip"}


def test_the_cursor_is_where_the_sliders_are(flat):
    flat.x.value, flat.y.value = flat.x.min, flat.y.min
    drawn = pixels(flat.map)
    assert (drawn[MAP - 1] == 0).all(1).mean() > 0.9
    assert (drawn[:, 0] == 0).all(1).mean() > 0.9


def test_pointing_at_the_map_moves_the_cursor(flat):
    before = flat.picture.value
    flat.map.place = [0.25, 0.125]
    assert flat.x.value == pytest.approx(0.75 * flat.x.min + 0.25 * flat.x.max)
    assert flat.y.value == pytest.approx(0.125 * flat.y.min + 0.875 * flat.y.max)  # down is towards low y
    assert flat.picture.value != before
    drawn = pixels(flat.map)
    column, row = round(0.25 * (MAP - 1)), round(0.125 * (MAP - 1))
    assert (drawn[:, column] == 0).all(1).mean() > 0.9
    assert (drawn[row] == 0).all(1).mean() > 0.9
    flat.y.value = flat.y.max  # the sliders are still heard
    assert pixels(flat.map)[row].mean() > 100


def test_the_map_has_a_text_for_who_cannot_see_it(flat):
    assert flat.map.alt == "Map of the codes of 30 digits, each a numeral in its class's colour."


def test_it_opens_on_two_digits_of_different_classes(images):
    labels = torch.tensor([5] * 4 + [1] * 26)
    widget = CodeMap(net(), images, labels)
    assert (widget.first.value, widget.second.value) == (0, 4)
    alike = CodeMap(net(), images, torch.zeros(30, dtype=torch.int64))
    assert (alike.first.value, alike.second.value) == (0, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, y: CodeMap(net(), i, y[:9]), "30 images and 9 labels: give one label an image"),
        (lambda i, y: CodeMap(net(), i[:1], y[:1]), "1 images make no map"),
        (lambda i, y: CodeMap(net()[0], i, y), r"a Sequential of 4 parts: give Sequential\(encoder, decoder\)"),
        (lambda i, y: CodeMap(net(), i[:, :3], y), "images of 3x5 pixels for an encoder of 20"),
        (lambda i, y: CodeMap(net(1), i, y), "a code of one number makes no map"),
        (lambda i, y: CodeMap(nn.Sequential(net()[0], net(6)[1]), i, y), "a decoder of codes of 6 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(make, message, images, labels):
    with pytest.raises(ValueError, match=message):
        make(images, labels)


def test_the_text_that_stands_in_for_the_widget_is_short(flat, deep):
    assert repr(flat) == "CodeMap(30 images, codes of 2 numbers)"
    assert repr(deep) == "CodeMap(30 images, codes of 6 numbers)"
