"""The stack explorer without a browser: its pictures, bars and digits, and that each control shows them."""

import io

import numpy as np
import pytest
import torch
from oracles import randomised, seeded
from PIL import Image

from dlkit.analysis.unit_activity import UnitActivity, most_exciting
from dlkit.models import DBN, RBM
from dlkit.ui.draw.pictures import LINE
from dlkit.ui.draw.unit_sheet import FRAME, SIDE
from dlkit.ui.stack import DIGIT, StackExplorer


@pytest.fixture
def images():
    """Forty images of 4x5 pixels."""
    return torch.rand(40, 4, 5, generator=seeded(1))


@pytest.fixture
def labels():
    return torch.arange(40) % 3


@pytest.fixture
def dbn():
    return randomised(DBN.of([20, 6, 70, 4], labels=3), 0, 0.7)


@pytest.fixture
def tuned(dbn):
    """A classifier of the stack, each of its weights moved a little."""
    net = dbn.classifier()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=seeded(5))
    return net


@pytest.fixture
def explorer(dbn, images, labels, tuned):
    return StackExplorer(dbn, images, labels, after=tuned)


def pixels(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.value)))


def units_by_hand(dbn, images):
    """The units of each layer of the labelled stack, in float64."""
    (W1, b1), (W2, b2) = (((layer.W.double()), layer.b.double()) for layer in dbn.lower)
    top = dbn.top
    h1 = torch.sigmoid(images.flatten(1).double() @ W1 + b1)
    h2 = torch.sigmoid(h1 @ W2 + b2)
    return [h.detach() for h in (h1, h2, torch.sigmoid(h2 @ top.W[:70].double() + top.b.double()))]


def test_the_most_exciting_images_are_those_of_the_highest_activity(explorer, dbn, images):
    explorer.layer.value, explorer.unit.value = 1, 33
    h = units_by_hand(dbn, images)[1][:, 33]
    by_hand = sorted(range(40), key=lambda i: -h[i])[:16]
    assert most_exciting(h[:, None], 0).tolist() == by_hand
    shown = pixels(explorer.digits)
    tall = DIGIT * 4 // 5
    for place in (0, 7, 8, 15):
        y, x = place // 8 * (tall + LINE), place % 8 * (DIGIT + 6)
        corner = int(shown[y, x])
        assert corner == round(float(images[by_hand[place], 0, 0]) * 255)
    assert f"{float(h[by_hand[0]]):.2f}" > f"{float(h[by_hand[15]]):.2f}"


def test_the_bars_are_the_means_of_the_unit(explorer, dbn, images, labels):
    explorer.layer.value, explorer.unit.value = 0, 3
    h = units_by_hand(dbn, images)[0][:, 3]
    summary = ", ".join(f"{digit}: {float(h[labels == digit].mean()):.2f}" for digit in range(3))
    assert f'aria-label="Mean activity by digit: {summary}"' in explorer.chart.value
    assert f"Mean activity: {float(h.mean()):.2f};" in explorer.caption.value


def test_every_control_changes_what_it_should(explorer):
    def changed(act) -> set[str]:
        names = ("grid", "picture", "digits")
        before = {name: getattr(explorer, name).value for name in names}
        act()
        return {name for name in names if getattr(explorer, name).value != before[name]}

    everything = {"grid", "picture", "digits"}
    assert changed(lambda: setattr(explorer.unit, "value", 2)) == everything
    assert changed(lambda: setattr(explorer.net, "value", "after")) == everything
    assert changed(lambda: setattr(explorer.layer, "value", 1)) == everything
    assert changed(lambda: setattr(explorer.sort, "value", "activity")) == everything
    assert changed(explorer.next.click) == everything
    assert changed(explorer.previous.click) == everything


