"""The CD explorer without a browser: its figures are the exact ones, and each slider changes what it shows."""

import io

import pytest
import torch
from oracles import likelihood_gradient, visible_distribution
from PIL import Image

from dlkit.analysis import exact
from dlkit.data import bars_and_stripes
from dlkit.models import RBM
from dlkit.training import CD, Batch
from dlkit.ui import divergence
from dlkit.ui.divergence import CDExplorer, Sheet, train


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A training of 50 updates in place of 1,000."""
    monkeypatch.setattr(divergence, "UPDATES", 50)


def trained_by_hand(k, rate, hidden):
    generator = torch.Generator().manual_seed(0)
    rbm = RBM(16, hidden, std=0.1, generator=generator).double()
    optimizer = torch.optim.SGD(rbm.parameters(), lr=rate)
    v = bars_and_stripes(4).flatten(1).double()
    for _ in range(50):
        CD(k=k, sample_visible=True).fill_grad(rbm, Batch(v.repeat(10, 1)), generator)
        optimizer.step()
    return rbm, v


def test_its_figures_are_those_of_the_machine_that_cd_trains():
    rbm, v = trained_by_hand(2, 0.5, 4)
    found = train(2, 0.5, 4)
    p = visible_distribution(rbm)
    number = (v.long() * 2 ** torch.arange(15, -1, -1)).sum(1)  # in the order of the oracle
    assert found.updates == [0, 25, 50]
    assert found.log_likelihood[-1] == pytest.approx(float(p[number].log().mean()))
    assert found.mass == pytest.approx(float(p[number].sum()))
    cosine = exact.cosine(exact.cd_gradient(rbm, v, 5), likelihood_gradient(rbm, v))
    assert found.cosines[5] == pytest.approx(cosine)
    valid = set(number.tolist())
    assert sum(found.valid) == sum(int(i) in valid for i in p.topk(30).indices)


def test_it_tells_how_far_it_is():
    heard = []
    train(1, 0.1, 2, tell=lambda so_far: heard.append(str(so_far)))
    assert heard == ["CD-1, rate 0.1, 2 hidden units: training, update 0 of 50"]


def test_the_sheet_is_a_png_that_shows_the_curve_and_the_one_before():
    sheet, now, before = Sheet(), train(1, 0.5, 4), train(1, 0.1, 2)
    alone = sheet.png(now)
    both = sheet.png(now, before)
    assert Image.open(io.BytesIO(alone)).size == (900, 288)
    assert both != alone
    assert sheet.png(now) == alone  # nothing is left of what was drawn before


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
    assert repr(CDExplorer()) == "CDExplorer()"
