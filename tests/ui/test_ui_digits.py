"""The digit browser without a browser: its pages, and what a move of its controls shows."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dlkit.data import Split
from dlkit.ui.digits import SIDE, DigitBrowser, digit_page


@pytest.fixture
def split():
    """230 images whose brightness tells their index, labelled 0, 1, 2, 0, 1, 2 ..."""
    images = (torch.arange(230) / 255)[:, None, None].expand(-1, 28, 28).contiguous()
    return Split(images, torch.arange(230) % 3)


def brightness(picture: bytes, place: int) -> int:
    """Of the image at this place of the page, counted along the rows."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    row, column = divmod(place, 10)
    return int(pixels[row * (pixels.shape[0] // 10) + SIDE // 2, column * (SIDE + 6) + SIDE // 2])


def test_a_page_shows_each_image_in_its_place_and_white_where_there_is_none(split):
    index = torch.tensor([7, 100, 5])
    pixels = digit_page(split.images[index], index)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    assert [brightness(buffer.getvalue(), place) for place in range(4)] == [7, 100, 5, 255]


def test_the_number_under_an_image_is_drawn(split):
    images = torch.ones(1, 28, 28)
    one, another = digit_page(images, torch.tensor([1])), digit_page(images, torch.tensor([222]))
    assert (one[:SIDE] == another[:SIDE]).all()
    assert (one[SIDE : SIDE + 17] != another[SIDE : SIDE + 17]).any()


def test_it_opens_on_the_first_hundred_images(split):
    browser = DigitBrowser(split)
    assert [brightness(browser.picture.value, place) for place in (0, 1, 99)] == [0, 1, 99]
    assert "Images 1 to 100 of the 230 of any class" in browser.caption.value
    assert browser.page.max == 3


def test_turning_the_page_shows_the_next_hundred(split):
    browser = DigitBrowser(split)
    browser.page.value = 3
    assert brightness(browser.picture.value, 0) == 200
    assert "Images 201 to 230" in browser.caption.value


def test_choosing_a_class_shows_only_its_images_and_goes_to_its_first_page(split):
    browser = DigitBrowser(split)
    browser.page.value = 3
    browser.label.value = 2
    assert [brightness(browser.picture.value, place) for place in (0, 1, 2)] == [2, 5, 8]
    assert "Images 1 to 76 of the 76 labelled 2" in browser.caption.value
    assert (browser.page.value, browser.page.max) == (1, 1)
    browser.label.value = "all"
    assert browser.page.max == 3


def test_images_without_labels_are_refused(split):
    with pytest.raises(ValueError, match="no labels to choose by"):
        DigitBrowser(Split(split.images))


def test_the_text_that_stands_in_for_the_widget_is_short(split):
    assert repr(DigitBrowser(split)) == "DigitBrowser(Split(230 images of 28x28, labelled))"
