"""The map explorer without a browser: what it finds in our nets and in a student's, and that each control shows it."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from oracles import seeded
from PIL import ImageColor
from seen import changes, framed, pixels
from torch import nn

from dlkit.analysis.feature_maps import FeatureMaps, map_connections
from dlkit.analysis.features import module_output, receptive_field, top_images
from dlkit.models import ConvNet, LeNet5
from dlkit.models.convnet import LENET_TABLE, SURVEY_TABLE
from dlkit.models.convolution import SparseConv2d
from dlkit.ui.draw.map_sheets import connection_table, patches
from dlkit.ui.draw.pictures import BLUE, GAP, LINE, ORANGE, fitted
from dlkit.ui.maps import BELOW, LARGE, PATCH, WIDE, MapExplorer

IMAGES = torch.rand(30, 28, 28, generator=seeded())
LABELS = torch.arange(30) % 10
ODD = ((0, 1), (1, 2), (0, 2))


class Block(nn.Module):
    """Two convolutions by tables, and a way around them."""

    def __init__(self):
        super().__init__()
        self.into = SparseConv2d(((0,), (0, 1), (2,)), 1)
        self.out_of = SparseConv2d(((0,), (2,), (1, 2)), 1)

    def forward(self, x):
        return self.out_of(self.into(x).relu()) + x


class Own(nn.Module):
    """A student's net: no Sequential, rows that are longer than columns, a block with a skip, ReLU in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.block = Block()
        self.grouped = nn.Conv2d(3, 6, (1, 3), stride=2, groups=3)
        self.drop = nn.Dropout(0.5)
        self.output = nn.LazyLinear(10)

    def forward(self, images):
        x = self.block(self.relu(self.first(images)))
        return self.output(self.drop(self.grouped(x)).flatten(1))


@pytest.fixture
def own_images():
    return torch.rand(20, 1, 8, 12, generator=seeded(3))


@pytest.fixture
def own(own_images):
    torch.manual_seed(0)
    net = Own()
    net(own_images)
    return net


@pytest.fixture
def lenet():
    torch.manual_seed(1)
    return LeNet5()


@pytest.fixture
def explorer(lenet):
    return MapExplorer(lenet, IMAGES, LABELS)


def in_table(table, below):
    return torch.tensor([[i in row for i in range(below)] for row in table])


def test_connections_are_those_of_the_tables(lenet):
    for name in ("c3", "c3.0"):
        assert torch.equal(map_connections(lenet, IMAGES[0], name), in_table(LENET_TABLE, 6))
    assert torch.equal(map_connections(ConvNet(), IMAGES[0], "c2"), in_table(SURVEY_TABLE, 4))
    assert torch.equal(map_connections(lenet, IMAGES[0], "s4"), torch.eye(16, dtype=torch.bool))
    assert map_connections(lenet, IMAGES[0], "c5").all()
    assert map_connections(lenet, IMAGES[0], "c1").shape == (6, 1)
    assert map_connections(lenet, IMAGES[0], "pad") is None


def test_connections_of_groups_and_of_a_block_with_a_skip(own, own_images):
    assert torch.equal(
        map_connections(own, own_images[0], "grouped"), in_table(((0,), (0,), (1,), (1,), (2,), (2,)), 3)
    )
    by_hand = (((0,), (2,), (1, 2)), ((0,), (0, 1), (2,)))  # out_of, into
    through = in_table(by_hand[0], 3).int() @ in_table(by_hand[1], 3).int() > 0
    assert torch.equal(map_connections(own, own_images[0], "block"), through | torch.eye(3, dtype=torch.bool))
    assert own.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in own.modules())


def test_a_look_is_what_each_layer_gives_before_the_next_works_in_place(own, own_images):
    looks = FeatureMaps(own, own_images).views(own_images[4])
    assert list(looks) == ["first", "relu", "block", "grouped", "drop"]
    first = own.first(own_images[4:5]).detach()
    torch.testing.assert_close(looks["first"].output, first[0])
    torch.testing.assert_close(looks["block"].inputs, first[0].relu())
    assert [look.below for look in looks.values()] == [None, "first", "relu", "block", "grouped"]
    lenet_looks = FeatureMaps(LeNet5(), IMAGES).views(IMAGES[0])
    assert lenet_looks["c3"].below == "s2"
    assert torch.equal(lenet_looks["c3"].inputs, lenet_looks["s2"].output)
    assert repr(lenet_looks["c3"]) == "LayerView(16 maps of 10x10, inputs from s2)"
    assert repr(FeatureMaps(LeNet5(), IMAGES)) == "FeatureMaps(LeNet5: c1, s2, c3, s4, c5)"


