"""The charts: what their lines and words say."""

from xml.etree import ElementTree

import torch
from oracles import random_rbm, random_states, seeded

from dlkit.analysis.rbm_statistics import hidden_probabilities, updates
from dlkit.ui.draw.charts import draw_histograms, draw_probabilities, panels


def test_a_panel_spans_its_values_and_says_them_in_words():
    points = [(0.0, 10.0), (0.5, 30.0), (1.0, 20.0)]
    svg = ElementTree.fromstring(panels({"loss <nats>": points, "later": []}, "epoch"))
    assert svg.attrib["aria-label"] == "loss <nats>: from 10 to 20 at epoch 1; later: nothing yet"
    line = svg.find(".//{*}polyline") if svg.find(".//{*}polyline") is not None else svg.find(".//polyline")
    (x0, low), (x1, high), (x2, middle), _ = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert x1 - x0 == x2 - x1 > 0
    assert low - high == 2 * (middle - high) > 0  # y runs downwards


def test_a_long_line_is_thinned_and_keeps_its_end():
    svg = panels({"loss": [(float(i), float(i)) for i in range(10_001)]}, "epoch")
    points = svg.split('points="')[1].split('"')[0].split()
    assert len(points) <= 202
    assert "at epoch 1e+04" in svg
    assert points[-1] != points[-2]


def test_the_probability_picture_has_a_row_a_unit_and_a_column_an_image():
    p = hidden_probabilities(random_rbm(6, 4), random_states(9, 6))
    ax = draw_probabilities(p).axes[0]
    assert ax.images[0].get_array().shape == (4, 9)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("image", "hidden unit")


def test_the_probability_picture_names_the_classes_of_sorted_images():
    p, labels = torch.rand(4, 9, generator=seeded(0)), torch.tensor([0, 0, 0, 0, 3, 3, 7, 7, 7])
    ax = draw_probabilities(p, labels).axes[0]
    assert [(tick.get_text(), x) for tick, x in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)] == [
        ("0", 1.5), ("3", 4.5), ("7", 7.0)
    ]  # fmt: skip
    assert [line.get_xdata()[0] for line in ax.lines] == [3.5, 5.5]


def test_the_histograms_hold_every_weight_and_every_update():
    rbm = random_rbm(6, 4)
    sgd = torch.optim.SGD(rbm.parameters(), lr=0.001)
    for parameter in rbm.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=seeded(1))
    sizes = draw_histograms(rbm, updates(rbm, sgd)).axes[0]
    counts = [sum(patch.get_height() for patch in container) for container in sizes.containers]
    assert counts == [24, 24]
