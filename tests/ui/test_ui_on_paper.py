"""A net on paper: the widget counts what `memory_on_paper` counts, and what it draws."""

import re
import time

import pytest
from torch import nn

from dlkit.models import RICAStage
from dlkit.strategies.spatial.memory import memory_on_paper
from dlkit.ui import NetOnPaper
from dlkit.ui.draw.memory_bar import NAMES, WIDTH, memory_bars


def net(side):
    return RICAStage(1, 2, 5, (side, side))


class OwnNet(nn.Module):
    """Nothing of the kit's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return self.conv(images).mean((1, 2, 3))


def settled(widget):
    """The widget, once it has counted what its controls say now."""
    deadline = time.monotonic() + 60
    while widget._counts or not widget._idle.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return widget


def test_it_shows_what_is_counted_on_paper():
    widget = settled(NetOnPaper(net, 1, [20, 30]))
    widget.side.value, widget.across.value, widget.batch.value = 20, 2, 10
    settled(widget)
    assert widget.run == memory_on_paper(lambda: net(20), (1, 20, 20), 10, (2, 2), [0, 3])
    assert "12,800 parameters over 2x2 ranks" in widget.status.value
    assert "fits into 4 GiB" in widget.status.value
    assert "Images of 20x20, 10 a batch" in widget.text.value
    assert str(widget) == "NetOnPaper(images of 20x20, 4 ranks)"


def test_one_rank_alone_is_one_bar():
    widget = settled(NetOnPaper(lambda side: OwnNet(), 3, [16]))
    widget.across.value = 1
    settled(widget)
    assert len(widget.run) == 1
    assert widget.bars.value.count("the rank</text>") == 1


def test_a_card_that_is_too_small_is_said_without_counting_again():
    widget = settled(NetOnPaper(lambda side: RICAStage(3, 34, 18, (side, side)), 3, [200]))
    widget.across.value = 1
    run = settled(widget).run
    assert "does not fit into 4 GiB" in widget.status.value
    widget.card.value = 80
    assert "fits into 80 GiB" in widget.status.value
    assert settled(widget).run is run


def test_a_net_that_cannot_be_made_says_why_and_the_next_one_is_counted():
    widget = settled(NetOnPaper(net, 1, [4, 30]))
    widget.side.value = 4
    settled(widget)
    assert "none fits" in widget.status.value
    assert widget.bars.value == ""
    widget.side.value = 30
    assert "parameters" in settled(widget).status.value
    with pytest.raises(ValueError, match="no sides of images"):
        NetOnPaper(net, 1, [])


def test_bars_are_as_long_as_their_bytes():
    html = memory_bars({"a": {"weights": 3e9, "gradients": 1e9}, "b": {"weights": 2e9, "gradients": 0}}, 4e9, "4 GB")
    widths = [float(width) for width in re.findall(r'<rect x="[\d.]+" y="\d+" width="([\d.]+)"', html)]
    assert widths[0] == pytest.approx(3 * widths[1], rel=0.01)
    assert widths[2] == pytest.approx(2 * widths[1], rel=0.01)
    assert widths[3] == 0
    line = float(re.search(r'd="M([\d.]+),', html)[1])
    assert line == pytest.approx(NAMES + widths[0] + widths[1], abs=1)
    assert line < WIDTH
    assert 'aria-label="a: weights 3 GB, gradients 1 GB; b: weights 2 GB, gradients 0 B; a line at 4 GB"' in html
