"""The best single unit, by hand and by search: the accuracies against counts, and the histograms."""

import re

import pytest
import torch
from oracles import seeded
from seen import changes
from test_ui_overlay import places, svg

from dlkit.analysis import best_units
from dlkit.ui import UnitFinder
from dlkit.ui.draw.overlay import histograms

IMAGES, LABELS = torch.rand(60, 5, 4, generator=seeded()), torch.arange(60) % 3
VALUES = torch.randn(60, 7, generator=seeded(1))
VALUES[:, 4] += 1.5 * (LABELS == 2)


@pytest.fixture
def finder():
    return UnitFinder(IMAGES, LABELS, {"some": VALUES, "others": -2 * VALUES[:, :3]})


def test_it_begins_with_the_unit_that_differs_most(finder):
    assert finder.unit.value == int(VALUES.std(0).argmax())
    assert finder.unit.max == 6


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_accuracy_is_what_counting_gives(finder, sign):
    finder.label.value, finder.unit.value, finder.above.value = 1, 2, sign
    finder.threshold.value = 0.25
    found = [sign * value >= sign * finder.threshold.value for value in VALUES[:, 2]]
    hits = sum(bool(on) for on, label in zip(found, LABELS, strict=True) if label == 1)
    passed = sum(not on for on, label in zip(found, LABELS, strict=True) if label != 1)
    assert finder.accuracy() == pytest.approx((100 * hits / 20, 100 * passed / 40))
    assert f"<b>{(100 * hits / 20 + 100 * passed / 40) / 2:.1f} %</b>" in finder.caption.value


def test_the_best_is_the_best_of_all(finder):
    best = best_units(VALUES, LABELS)
    for label in range(3):
        finder.label.value = label
        finder.show_best()
        assert sum(finder.accuracy()) / 2 == pytest.approx(best.accuracy[label].item())
        assert finder.best["some", label] == pytest.approx(best.accuracy[label].item())
    finder.units.value = "others"
    finder.show_best()
    assert sum(finder.accuracy()) / 2 == pytest.approx(best_units(VALUES[:, :3], LABELS).accuracy[2].item())


def test_the_best_is_drawn_once_and_nothing_between_counts(finder):
    drawn = []
    finder.label.value = 1
    finder.caption.observe(drawn.append, "value")
    finder.show_best()
    assert len(drawn) == 1
    assert finder.best["some", 1] == pytest.approx(best_units(VALUES, LABELS).accuracy[1].item())


def test_each_control_changes_what_is_shown(finder):
    names = ("chart", "caption", "strongest", "record")
    assert changes(finder, names, lambda: setattr(finder.unit, "value", 0)) >= {"chart", "caption", "strongest"}
    assert changes(finder, names, lambda: setattr(finder.label, "value", 2)) >= {"chart", "caption", "record"}
    assert changes(finder, names, lambda: setattr(finder.above, "value", -1.0)) >= {"caption", "strongest"}
    assert changes(finder, names, lambda: setattr(finder.threshold, "value", 1.0)) >= {"chart", "caption"}
    assert changes(finder, names, lambda: setattr(finder.units, "value", "others")) >= {"chart", "strongest"}


def test_a_unit_that_never_changes_is_shown(finder):
    still = UnitFinder(IMAGES, LABELS, {"still": torch.ones(60, 2)})
    assert "50.0 %" in still.caption.value
    still.show_best()
    assert "50.0 %" in still.caption.value


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "no units"),
        ({"short": VALUES[:5]}, r"short: values \(5, 7\) and 60 labels for 60 images"),
        ({"maps": VALUES[:, :, None]}, r"\(images, units\), and a label for each image"),
    ],
)
def test_what_is_of_other_images_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        UnitFinder(IMAGES, LABELS, values)


def test_a_histogram_is_in_percent_of_its_own_values_with_a_line_at_the_mark():
    picture = svg(histograms({"a": torch.tensor([0.0, 0.0, 0.0, 1.0]), "b": torch.tensor([-1.0])}, "x", "y (%)", 0.5))
    said = picture.attrib["aria-label"]
    assert said == "y (%) over x, with a line at 0.5: 25.0 % of a at or above it; 0.0 % of b at or above it."
    first, second = picture.findall("polyline")
    top = {line: min(y for _, y in places(line)) for line in (first, second)}
    bottom = max(y for _, y in places(first))
    assert (bottom - top[first]) / (bottom - top[second]) == pytest.approx(0.75, abs=0.01)
    dashed = [path for path in picture.findall("path") if path.attrib.get("stroke-dasharray")]
    (line,) = [float(re.match(r"M([\d.]+),", path.attrib["d"])[1]) for path in dashed]
    xs = [x for x, _ in places(first)]
    assert (line - min(xs)) / (max(xs) - min(xs)) == pytest.approx(0.75, abs=0.01)