def test_fields_are_receptive_fields(own, own_images):
    for net, images in ((LeNet5(sub_sampling="max", window=3), IMAGES), (own, own_images)):
        inside = FeatureMaps(net, images)
        for name, look in inside.views(images[0]).items():
            _, high, wide = look.output.shape
            for row, column in {(0, 0), (high - 1, 0), (high // 2, wide // 3), (high - 1, wide - 1)}:
                assert inside.receptive_field(name, row, column) == receptive_field(net, images[0], name, row, column)


def test_a_unit_that_sees_only_the_margin_sees_nothing():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, padding=1))
    explorer = MapExplorer(net, IMAGES[:, None])
    explorer.large.place = [0.0, 0.0]
    assert "It sees no pixel of the image" in explorer.words.value
    explorer.large.place = [0.5, 0.5]
    assert "It sees the 1x1 pixels framed" in explorer.words.value


def test_the_best_images_are_those_of_top_images(lenet):
    images = torch.rand(2_030, 28, 28, generator=seeded(4))
    images[2_000:] = images[top_images(lenet, images[:2_000], "c1.0", 2).images[0]]  # not searched
    inside = FeatureMaps(lenet, images)
    assert inside.searched == 2_000
    for name, number in (("c1", 2), ("c3", 15), ("c5", 100)):
        found, expected = inside.top_images(name, number), top_images(lenet, images[:2_000], f"{name}.0", number)
        torch.testing.assert_close(found.values, expected.values)
        given = module_output(lenet, images[found.images], f"{name}.0")[:, number]
        for values, row, column, value in zip(given, found.rows, found.columns, found.values, strict=True):
            torch.testing.assert_close(values.max(), value)
            torch.testing.assert_close(values[row, column], value)


def test_patches_are_enlarged_alike():
    image = torch.zeros(2, 6, 6)
    image[:, :, :3] = 1
    inside = FeatureMaps(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), image[:, None])
    drawn = patches(image, [inside.receptive_field("0", 2, 2), inside.receptive_field("0", 0, 0)], 48)
    assert drawn.shape == (2, 48, 48, 3)
    assert (drawn[0, 8:40, 2:30] == 255).all()  # 3x3: columns 1 and 2 of white, and 3 of black
    assert (drawn[0, 8:40, 34:46] == 0).all()
    assert (drawn[1, 10:38, 10:38] == 255).all()  # 2x2, in the middle, at the same 16 pixels a pixel
    assert (drawn[1, :8] == drawn[1, 0, 0]).all()
    assert (drawn[1, 40:] == drawn[1, 0, 0]).all()


