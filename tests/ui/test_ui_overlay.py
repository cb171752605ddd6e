"""Lines on the same axes, and the histogram: what they draw and say."""

from xml.etree import ElementTree

import pytest

from dlkit.ui.draw.overlay import columns, overlay


def svg(html):
    return ElementTree.fromstring(html.partition("</svg>")[0] + "</svg>")


def places(line):
    return [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]


def test_lines_have_the_same_axes_and_are_told_apart_without_colours():
    picture = svg(overlay({"a": [(0, 10.0), (2, 30.0)], "b": [(1, 20.0)]}, "seconds", "error (%)"))
    first, second = picture.findall("polyline")
    (x0, y0), (x2, y2), _ = places(first)
    (x1, y1), _ = places(second)
    assert (x1 - x0, y1 - y0) == pytest.approx(((x2 - x0) / 2, (y2 - y0) / 2), abs=0.1)
    assert x2 > x0
    assert y2 < y0  # y runs downwards
    assert first.attrib.get("stroke-dasharray") != second.attrib.get("stroke-dasharray")
    assert picture.attrib["aria-label"] == "error (%) over seconds. a: 30 at 2; b: 20 at 1"


def test_what_is_no_number_is_left_out_and_nothing_is_nothing_yet():
    picture = svg(overlay({"a": [(0, 1.0), (1, float("inf"))], "<b>": []}, "steps", "loss"))
    assert picture.attrib["aria-label"] == "loss over steps. a: 1 at 0; <b>: nothing yet"
    assert "&lt;b&gt;" in overlay({"<b>": []}, "steps", "loss")


def test_a_long_line_is_thinned_and_keeps_its_end():
    line = svg(overlay({"a": [(float(x), 1.0) for x in range(10_001)]}, "steps", "loss")).find("polyline")
    assert len(places(line)) <= 302
    assert places(line)[-1] == max(places(line))


def test_columns_are_as_tall_as_their_values():
    picture = svg(columns([10, 0, 40], "staleness", "pushes (%)"))
    tall = [float(column.attrib["height"]) for column in picture.findall("rect")]
    assert tall[2] == 4 * tall[0] > 0
    assert tall[1] == 0
    assert picture.attrib["aria-label"] == "pushes (%) over staleness: most, 40, at 2"
    assert "none yet" in columns([], "staleness", "pushes (%)")
