"""The convolution stepper without a browser: each cell's arithmetic against torch's, and that each control shows it."""

import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from seen import changes, framed, pixels
from torch import nn

from dlkit.core.text_table import format_number
from dlkit.models import ConvNet, LeNet5
from dlkit.models.convolution import KINDS, SparseConv2d, Subsample
from dlkit.ui.draw.map_sheets import MARGIN
from dlkit.ui.stepper import CONVOLUTION, SIDE, SUB_SAMPLING, ConvolutionStepper


@pytest.fixture
def images():
    """Five images of 9x11 pixels."""
    return torch.rand(5, 9, 11, generator=seeded(1))


def layers(kind="average", size=2, stride=2, **options):
    """A convolution of one map into three by kernels of 3x3, its activation, and its sub-sampling."""
    convolution, sub_sampling = nn.Conv2d(1, 3, 3, **options), Subsample(3, size, kind, stride)
    for parameter in (*convolution.parameters(), *sub_sampling.parameters()):
        nn.init.normal_(parameter, generator=seeded(2))
    return convolution, nn.Tanh(), sub_sampling


@pytest.fixture
def stepper(images):
    """Maps of 7x9, sub-sampled to 3x4."""
    return ConvolutionStepper(images, *layers())


def text(html) -> str:
    """What a reader of the HTML sees."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def amounts(html) -> list[float]:
    """The numbers that stand in a table's cells, in their order."""
    cells = re.findall(r"<td[^>]*>(−?\d+\.\d\d)<", html)
    return [float(amount.replace("−", "-")) for amount in cells]


def frame(picture) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what the orange frame encloses, in a picture's own pixels."""
    top, bottom, left, right = framed(picture, "#E69F00")
    return left + 3, top + 3, right - 2, bottom - 2


def point(picture, zoom, x, y):
    """Put the pointer on the middle of the pixel (x, y) of what the picture shows enlarged."""
    high, wide = pixels(picture).shape[:2]
    picture.place = [(MARGIN + zoom * (x + 0.5)) / wide, (MARGIN + zoom * (y + 0.5)) / high]


def test_numbers_have_a_minus_sign_and_zero_has_none():
    assert [format_number(value) for value in (-0.346, 0.0, -0.001, 12.0)] == ["−0.35", "0.00", "0.00", "12.00"]


def test_it_shows_the_sum_of_a_convolution(stepper, images):
    convolution, activation, _ = layers()
    stepper.image.value, stepper.map.value = 3, 2
    stepper.play.value = 2 * 9 + 5
    patch, kernel = images[3, 2:5, 5:8], convolution.weight[2, 0].detach()
    total, bias = (patch * kernel).sum(), convolution.bias[2].detach()
    parts = [patch, kernel, patch * kernel, torch.stack([total, bias, total + bias, activation(total + bias)])]
    wanted = torch.cat([part.flatten() for part in parts])
    np.testing.assert_allclose(amounts(stepper.arithmetic.value), wanted, atol=0.0051)
    assert f"Tanh({format_number(float(total + bias))}) =" in text(stepper.arithmetic.value)
    caption = text(stepper.caption.value)
    assert "Map 2, row 2, column 5 (counted from 0): it sees rows 2 to 4 and columns 5 to 7 of image 3." in caption
    assert "The same 10 numbers, the kernel and the bias, are used at each of the map's 7×9 places" in caption


@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_what_sub_sampling_takes(kind, images):
    convolution, activation, sub_sampling = parts = layers(kind, 3, 2)
    stepper = ConvolutionStepper(images, *parts)
    stepper.mode.value, stepper.map.value = SUB_SAMPLING, 1
    stepper.play.value = 1 * 4 + 2
    maps = activation(convolution(images[:1, None]))
    window, value = maps[0, 1, 2:5, 4:7].flatten().tolist(), float(sub_sampling(maps)[0, 1, 1, 2].detach())
    shown = amounts(stepper.arithmetic.value)
    np.testing.assert_allclose(shown[:9], window, atol=0.0051)
    assert shown[-1] == pytest.approx(value, abs=0.0051)
    cells = [part.split(">")[0] for part in stepper.arithmetic.value.split("<td")[1:10]]
    taken = {"max": [window.index(max(window))], "strided": [0]}.get(kind, [])
    assert [place for place, cell in enumerate(cells) if "chosen" in cell] == taken
    caption = text(stepper.caption.value)
    assert "Map 1, row 1, column 2 (counted from 0): it sees rows 2 to 4 and columns 4 to 6 of map 1" in caption
    assert "The windows overlap." in caption
    assert ("The same 2 numbers" in caption) == (kind == "trainable")


