"""The pad and the reader without a browser: what is drawn arrives, is centred, read, and each map of it shown."""

import numpy as np
import pytest
import torch
from oracles import seeded
from seen import pixels
from torch import nn

from dlkit import data
from dlkit.data.drawing import as_mnist
from dlkit.models import ConvNet, LeNet5
from dlkit.ui.controls.drawing_pad import SIDE, DrawingPad
from dlkit.ui.draw.layer_strips import GAP, TALLEST, WIDTH, layer_strips
from dlkit.ui.draw.pictures import LINE
from dlkit.ui.reader import DigitReader

DIGIT = data.load("mnist").test.images[0]
STROKE = torch.zeros(SIDE, SIDE)
STROKE[20:60, 30:42] = 1


def draw(reader, drawing=STROKE):
    """What the page does when the pen is lifted."""
    reader.pad.pixels = (drawing * 255).byte().numpy().tobytes()
    reader.pad.lifted += 1


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return DigitReader({"small": ConvNet(), "large": LeNet5(output="softmax")}, {"Read a test digit": lambda: DIGIT})


def test_what_is_on_the_pad_is_its_drawing():
    pad = DrawingPad()
    assert not pad.drawing.any()
    pad.pixels = memoryview((STROKE * 255).byte().numpy().tobytes())  # as it comes from the page
    torch.testing.assert_close(pad.drawing, STROKE)
    pad.clear()
    assert not pad.drawing.any()


def test_a_drawing_is_read_as_mnist_would_have_it(reader):
    draw(reader)
    torch.testing.assert_close(reader.image, as_mnist(STROKE))
    with torch.no_grad():
        p = reader.nets["small"](as_mnist(STROKE)[None]).softmax(1)[0]
    assert f"small reads {int(p.argmax())} (p = {float(p.max()):.2f})" in reader.caption.value
    assert "As drawn, neither scaled nor centred, small would read" in reader.caption.value
    assert f"{int(p.argmax())}: {float(p.max()):.2f}" in reader.chart.value


def test_each_map_is_on_the_sheet_in_its_place():
    torch.manual_seed(0)
    net = ConvNet()
    with torch.no_grad():
        c1 = net.c1(net.pad(DIGIT[None]))[0]
    strips = layer_strips(net, DIGIT)
    assert strips.shape[1] == WIDTH
    scaled = 255 * (0.5 + 0.5 * c1 / c1.abs().max())
    for number in range(4):
        shown = strips[LINE : LINE + TALLEST, number * (TALLEST + GAP) :][:, :TALLEST]
        small = shown[2::4, 2::4]  # 24 values in 96 pixels
        np.testing.assert_allclose(small, scaled[number].numpy(), atol=0.51)


def test_a_net_of_many_units_has_a_sheet_too():
    assert layer_strips(LeNet5(), DIGIT).shape[0] < 520


def test_the_other_net_is_shown_when_it_is_chosen(reader):
    draw(reader)
    before = reader.maps.value
    reader.net.value = "large"
    assert reader.maps.value != before
    assert "p(digit), large" in reader.chart.value


def test_other_images_are_read_as_they_are(reader):
    draw(reader)
    reader.buttons[0].click()
    assert torch.equal(reader.image, DIGIT)
    assert not reader.pad.drawing.any()
    assert "As drawn" not in reader.caption.value
    assert pixels(reader.seen).shape[1] > 0


def test_clearing_a_pad_that_is_empty_takes_another_image_away(reader):
    reader.show(DIGIT)
    draw(reader, torch.zeros(SIDE, SIDE))
    assert "Draw a digit" in reader.caption.value
    assert "reads" not in reader.caption.value


def test_an_empty_pad_says_how_to_draw(reader):
    assert "Draw a digit" in reader.caption.value
    assert "reads" not in reader.caption.value
    assert not torch.isnan(reader.image).any()


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_read_is_refused(reader):
    with pytest.raises(ValueError, match=r"an image of shape \(27, 28\), torch.float32: give one of \(28, 28\)"):
        reader.show(torch.rand(27, 28, generator=seeded()))
    with pytest.raises(ValueError, match=r"torch.uint8: give one of"):
        reader.show((255 * DIGIT).byte())
    for none in ({}, ConvNet()):
        with pytest.raises(ValueError, match="no nets to read with: give some by name"):
            DigitReader(none)
    with pytest.raises(ValueError, match="it has no convolutions"):
        DigitReader({"plain": nn.Sequential(nn.Flatten(), nn.Linear(784, 10))})
    with pytest.raises(ValueError, match="does not take images"):
        DigitReader({"other": nn.Conv2d(3, 4, 5)})
