"""The CD explorer without a browser: its figures are the exact ones, and each slider changes what it shows."""

import io

import pytest
from PIL import Image

from dlkit.analysis import cd_bias
from dlkit.analysis.cd_bias import train_by_cd
from dlkit.ui.divergence import CDExplorer
from dlkit.ui.draw.cd_chart import CDChart


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A training of 50 updates in place of 1,000."""
    monkeypatch.setattr(cd_bias, "UPDATES", 50)


def test_the_chart_is_a_png_that_shows_the_curve_and_the_one_before():
    chart, now, before = CDChart(), train_by_cd(1, 0.5, 4), train_by_cd(1, 0.1, 2)
    alone = chart.png(now)
    both = chart.png(now, before)
    assert Image.open(io.BytesIO(alone)).size == (900, 288)
    assert both != alone
    assert chart.png(now) == alone  # nothing is left of what was drawn before


@pytest.mark.parametrize(("slider", "value"), [("k", 2), ("rate", 0.1), ("hidden", 2)])
def test_a_move_of_a_slider_changes_the_picture_and_its_words(slider, value):
    explorer = CDExplorer()
    picture, words = explorer.picture.value, explorer.caption.value
    getattr(explorer, slider).value = value
    assert explorer.picture.value != picture
    assert explorer.caption.value != words
    assert getattr(explorer.training, slider) == value


def test_the_words_say_the_setting_and_the_figures():
    explorer = CDExplorer(k=1, rate=0.5, hidden=4)
    last = explorer.training.log_likelihood[-1]
    assert explorer.caption.value.startswith(
        f"CD-1, rate 0.5, 4 hidden units: {last:.2f} nats an image after 50 updates"
    )


def test_the_text_that_stands_in_for_the_widget_is_short():
    assert repr(CDExplorer(k=2)) == "CDExplorer(k=2, rate=0.5, hidden=8)"