def test_the_table_has_a_dot_for_each_connection_and_lights_a_column():
    drawn = connection_table(in_table(LENET_TABLE, 6), 7)
    circles = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="(\d)"', drawn)
    found = {(int(float(x) // 20) - 1, int(float(y) // 20) - 1): int(r) for x, y, r in circles}
    assert set(found) == {(o, i) for o, row in enumerate(LENET_TABLE) for i in row}
    assert {place for place, radius in found.items() if radius == 6} == {(7, i) for i in LENET_TABLE[7]}
    assert f'<rect x="{8 * 20}"' in drawn
    assert 'aria-label="Connection table: map 7 sees maps 1, 2, 3 and 4 below"' in drawn


def test_the_sheet_has_all_maps_on_one_scale(explorer, lenet):
    explorer.layer.value, explorer.map.value, explorer.image.value = "s4", 9, 5
    given = module_output(lenet, IMAGES[5:6], "s4")[0].detach()
    largest = float(given.abs().max())
    assert f"white and black are {largest:.2f} and {-largest:.2f}" in explorer.caption.value
    shown = pixels(explorer.maps)
    side = (WIDE + GAP) // 8 - GAP
    for number in (0, 7, 9, 15):
        y, x = number // 8 * (side + LINE), number % 8 * (side + GAP)
        middles = ((np.arange(5) + 0.5) * side / 5).astype(int)
        tile = shown[np.ix_(y + middles, x + middles)][..., 0]
        expected = (127.5 + 127.5 * given[number] / largest).numpy()
        assert np.abs(tile - expected).max() <= 1
    y, x = side + LINE, side + GAP  # map 9
    assert framed(explorer.maps, ORANGE) == (y, y + side - 1, x, x + side - 1)


def test_the_unit_is_framed_with_its_value_and_what_it_sees(explorer, lenet):
    explorer.layer.value, explorer.map.value, explorer.image.value = "c3", 4, 7
    explorer.large.place = [0.65, 0.31]  # row 3, column 6 of 10x10
    value = float(module_output(lenet, IMAGES[7:8], "c3")[0, 4, 3, 6])
    assert f"Unit at row 3, column 6</b> of map 4: <b>{value:.2f}</b>" in explorer.words.value
    assert "14x14 pixels framed: rows 4 to 17, columns 10 to 23" in explorer.words.value
    assert framed(explorer.large, ORANGE) == (57, 79, 116, 138)  # 19.6 pixels a unit, and the line around them
    assert framed(explorer.picture, ORANGE) == (26, 127, 68, 169)  # 7 pixels a pixel, and the line around them
    patch = pixels(explorer.patch)
    middles = ((np.arange(14) + 0.5) * LARGE / 14).astype(int)
    expected = (IMAGES[7, 4:18, 10:24] * 255).round().numpy()
    assert (patch[np.ix_(middles, middles)][..., 0] == expected).all()
    assert explorer.large.alt == "Map 4 of c3, with the unit at row 3, column 6 framed."


def test_what_a_map_is_made_of_is_said_and_lit(explorer):
    explorer.layer.value, explorer.map.value = "c3", 12
    assert "maps 0, 1, 3 and 4 of the 6 of s2 below" in explorer.made_of.value
    side = min((BELOW + GAP) // 6 - GAP, 56)
    lit = (pixels(explorer.below) == ImageColor.getrgb(BLUE)).all(2)
    by_map = [lit[:, i * (side + GAP) : i * (side + GAP) + side].any() for i in range(6)]
    assert by_map == [True, True, False, True, True, False]
    assert 'aria-label="Connection table: map 12' in explorer.wiring.value
    explorer.layer.value = "c5"
    assert "all 16 maps of s4 below, as is each map of c5" in explorer.made_of.value
    assert explorer.wiring.value == ""
    explorer.layer.value, explorer.map.value = "s4", 3
    assert "map 3 of those of c3 below" in explorer.made_of.value
    assert explorer.wiring.value == ""
    explorer.layer.value = "c1"
    assert "the one map that comes in" in explorer.made_of.value


def test_what_excites_a_map_is_shown_with_its_values(explorer, lenet):
    explorer.layer.value, explorer.map.value = "c5", 17
    best = top_images(lenet, IMAGES, "c5", 17)
    assert ", ".join(map(str, best.images.tolist())) in explorer.exciting.value
    assert "the 16 of the 30 images" in explorer.exciting.value
    labels = LABELS[best.images].tolist()
    assert f" {labels[0]} ({labels.count(labels[0])})" in explorer.exciting.value
    shown = pixels(explorer.best)
    expected = fitted(np.repeat((IMAGES[best.images[2]] * 255).round().byte().numpy()[..., None], 3, 2), PATCH)
    assert (shown[:PATCH, 2 * (PATCH + GAP) : 2 * (PATCH + GAP) + PATCH] == expected).all()


def test_every_control_changes_what_it_should(explorer):
    changed = partial(changes, explorer, {"picture", "large", "patch", "maps", "below", "best"})
    assert changed(lambda: setattr(explorer.large, "place", [0.2, 0.2])) == {"picture", "large", "patch"}
    assert changed(lambda: setattr(explorer.map, "value", 2)) == {"large", "maps", "best"}
    assert changed(explorer.back.click) == changed(explorer.on.click) == {"large", "maps", "best"}
    assert changed(lambda: setattr(explorer.layer, "value", "c3")) >= {"large", "maps", "below", "best"}
    assert changed(explorer.on.click) == {"large", "maps", "below", "best"}
    assert changed(lambda: setattr(explorer.image, "value", 3)) == {"picture", "large", "patch", "maps", "below"}


def test_the_buttons_go_around_and_another_layer_has_its_own_maps(explorer):
    explorer.back.click()
    assert explorer.map.value == 5
    explorer.on.click()
    assert explorer.map.value == 0
    explorer.layer.value, explorer.map.value = "c5", 119
    assert explorer.large.cells == [1, 1]
    explorer.layer.value = "c3"
    assert (explorer.map.value, explorer.map.max) == (15, 15)
    assert explorer.large.cells == [10, 10]
    assert "<b>Map 15</b> of c3" in explorer.titles[1].value


def test_an_image_of_ones_own_stays_until_another_is_chosen(explorer, lenet):
    mine = torch.rand(28, 28, generator=seeded(9))
    explorer.show(mine)
    assert "for your own image" in explorer.caption.value
    value = float(module_output(lenet, mine[None], "c1")[0, 0, 14, 14])
    assert f"<b>{value:.2f}</b>" in explorer.words.value
    explorer.layer.value = "s2"
    assert "for your own image" in explorer.caption.value
    explorer.image.value = 2
    assert "for image 2, labelled 2" in explorer.caption.value


def test_a_students_net(own, own_images):
    explorer = MapExplorer(own, own_images)
    assert [name for _, name in explorer.layer.options] == ["first", "relu", "block", "grouped", "drop"]
    explorer.layer.value, explorer.map.value = "block", 1
    assert "maps 1 and 2 of the 3 of relu below" in explorer.made_of.value
    assert pixels(explorer.large).shape == (131, 196, 3)  # 8x12
    explorer.show(torch.ones(8, 12))
    explorer.layer.value = "grouped"
    assert explorer.large.cells == [5, 4]
    assert "the 16 of the 20 images" in explorer.exciting.value
    assert own.training


def test_colour_images_and_more_maps_than_a_sheet_holds():
    images = torch.rand(4, 3, 6, 6, generator=seeded(2))
    explorer = MapExplorer(nn.Sequential(nn.Conv2d(3, 130, 3)), images)
    middle = LARGE // 12
    assert (pixels(explorer.picture)[middle, middle] == (images[0, :, 0, 0] * 255).round().numpy()).all()
    assert "120 of the 130 maps" in explorer.titles[3].value
    explorer.map.value = 125
    assert "10 of the 130 maps, map 125 framed" in explorer.titles[3].value
    assert "all 3 maps that come in" in explorer.made_of.value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MapExplorer(LeNet5(), IMAGES, LABELS[:9]), "30 images and 9 labels: give one label an image"),
        (lambda: MapExplorer(LeNet5(), IMAGES[:0]), "no images to look at"),
        (lambda: MapExplorer(LeNet5(), IMAGES[:, :20]), r"images of shape \(1, 20, 28\) for a net that takes 1x28x28"),
        (lambda: MapExplorer(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), IMAGES), "it has no convolutions"),
        (
            lambda: MapExplorer(LeNet5(), IMAGES).show(torch.zeros(20, 28)),
            "an image of 20x28 pixels beside images of 28x28: draw or crop it to 28x28",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_text_that_stands_in_for_the_widget_is_short(explorer):
    assert repr(explorer) == "MapExplorer(layers c1, s2, c3, s4, c5, 30 images)"


def test_units_are_ranked_before_they_are_squashed():
    torch.manual_seed(0)
    net = ConvNet()
    with torch.no_grad():
        net.c1[0].weight *= 1000  # all of its maps are squashed to the limit
    inside = FeatureMaps(net, IMAGES)
    assert inside.ranked_by == {"c1": "c1.0", "s1": "s1", "c2": "c2.0", "s2": "s2"}
    best = inside.top_images("c1", 2)
    expected = top_images(net, IMAGES, "c1.0", 2)
    assert torch.equal(best.images, expected.images)
    torch.testing.assert_close(best.values, expected.values)
    assert best.values.unique().numel() == len(best.values)


def test_a_module_that_is_used_twice_is_explored_at_its_first_use():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.c1, self.c2, self.act = nn.Conv2d(1, 2, 5), nn.Conv2d(2, 3, 5), nn.ReLU()

        def forward(self, images):
            return self.act(self.c2(self.act(self.c1(images[:, None])))).flatten(1)

    net = Reused()
    assert torch.equal(map_connections(net, IMAGES[0], "act"), torch.eye(2, dtype=torch.bool))
    explorer = MapExplorer(net, IMAGES)
    explorer.layer.value = "act"
    assert "act" in explorer.caption.value


def test_an_image_with_all_its_maps_may_be_shown():
    explorer = MapExplorer(ConvNet((3, 20, 24)), torch.rand(4, 3, 20, 24, generator=seeded()))
    explorer.show(torch.rand(3, 20, 24, generator=seeded(1)))
    explorer.show(torch.rand(20, 24, generator=seeded(1)))
