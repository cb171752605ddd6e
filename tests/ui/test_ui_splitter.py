"""The picture of a split net, by its shapes, and the widget, without a browser."""

import re
from itertools import product

import pytest
from torch import nn

from dlkit.models import LeNet5
from dlkit.models.locally_connected import LocalNet
from dlkit.models.rbm import RBM
from dlkit.strategies import cost
from dlkit.ui.draw.split_diagram import BAR, BOX, COLUMN, LANE, LEFT, SIDE, TOP, split_diagram
from dlkit.ui.splitter import STRATEGIES, Splitter, explanation

RECT = re.compile(
    r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" fill="url\(#dlkit-split-(\d)\)"/>'
)


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 60), nn.Tanh(), nn.Linear(60, 30), nn.Tanh(), nn.Linear(30, 10))


def cost_of(net, batch_size, world_size, split_by):
    return cost(net, (28, 28), batch_size, world_size, STRATEGIES[split_by](world_size))


def filled(found, rank, column):
    """(x, y, width, height) from the box's corner, of what is filled of a layer in the rank's colour; column 0 is the
    batch."""
    left, top = LEFT + column * COLUMN, TOP + rank * LANE
    rects = [(*map(float, each[:4]), int(each[4])) for each in RECT.findall(split_diagram(found, ""))]
    return [
        (round(x - left, 1), round(y - top, 1), w, h)
        for x, y, w, h, whose in rects
        if left <= x < left + COLUMN and top <= y < top + BOX and whose == rank
    ]


def test_what_is_filled_is_what_a_rank_computes():
    by = {how: cost_of(perceptron(), 100, 2, how) for how in ("data", "neurons", "layers")}
    assert filled(by["data"], 1, 0) == [(0, BOX / 2, 40, BOX / 2)]  # the lower half of the batch
    assert filled(by["data"], 1, 2) == [(0, 0, 24, BOX)]
    assert filled(by["neurons"], 1, 0) == [(0, 0, 40, BOX)]
    assert filled(by["neurons"], 1, 1) == [(0, BOX / 2, 24, BOX / 2)]  # units
    assert filled(by["neurons"], 1, 2) == [(BOX / 2, 0, BOX / 2, BOX)]  # inputs
    assert filled(by["layers"], 1, 1) == []
    assert filled(by["layers"], 1, 3) == [(0, 0, 24, BOX)]


def test_maps_are_filled_whole_or_by_rows():
    maps = filled(cost_of(LeNet5(), 100, 2, "neurons"), 0, 1)
    assert [(w, h) for *_, w, h in maps] == [(SIDE, SIDE)] * 3  # of six
    rows = filled(cost_of(LeNet5(), 100, 2, "region"), 1, 1)
    assert [(w, h) for *_, w, h in rows] == [(SIDE, SIDE / 2)] * 6
    assert {y % (SIDE + 4) for _, y, *_ in rows} == {SIDE / 2}


def test_no_arrow_runs_through_what_is_written():
    for net, how in [*product([LeNet5()], ("data", "neurons", "hybrid", "weird trick")), (perceptron(), "hybrid")]:
        drawn = split_diagram(cost_of(net, 100, 4, how), "")
        arrows = [tuple(map(int, each)) for each in re.findall(r'd="M(\d+) (\d+) L(\d+) (\d+)"', drawn)]
        assert arrows
        for x, y, text in re.findall(r'<text x="(\d+)" y="(\d+)" [^>]*>([^<]*)<', drawn):
            right = int(x) + 5.9 * len(text.replace("\u2009", ""))  # at 11 pixels
            assert not [a for a in arrows if a[0] == a[2] and a[1] < int(y) < a[3] and int(x) < a[0] < right], text