def test_a_window_that_sticks_out_says_so(images):
    stepper = ConvolutionStepper(images[:, :8, :10], *layers("average", 3, 2))  # maps of 6x8
    stepper.mode.value = SUB_SAMPLING
    stepper.play.value = stepper.play.max
    assert "rows 4 to 5 and columns 6 to 7 of map 0 before sub-sampling; the rest" in text(stepper.caption.value)
    stepper.play.value = 0
    assert "sticks out" not in stepper.caption.value


@pytest.mark.parametrize("padding", [0, 1])
def test_the_pictures_are_the_image_and_the_map(images, padding):
    convolution, activation, sub_sampling = parts = layers("trainable", padding=padding)
    stepper = ConvolutionStepper(images, *parts)
    stepper.image.value, stepper.map.value = 4, 1
    large = activation(convolution(images[4:, None]))
    small = sub_sampling(large)[0, 1].detach()
    large = large[0, 1].detach()
    most = max(large.abs().max(), small.abs().max())
    around = F.pad(images, [padding] * 4)
    in_grey = [(x - around.min()) / (around.max() - around.min()) for x in around[4:]]
    in_grey += [0.5 + 0.5 * large / most, 0.5 + 0.5 * small / most]

    def check(picture, expected, zoom):
        middle = [MARGIN + zoom * np.arange(count) + zoom // 2 for count in expected.shape]
        shown = pixels(picture)[np.ix_(*middle)].astype(int)
        assert np.abs(shown - (expected * 255).round().int().numpy()[..., None]).max() <= 1

    zoom = SIDE // (11 + 2 * padding)
    check(stepper.left, in_grey[0], zoom)
    check(stepper.right, in_grey[1], zoom)
    row, column = stepper.cell
    assert amounts(stepper.arithmetic.value)[-1] == pytest.approx(float(large[row, column]), abs=0.0051)
    shade = pixels(stepper.right)[MARGIN + zoom * row + zoom // 2, MARGIN + zoom * column + zoom // 2].tolist()
    assert f"background: rgb({', '.join(map(str, shade))})" in stepper.arithmetic.value
    stepper.mode.value = SUB_SAMPLING
    zoom = SIDE // (9 + 2 * padding)
    check(stepper.left, in_grey[1], zoom)
    check(stepper.right, in_grey[2], zoom)


def test_the_frames_enclose_the_cell_and_what_it_sees(stepper):
    zoom = SIDE // 11
    for row, column in ((0, 0), (2, 5), (6, 8)):
        stepper.play.value = row * 9 + column
        left, top = (MARGIN + zoom * place for place in (column, row))
        assert frame(stepper.left) == (left, top, left + 3 * zoom, top + 3 * zoom)
        assert frame(stepper.right) == (left, top, left + zoom, top + zoom)
    assert "rows 6 to 8 and columns 8 to 10." in stepper.left.alt
    assert "row 6 and column 8." in stepper.right.alt


def test_the_pointer_on_the_image_takes_the_patch_around_it(stepper):
    for y, x in np.ndindex(9, 11):
        point(stepper.left, SIDE // 11, x, y)
        assert stepper.cell == (min(max(y - 1, 0), 6), min(max(x - 1, 0), 8))  # the border's are the nearest
        assert stepper.right.cell() == stepper.cell


def test_the_pointer_on_the_map_takes_the_cell_under_it(stepper):
    for y, x in np.ndindex(7, 9):
        point(stepper.right, SIDE // 11, x, y)
        assert stepper.cell == (y, x)
        assert stepper.left.cell() == stepper.cell


def test_the_corners_of_both_pictures_are_the_corner_cells(stepper):
    for picture in (stepper.left, stepper.right):
        for mode, last in ((CONVOLUTION, (6, 8)), (SUB_SAMPLING, (2, 3))):
            stepper.mode.value = mode
            picture.place = [1.0, 1.0]
            assert stepper.cell == last
            picture.place = [0.0, 0.0]
            assert stepper.cell == (0, 0)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_the_pointer_on_a_map_takes_the_nearest_window(images, size, stride):
    stepper = ConvolutionStepper(images, *layers("max", size, stride))
    stepper.mode.value = SUB_SAMPLING
    for y, x in np.ndindex(7, 9):
        point(stepper.left, SIDE // 9, x, y)
        for place, pixel, count in zip(stepper.cell, (y, x), stepper.right.cells[::-1], strict=True):
            distances = [abs(stride * cell + (size - 1) / 2 - pixel) for cell in range(count)]
            assert distances[place] == min(distances)


def test_the_place_follows_the_cell_that_the_arrow_keys_go_on_from(stepper):
    for act in (stepper.next.click, stepper.previous.click, lambda: setattr(stepper.mode, "value", SUB_SAMPLING)):
        act()
        for picture in (stepper.left, stepper.right):
            assert picture.cell() == stepper.cell
            assert picture.cells == list(stepper.windows[stepper.mode.value].cells[::-1])


def test_the_pointers_own_place_is_left_where_it_is(stepper):
    """Else the page and the kernel would send it to and fro."""
    point(stepper.right, SIDE // 11, 4.3, 2.2)
    place = stepper.right.place
    assert stepper.cell == (2, 4)
    stepper.map.value = 1
    assert stepper.right.place == place


def test_the_buttons_go_along_the_rows_and_round(stepper):
    stepper.play.value = 8
    stepper.next.click()
    assert stepper.cell == (1, 0)
    stepper.previous.click()
    assert stepper.cell == (0, 8)
    stepper.play.value = 0
    stepper.previous.click()
    assert stepper.cell == (6, 8)
    stepper.next.click()
    assert stepper.cell == (0, 0)


def test_sub_sampling_goes_on_from_the_cell_and_back(stepper):
    stepper.play.value = 5 * 9 + 6
    stepper.mode.value = SUB_SAMPLING
    assert stepper.cell == (2, 3)
    assert stepper.play.max == 11
    stepper.mode.value = CONVOLUTION
    assert stepper.cell == (4, 6)
    stepper.play.value = stepper.play.max  # its row is in no window
    stepper.mode.value = SUB_SAMPLING
    assert stepper.cell == (2, 3)


def test_every_control_changes_what_it_should(stepper):
    everything = {"left", "right", "arithmetic", "caption"}
    changed = partial(changes, stepper, everything)
    for mode in (CONVOLUTION, SUB_SAMPLING):
        stepper.mode.value = mode
        stepper.play.value = 3
        assert changed(stepper.next.click) == everything
        assert changed(lambda: setattr(stepper.play, "value", 7)) == everything
        assert changed(lambda: setattr(stepper.left, "place", [0.0, 0.0])) == everything
    assert changed(lambda: setattr(stepper.map, "value", 2)) == everything
    assert changed(lambda: setattr(stepper.mode, "value", CONVOLUTION)) == everything
    assert changed(lambda: setattr(stepper.image, "value", 2)) == everything
    assert changed(lambda: setattr(stepper.map, "value", 1)) == everything - {"left"}


def test_padding_is_part_of_what_is_seen(images):
    stepper = ConvolutionStepper(images, *layers(padding=1))
    stepper.play.value = 0
    assert "rows 0 to 2 and columns 0 to 2 of image 0 with the zeros around it" in text(stepper.caption.value)
    assert amounts(stepper.arithmetic.value)[:4] == [0, 0, 0, 0]
    assert "<b>Image 0</b>, 11×13" in stepper.left_title.value


def test_without_a_bias_it_speaks_of_none(images):
    stepper = ConvolutionStepper(images, *layers(bias=False))
    assert "The same 9 numbers, the kernel, are used" in stepper.caption.value
    assert "bias" not in text(stepper.arithmetic.value)


def test_both_nets_go_in_as_they_are(images):
    net, lenet, digits = ConvNet(), LeNet5(), torch.rand(3, 28, 28, generator=seeded())
    assert repr(ConvolutionStepper(digits, net.c1[0], net.c1[1], net.s1[0])) == (
        "ConvolutionStepper(3 images of 28×28, 4 maps)"
    )
    stepper = ConvolutionStepper(lenet.pad(digits)[:, 0], lenet.c1[0], lenet.c1[1], lenet.s2[0])
    stepper.map.value = 5
    value = lenet.c1(lenet.pad(digits))[0, 5][stepper.cell]
    assert amounts(stepper.arithmetic.value)[-1] == pytest.approx(float(value.detach()), abs=0.0051)


def test_a_black_image_and_a_map_of_zeros_are_shown(images):
    convolution, activation, sub_sampling = layers("max", bias=False)
    stepper = ConvolutionStepper(0 * images, convolution, activation, sub_sampling)
    for mode in (CONVOLUTION, SUB_SAMPLING):
        stepper.mode.value = mode
        assert "nan" not in stepper.arithmetic.value
        assert amounts(stepper.arithmetic.value)[-1] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda i, c, a, s: (i[:, None], c, a, s), r"images of shape \(5, 1, 9, 11\): give \(images, height, width\)"),
        (lambda i, c, a, s: (i[:0], c, a, s), r"images of shape \(0, 9, 11\)"),
        (lambda i, c, a, s: (i, nn.Conv2d(2, 3, 3), a, s), "a Conv2d of 2 maps: give an nn.Conv2d that takes one map"),
        (lambda i, c, a, s: (i, SparseConv2d([[0]], 3), a, s), "a SparseConv2d: give an nn.Conv2d that takes one map"),
        (lambda i, c, a, s: (i, nn.Conv2d(1, 3, 3, dilation=2), a, s), r"dilation=\(2, 2\): give one with a number"),
        (lambda i, c, a, s: (i, nn.Conv2d(1, 3, 3, padding="same"), a, s), "a convolution with padding='same'"),
        (lambda i, c, a, s: (i, nn.Conv2d(1, 3, 3, padding_mode="reflect"), a, s), "padding_mode='reflect'"),
        (
            lambda i, c, a, s: (i, c, a, nn.MaxPool2d(2)),
            r"sub-sampling by a MaxPool2d: give a Subsample, as net.s1\[0\]",
        ),
        (lambda i, c, a, s: (i, c, torch.tanh, s), r"tanh as the activation: give a module, such as nn.Tanh\(\)"),
        (lambda i, c, a, s: (i, c, nn.Tanh, s), "Tanh as the activation: give a module"),
        (lambda i, c, a, s: (i, c, a, Subsample(4)), "gives 3 maps and sub-sampling of 4: give the two of one net"),
        (lambda i, c, a, s: (i[:, :3], c, a, s), "images of 3×11 pixels are too small for kernels of 3×3"),
        (lambda i, c, a, s: (i[:, :2], c, a, s), "images of 2×11 pixels are too small for kernels of 3×3"),
    ],
)
def test_what_it_cannot_show_is_refused(make, message, images, unchecked):
    with pytest.raises(ValueError, match=message):
        ConvolutionStepper(*make(images, *layers()))


def test_the_net_is_left_as_it_was(images):
    parts = nn.Sequential(*layers("trainable")).train()
    stepper = ConvolutionStepper(images, *parts)
    shown = stepper.arithmetic.value
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.zero_()
    stepper.next.click()
    stepper.previous.click()
    assert stepper.arithmetic.value == shown
    assert all(module.training for module in parts.modules())
    assert all(p.grad is None for p in parts.parameters())
