"""Maps, receptive fields and top images, on our nets and on a student's."""

import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from torch import nn

from dlkit.analysis.features import map_layers, module_output, receptive_field, top_images
from dlkit.analysis.layer_counts import counts
from dlkit.core.evaluation import forward_eval
from dlkit.models import ConvNet, LeNet5

IMAGES = torch.rand(6, 28, 28, generator=seeded())


class Own(nn.Module):
    """A student's net: no Sequential, a skip connection, a stride, a module that is never used."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, stride=2)
        self.unused = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        x = self.drop(self.first(images[:, None]).relu())
        return self.second(x + images[:, None]).flatten(1)


def hooks(net):
    return [module for module in net.modules() if module._forward_hooks]


def test_maps_are_what_the_module_gives():
    net = LeNet5()
    by_hand = net.s2(net.c1(net.pad(IMAGES)))
    assert torch.equal(module_output(net, IMAGES, "s2"), by_hand)
    assert torch.equal(module_output(net, IMAGES, "c1.0"), net.c1[0](net.pad(IMAGES)))
    own = Own()
    torch.testing.assert_close(module_output(own, IMAGES, "first"), own.first(IMAGES[:, None]))


def test_nothing_stays_behind():
    net = Own()
    module_output(net, IMAGES, "second")
    with pytest.raises(ValueError, match="does not take images"):
        module_output(net, torch.rand(2, 3, 4, 5), "second")
    assert net.training
    assert not hooks(net)


def test_the_layers_of_a_net_are_those_that_give_maps():
    assert map_layers(ConvNet(), IMAGES[0]) == ["c1", "s1", "c2", "s2"]
    assert map_layers(LeNet5(), IMAGES[0]) == ["c1", "s2", "c3", "s4", "c5"]
    assert map_layers(Own(), IMAGES[0]) == ["first", "drop", "second"]
    within = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), nn.Linear(2 * 26 * 26, 10))
    assert map_layers(within, IMAGES[0][None]) == ["0.0"]


def test_a_net_without_convolutions_and_images_that_do_not_fit_are_refused():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(ValueError, match=r"Sequential gives no maps for images of shape .* it has no convolutions"):
        map_layers(plain, IMAGES[0])
    with pytest.raises(ValueError, match=r"not take images of shape \(28, 28\) .*: give image.expand\(3, -1, -1\)"):
        map_layers(nn.Sequential(nn.Conv2d(3, 4, 5)), IMAGES[0])
    with pytest.raises(ValueError, match=r"images of shape \(6, 3, 28, 28\) for a net that takes 1x28x28"):
        module_output(ConvNet(), IMAGES[:, None].repeat(1, 3, 1, 1), "c1")


def test_a_part_that_was_frozen_stays_so():
    """A student who fine-tunes the rest keeps batch normalisation in evaluation mode."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    net[1].eval()
    module_output(net, IMAGES[:, None], "1")
    counts(net, IMAGES[:, None])
    assert [module.training for module in net.modules()] == [True, True, False, True]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("firts", "no module is named 'firts': there are first, second, unused, drop; did you mean 'first'?"),
        ("", "no module is named ''"),
        ("unused", "no image passes 'unused': nothing calls it, though its weights may be used: take another"),
    ],
)
def test_a_name_that_leads_nowhere_is_answered(name, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        module_output(Own(), IMAGES, name)
    with pytest.raises(ValueError, match="a Linear has no modules inside"):
        module_output(nn.Linear(3, 2), torch.zeros(1, 3), "c1")


@pytest.mark.parametrize(
    ("name", "row", "column", "rows", "columns"),
    [
        ("c1", 0, 0, (0, 3), (0, 3)),  # of 5x5, of which 2 rows and columns are the frame
        ("c1", 13, 20, (11, 16), (18, 23)),
        ("s2", 5, 0, (8, 14), (0, 4)),
        ("c3", 4, 4, (6, 20), (6, 20)),
        ("s4", 2, 2, (6, 22), (6, 22)),
        ("c5", 0, 0, (0, 28), (0, 28)),
    ],
)
def test_lenets_units_see_what_the_paper_says(name, row, column, rows, columns):
    """Windows of 5, 6, 14, 16 and 32 pixels at steps of 1, 2, 2 and 4, on 28x28 in a frame of 2."""
    field = receptive_field(LeNet5(), IMAGES[0], name, row, column)
    assert (field.rows, field.columns) == (slice(*rows), slice(*columns))


@pytest.mark.parametrize("net", [LeNet5(sub_sampling="max", window=3), ConvNet(activation="relu"), Own()])
def test_a_unit_changes_with_its_field_and_with_nothing_else(net):
    name = "second" if isinstance(net, Own) else "s2"
    where = receptive_field(net, IMAGES[0], name, 3, 2)
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[where.rows, where.columns] = True
    other = torch.rand(200, 28, 28, generator=seeded(1))
    base = module_output(net, IMAGES[:1], name)[0, :, 3, 2]
    outside_changed = module_output(net, torch.where(inside, IMAGES[:1], other), name)[:, :, 3, 2]
    torch.testing.assert_close(outside_changed, base.expand_as(outside_changed))
    for edge in (where.rows.start, where.rows.stop - 1):
        changed = IMAGES[:1].expand(200, 28, 28).clone()
        changed[:, edge, where.columns] = other[:, edge, where.columns]
        assert ((module_output(net, changed, name)[:, :, 3, 2] - base).abs() > 1e-6).any()


def test_units_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match=r"no unit at \(14, 0\): the maps of 's2' have 14 rows and 14 columns"):
        receptive_field(LeNet5(), IMAGES[0], "s2", 14, 0)
    with pytest.raises(ValueError, match=r"'f6' gives \(84,\) for an image, no maps"):
        receptive_field(LeNet5(), IMAGES[0], "f6", 0, 0)
    with pytest.raises(ValueError, match="no map 6: 'c1' has 6, 0 to 5"):
        top_images(LeNet5(), IMAGES, "c1", 6)
    with pytest.raises(ValueError, match=r"'f6' gives \(84,\)"):
        top_images(LeNet5(), IMAGES, "f6", 0)