def test_bars_of_weights_are_as_long_as_the_part_that_is_held():
    def bars(found):
        at = [
            (float(x), float(w))
            for x, _, w, h, whose in RECT.findall(split_diagram(found, ""))
            if h == "7.0" and whose == "0"
        ]
        return [w / BAR for _, w in sorted(at)]

    assert bars(cost_of(LeNet5(), 100, 2, "region")) == [1] * 6
    first, second, third = bars(cost_of(perceptron(), 100, 2, "neurons"))
    assert (first, third) == (0.5, 0.5)
    assert second == pytest.approx((30 * 30 + 30) / (60 * 30 + 30), abs=1e-2)
    rows = bars(cost_of(LocalNet(), 100, 2, "region"))
    assert rows == [pytest.approx(part, abs=1e-2) for part in (13 / 25, 5 / 9, 1)]


@pytest.mark.parametrize("how", STRATEGIES)
def test_it_says_in_words_what_it_shows(how):
    found = cost_of(LeNet5(), 100, 4 if how == "hybrid" else 3, how)
    picture = split_diagram(found, how)
    assert f'aria-label="Who computes what, split by {how}. rank 0: c1 ' in picture
    for rank, item in ((0, 0), (1, 3), (2, 4)):
        one = found.layers[rank][item]
        part = {
            "images": f"all, {one.part.count} images",
            "layer": "all" if one.part.count else "not here",
            "rows": f"rows {one.part.start}–{one.part.stop - 1}" if one.part.count > 1 else f"row {one.part.start}",
            "units": f"maps {one.part.start}–{one.part.stop - 1}",
        }[one.along]
        assert f">{part}</text>" in picture
    assert "sends at most" in explanation(found, how)
    assert picture.count("marker-start") >= 2


@pytest.fixture
def splitter():
    return Splitter({"perceptron": perceptron(), "RBM": RBM(784, 50), "LeNet-5": LeNet5()})


def test_each_control_changes_the_picture_the_words_and_the_table(splitter):
    def seen():
        return splitter.picture.value, splitter.caption.value, splitter.table.value

    for control, value in (
        (splitter.split_by, "neurons"),
        (splitter.world_size, 3),
        (splitter.batch_size, 500),
        (splitter.net, "RBM"),
    ):
        before = seen()
        control.value = value
        assert all(now != then for now, then in zip(seen(), before, strict=True))
    assert splitter.table.value == cost_of(RBM(784, 50), 500, 3, "neurons")._repr_html_()


def test_a_split_that_there_is_not_is_said_and_the_next_one_is_drawn(splitter):
    splitter.split_by.value = "region"
    assert "has no layer with maps and weights" in splitter.caption.value
    assert splitter.picture.value == splitter.table.value == ""
    splitter.net.value = "LeNet-5"
    assert "<svg" in splitter.picture.value


def test_replicas_have_other_images_and_exchange_gradients_alone():
    found = cost_of(perceptron(), 100, 4, "hybrid")
    picture = split_diagram(found, "")
    assert [picture.count(f">images {which}</text>") for which in ("0–49", "50–99")] == [2, 2]
    solid, dashed = (picture.count(line) for line in ('head)"/>', 'stroke-dasharray="3 3"/>'))
    first, second, third = (items for items in zip(*found.layers, strict=True))
    inside = [items for items in (first, second, third) if items[0].forward or items[0].backward]
    assert solid == 2 * len(inside)  # in each of two replicas
    assert dashed == 2 * 3  # of each layer, between those who have the same part of it
    found = cost_of(LeNet5(), 100, 2, "weird trick")
    assert [one.along for one in found.layers[0]][:2] == ["images", "images"]
    assert ">images 0–49</text>" in split_diagram(found, "")
    c5, f6 = found.layers[0][-3:-1]
    assert (c5.name, f6.name) == ("c5.0", "f6.0")
    assert c5.forward == 0
    assert f6.forward >= 50 * 120 * 4  # the features of its images


def test_the_way_that_sends_least_is_named(splitter):
    splitter.net.value, splitter.batch_size.value = "RBM", 50
    assert "least by <b>neurons</b>" in splitter.caption.value  # 50 x 784 numbers, and not 784 x 50 + 834
    splitter.batch_size.value = 100
    assert "least by <b>data</b>" in splitter.caption.value


def test_there_is_a_net_to_split():
    with pytest.raises(ValueError, match="no nets to split"):
        Splitter({})
