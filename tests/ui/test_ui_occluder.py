"""The occluder without a browser: what patches do, against a plain loop, and that each control shows it."""

from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from oracles import seeded
from PIL import ImageColor
from seen import changes, framed, pixels
from torch import nn

from dlkit.analysis.occlusion_maps import occluded_log_probabilities, occlusion
from dlkit.models import LeNet5
from dlkit.ui.draw.pictures import BLACK, ORANGE
from dlkit.ui.occluder import LARGE, Occluder, heat_map

IMAGES = torch.rand(12, 10, 14, generator=seeded())
LABELS = torch.arange(12) % 5


class Small(nn.Module):
    """A net for images with or without maps, that counts how often it is used."""

    def __init__(self, maps=1):
        super().__init__()
        self.maps, self.used = maps, 0
        self.conv, self.output = nn.Conv2d(maps, 3, 3), nn.Linear(3 * 8 * 12, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=seeded(7)))

    def forward(self, images):
        self.used += 1
        return self.output(self.conv(images.view(len(images), self.maps, 10, 14)).tanh().flatten(1))


@pytest.fixture
def net():
    return Small()


@pytest.fixture
def occluder(net):
    return Occluder(net, IMAGES, LABELS)


def probabilities(net, image):
    with torch.no_grad():
        return net(image[None])[0].softmax(0)