def test_top_images_are_those_of_the_largest_unit():
    net, images = ConvNet(), torch.rand(1_200, 28, 28, generator=seeded(2))
    best = top_images(net, images, "c2", 4, count=5)
    with torch.no_grad():
        maps = net.c2(net.s1(net.c1(net.pad(images))))[:, 4]
    order = sorted(range(len(images)), key=lambda i: -float(maps[i].max()))
    assert best.images.tolist() == order[:5]
    for i, row, column, value in zip(*best, strict=True):
        assert maps[i, row, column] == value == maps[i].max()
    assert repr(best) == f"TopImages(images {', '.join(map(str, order[:5]))})"
    assert len(top_images(net, images[:3], "c2", 0).images) == 3


class Reused(nn.Module):
    """One activation and one pooling for both layers, as students write it."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 2, 5), nn.Conv2d(2, 3, 5)
        self.act, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)

    def forward(self, images):
        x = self.pool(self.act(self.c1(images)))
        return self.pool(self.act(self.c2(x))).flatten(1)


def test_what_works_in_place_and_is_used_twice_deceives_nobody():
    torch.manual_seed(0)
    net, images = Reused(), IMAGES[:, None]
    torch.testing.assert_close(module_output(net, images, "c1"), net.c1(images))
    assert module_output(net, images, "c1").min() < 0
    torch.testing.assert_close(module_output(net, images, "act"), net.c1(images).relu())
    assert map_layers(net, images[0]) == ["c1", "act", "pool", "c2"]
    again = nn.Sequential(nn.Conv2d(1, 1, 3), squash := nn.Tanh(), nn.Conv2d(1, 1, 3), squash)
    assert module_output(again, images, "3").shape == module_output(again, images, "1").shape


def test_a_convolution_without_a_module_leaves_what_comes_after_it():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.W, self.pool = nn.Parameter(torch.rand(4, 1, 5, 5)), nn.MaxPool2d(2)

        def forward(self, images):
            return self.pool(F.conv2d(images, self.W)).flatten(1)

    assert map_layers(Functional(), IMAGES[0][None]) == ["pool"]


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of Intel GPUs, which is not the point
def test_convolutions_by_transforms_spread_nothing():
    with torch.backends.mkldnn.flags(enabled=False):  # then torch takes NNPACK's, where it has it
        rows, columns = receptive_field(ConvNet(), IMAGES[0], "c1", 1, 1)
    assert (rows, columns) == (slice(1, 6), slice(1, 6))


@pytest.mark.parametrize(
    ("net", "images", "message"),
    [
        (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), IMAGES, "'0' gives a tuple, no maps: take a module befo"),
        (
            ConvNet().double(),
            IMAGES,
            r"the images are torch.float32 and .* torch.float64: give images\.to",
        ),
        (ConvNet(), (255 * IMAGES).byte(), r"the images are torch.uint8 .*: give images\.float\(\) / 255"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_and_outputs_of_another_kind_are_told(net, images, message):
    with pytest.raises(ValueError, match=message):
        module_output(net, images, next(name for name, _ in net.named_modules() if name))


def test_a_compiled_net_has_a_forward():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    torch.testing.assert_close(forward_eval(torch.compile(net, backend="eager"), IMAGES), forward_eval(net, IMAGES))