def test_a_new_order_or_layer_goes_to_its_first_unit_and_the_arrows_follow_it(explorer, dbn, images, labels):
    h = units_by_hand(dbn, images)
    explorer.sort.value = 2
    for layer in (1, 0, 2, 1):
        explorer.layer.value = layer
        preference = h[layer][labels == 2].mean(0) - h[layer][labels != 2].mean(0)
        by_hand = sorted(range(len(preference)), key=lambda unit: -preference[unit])
        assert explorer.unit.value == by_hand[0]
        assert explorer.unit.max == len(by_hand) - 1
        explorer.next.click()
        assert explorer.unit.value == by_hand[1]
        explorer.previous.click()
        explorer.previous.click()
        assert explorer.unit.value == by_hand[-1]


def test_the_frame_is_on_the_chosen_unit(explorer):
    explorer.unit.value = 3
    framed = (pixels(explorer.grid) == FRAME).all(2)
    columns = np.flatnonzero(framed.any(0))
    assert (columns.min(), columns.max()) == (3 * (SIDE + 6), 3 * (SIDE + 6) + SIDE - 1)


def test_a_unit_beyond_the_grid_can_be_chosen(explorer):
    explorer.layer.value, explorer.unit.value = 1, 65
    assert not (pixels(explorer.grid) == FRAME).all(2).any()
    assert "60 of the layer's 70 units, by index; unit 65 comes after them." in explorer.grid_caption.value
    assert "Layer 2, unit 65" in explorer.caption.value


def test_fine_tuning_moves_the_unit_but_not_its_place(explorer, dbn, tuned, images):
    explorer.layer.value, explorer.sort.value = 1, "activity"
    unit = explorer.unit.value
    before = explorer.caption.value
    explorer.net.value = "after"
    assert explorer.unit.value == unit
    both = torch.stack([UnitActivity(net, images).activity[1][:, unit] for net in (dbn, tuned)])
    expected = f"correlates by {np.corrcoef(both.numpy())[0, 1]:.2f}"
    assert expected in before
    assert expected in explorer.caption.value
    assert "<b>after</b>" in explorer.caption.value


def test_without_a_tuned_net_there_is_no_switch(dbn, images, labels):
    alone, both = StackExplorer(dbn, images, labels), StackExplorer(dbn, images, labels, after=dbn.untied())
    assert alone.net not in alone.children[0].children
    assert both.net in both.children[0].children
    assert "correlates by 1.00" in both.caption.value


def test_a_list_of_layers_will_do(dbn, images, labels):
    listed = StackExplorer(list(dbn.layers), images, labels)
    assert listed.picture.value == StackExplorer(dbn, images, labels).picture.value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, i, y: StackExplorer(d, i, y[:9]), "40 images and 9 labels: give one label an image"),
        (lambda d, i, y: StackExplorer(d, i[:, :3], y), "images of 3x5 pixels for a first layer of 20 visible units"),
        (lambda d, i, y: StackExplorer([RBM(20, 6), RBM(5, 2)], i, y), "layer 1 has 6 hidden units and layer 2 takes"),
        (lambda d, i, y: StackExplorer([RBM(20, 6), torch.nn.ReLU()], i, y), "layer 2 is a ReLU, with no way up"),
        (lambda d, i, y: StackExplorer([], i, y), "a net without layers"),
        (lambda d, i, y: StackExplorer(d, i, y, after=DBN.of([20, 6, 3])), r"layers of \[6, 3\] units and `before` of"),
    ],
)
def test_what_does_not_fit_is_refused(make, message, dbn, images, labels):
    with pytest.raises(ValueError, match=message):
        make(dbn, images, labels)


def test_the_text_that_stands_in_for_the_widget_is_short(explorer, dbn, images, labels):
    summary = "StackExplorer(layers of [6, 70, 4] units, 40 images, before and after fine-tuning)"
    assert repr(explorer) == summary
    assert repr(StackExplorer(dbn, images, labels)) == "StackExplorer(layers of [6, 70, 4] units, 40 images)"