def by_loop(net, image, label, size, value):
    """The log-probability lost at each pixel, one patch after the other."""
    drops = torch.zeros(image.shape[-2:])
    for row in range(drops.shape[0]):
        for column in range(drops.shape[1]):
            covered = image.clone()
            for y in range(row - size // 2, row - size // 2 + size):
                for x in range(column - size // 2, column - size // 2 + size):
                    if 0 <= y < drops.shape[0] and 0 <= x < drops.shape[1]:
                        covered[..., y, x] = value
            before, after = (probabilities(net, x)[label].double().log() for x in (image, covered))
            drops[row, column] = before - after
    return drops


@pytest.mark.parametrize(("size", "value"), [(1, 0.5), (2, 0.0), (5, 0.5), (14, 0.0)])
def test_occlusion_is_that_of_a_loop_over_patches(net, size, value):
    drops = occlusion(net, IMAGES[3], 2, size, value)
    torch.testing.assert_close(drops, by_loop(net, IMAGES[3], 2, size, value), atol=2e-5, rtol=1e-4)


def test_averaged_over_the_patches_on_a_pixel_it_is_captums(net):
    """Which has patches that lie wholly in the image alone."""
    image, size = IMAGES[3], 3
    inside = occlusion(net, image, 2, size, 0.0)[1:-1, 1:-1]
    total, count = torch.zeros_like(image), torch.zeros_like(image)
    for row, column in torch.cartesian_prod(torch.arange(inside.shape[0]), torch.arange(inside.shape[1])).tolist():
        total[row : row + size, column : column + size] += inside[row, column]
        count[row : row + size, column : column + size] += 1
    theirs = Occlusion(lambda images: net(images).log_softmax(1)).attribute(image[None], (size, size), target=2)[0]
    torch.testing.assert_close(total / count, theirs.to(image), atol=1e-5, rtol=1e-4)


def test_a_patch_lies_on_all_maps_of_an_image():
    net, image = Small(maps=2), torch.rand(2, 10, 14, generator=seeded(1))
    torch.testing.assert_close(occlusion(net, image, 4, 3, 0.5), by_loop(net, image, 4, 3, 0.5), atol=2e-5, rtol=1e-4)


def test_every_place_has_a_distribution_over_the_classes():
    logs = occluded_log_probabilities(LeNet5(), torch.rand(28, 28, generator=seeded(2)), 7, 0.0)
    assert logs.shape == (28, 28, 10)
    torch.testing.assert_close(logs.exp().sum(2), torch.ones(28, 28))


def test_the_net_is_left_as_it_was(net):
    occlusion(net, IMAGES[0], 0, 3, 0.0)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_heat_is_white_at_0_and_tells_less_from_more():
    painted = heat_map(torch.tensor([[2.0, 0.0, -1.0, -2.0]]))
    assert painted[0, 0].tolist() == list(ImageColor.getrgb("#D55E00"))
    assert painted[0, 1].tolist() == [255, 255, 255]
    assert painted[0, 2].tolist() == pytest.approx([127.5, 184.5, 216.5], abs=0.5)  # half way to blue
    assert painted[0, 3].tolist() == list(ImageColor.getrgb("#0072B2"))
    assert (heat_map(torch.full((2, 2), 1e-6)) == 255).all()  # rounding is not painted


def test_it_says_what_the_net_makes_of_the_patch(occluder, net):
    occluder.image.value, occluder.size.value, occluder.value.value = 4, 4, 0.5
    occluder.picture.place = [0.5 / 14, 2.5 / 10]  # row 2, column 0
    covered = IMAGES[4].clone()
    covered[0:4, 0:2] = 0.5
    before, after = probabilities(net, IMAGES[4]), probabilities(net, covered)
    assert f"p(4): {before[4]:.2f} without the patch, {after[4]:.2f} with it" in occluder.caption.value
    assert f"{abs(before[4].log() - after[4].log()):.2f} nats" in occluder.caption.value
    summary = ", ".join(f"{digit}: {p:.2f}" for digit, p in enumerate(after.tolist()))
    assert f'aria-label="Probabilities with the patch: {summary}"' in occluder.covered_chart.value
    summary = ", ".join(f"{digit}: {p:.2f}" for digit, p in enumerate(before.tolist()))
    assert f'aria-label="Without it: {summary}"' in occluder.whole_chart.value
    assert occluder.picture.alt == "Image 4, labelled 4, with a 4x4 grey patch around row 2, column 0."


def test_the_picture_has_the_patch_and_both_have_its_frame(occluder):
    occluder.size.value = 4
    occluder.map.place = [7.5 / 14, 4.5 / 10]  # row 4, column 7: rows 2 to 5, columns 5 to 8, of 18 pixels each
    assert framed(occluder.picture, ORANGE) == (34, 109, 88, 163)
    assert framed(occluder.map, BLACK) == (34, 109, 88, 163)
    drawn = pixels(occluder.picture)
    middle = (np.arange(14) + 0.5) * LARGE / 14
    shown = drawn[np.ix_(middle[:10].astype(int), middle.astype(int))][..., 0]
    expected = (IMAGES[0] * 255).round().numpy()
    expected[2:6, 5:9] = 0
    assert (shown == expected).all()


def test_the_heat_map_is_of_the_class_and_says_where_it_is_most(occluder, net):
    occluder.size.value, occluder.label.value = 2, 3
    drops = by_loop(net, IMAGES[0], 3, 2, 0.0)
    middle = (np.arange(14) + 0.5) * LARGE / 14
    painted = pixels(occluder.map)[np.ix_(middle[:10].astype(int), middle.astype(int))].astype(int)
    assert np.abs(painted - heat_map(drops)).max() <= 1
    row, column = divmod(int(drops.argmax()), 14)
    assert f"lowers it, most around row {row}, column {column}: by {drops.max():.2f} nats" in occluder.map_caption.value
    row, column = divmod(int(drops.argmin()), 14)
    assert (
        f"raises it, most around row {row}, column {column}: by {-drops.min():.2f} nats" in occluder.map_caption.value
    )


def test_both_pictures_move_the_one_patch_and_the_net_is_not_asked_again(occluder, net):
    used = net.used
    occluder.picture.place = [0.1, 0.9]
    assert occluder.map.cell() == (9, 1)
    assert "around row 9, column 1" in occluder.caption.value
    occluder.map.place = [0.9, 0.1]
    assert occluder.picture.cell() == (1, 12)
    assert "around row 1, column 12" in occluder.caption.value
    occluder.label.value = 1
    assert net.used == used
    occluder.size.value = 3
    occluder.size.value = 7
    assert net.used == used + 1  # the second was there already


def test_every_control_changes_what_it_should(occluder):
    changed = partial(changes, occluder, {"picture", "map", "covered_chart", "whole_chart"})
    assert changed(lambda: setattr(occluder.picture, "place", [0.3, 0.3])) == {"picture", "map", "covered_chart"}
    assert changed(lambda: setattr(occluder.size, "value", 4)) == {"picture", "map", "covered_chart"}
    assert changed(lambda: setattr(occluder.value, "value", 0.5)) == {"picture", "map", "covered_chart"}
    assert changed(lambda: setattr(occluder.label, "value", 4)) == {"map"}
    assert changed(lambda: setattr(occluder.image, "value", 5)) == {"picture", "map", "covered_chart", "whole_chart"}


def test_the_class_to_watch_is_the_label_or_else_the_nets_answer(occluder, net):
    for image in (7, 8, 3):
        occluder.image.value = image
        assert occluder.label.value == image % 5
    without = Occluder(net, IMAGES)
    for image in (7, 8, 3):
        without.image.value = image
        assert without.label.value == int(probabilities(net, IMAGES[image]).argmax())


def test_an_image_of_ones_own_stays_until_another_is_chosen(occluder, net):
    mine = [torch.rand(10, 14, generator=seeded(seed)) for seed in (8, 9)]
    for image in mine:  # the second is not taken for the first
        occluder.show(image)
        answer = int(probabilities(net, image).argmax())
        assert occluder.titles[0].value == "Your own image"
        assert occluder.label.value == answer
        drops = by_loop(net, image, answer, 7, 0.0)
        assert f"by {drops.max():.2f} nats" in occluder.map_caption.value
    occluder.image.value = 1
    assert occluder.titles[0].value == "Image 1, labelled 1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Occluder(Small(), IMAGES, LABELS[:3]), "12 images and 3 labels: give one label an image"),
        (lambda: Occluder(Small(), IMAGES[:0]), "no images to look at: give one at least"),
        (lambda: Occluder(Small(), IMAGES, LABELS + 1), "labels 1 to 5 for a net that tells 5 classes apart: give"),
        (lambda: Occluder(Small(), IMAGES[:, :4]), r"the net does not take images of shape \(4, 14\)"),
        (lambda: Occluder(Small().conv, IMAGES[:, None]), r"the net gives \(3, 8, 12\) for an image: give one that"),
        (lambda: Occluder(Small(), IMAGES).show(torch.zeros(4, 4)), "an image of 4x4 pixels beside images of 10x14"),
        (lambda: occlusion(Small(), IMAGES[0], 5, 3, 0.0), "label 5: the net has 5 classes, 0 to 4"),
        (lambda: occlusion(Small(), IMAGES[0], 0, 0, 0.0), "a patch of 0x0 pixels hides nothing"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_text_that_stands_in_for_the_widget_is_short(occluder):
    assert repr(occluder) == "Occluder(12 images of 10x14)"
