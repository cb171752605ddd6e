"""Pictures of a small machine: what their alt texts say, and that they show what they should."""

import io

import numpy as np
import torch
from oracles import random_rbm
from PIL import Image

from dlkit.ui.draw.rbm_diagram import draw_rbm, small_images


def test_the_alt_text_counts_the_units_and_weights_that_are_on():
    rbm = random_rbm(3, 2)
    with torch.no_grad():
        rbm.W.copy_(torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]))
    alt = draw_rbm(rbm, torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0])).alt
    assert "3 visible units below, 2 on; 2 hidden units above, 2 on" in alt
    assert "2 positive, 2 negative" in alt


def test_a_machine_with_nothing_on_can_be_drawn():
    assert "0 on" in draw_rbm(random_rbm(3, 2), torch.zeros(3), torch.zeros(2)).alt


def test_small_images_are_enlarged_and_framed():
    picture = small_images(torch.stack([torch.zeros(2, 2), torch.ones(2, 2)]), alt="two", columns=2, zoom=5)
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)))
    assert pixels.shape == (16, 29)
    assert (pixels[3:13, 3:13] == 0).all()
    assert (pixels[3:13, 16:26] == 255).all()
    assert set(pixels[0]) == {89}
