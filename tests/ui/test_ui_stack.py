"""The stack explorer without a browser: its pictures, orders and means, and that each control shows them."""

import io

import numpy as np
import pytest
import torch
from oracles import randomised, seeded
from PIL import Image

from dlkit.models import DBN, RBM, CodeRBM
from dlkit.ui.draw.pictures import LINE
from dlkit.ui.stack import DIGIT, FRAME, SIDE, Features, StackExplorer, class_means, most_exciting, order


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


def test_the_units_are_those_of_the_way_up(dbn, images):
    found = Features(dbn, images)
    for h, expected in zip(found.activity, units_by_hand(dbn, images), strict=True):
        torch.testing.assert_close(h.double(), expected, atol=1e-5, rtol=1e-4)
    assert found.sizes == [6, 70, 4]


def test_a_net_is_read_at_its_linear_layers(dbn, tuned, images):
    found = Features(tuned, images)
    v = images.flatten(1)
    h1 = torch.sigmoid(v @ tuned[1].weight.T + tuned[1].bias)
    h2 = torch.sigmoid(h1 @ tuned[3].weight.T + tuned[3].bias)
    torch.testing.assert_close(found.activity[0], h1.detach())
    torch.testing.assert_close(found.activity[1], h2.detach())
    torch.testing.assert_close(found.activity[3], tuned(images).detach())
    assert found.sizes == [6, 70, 4, 3]
    same = Features(dbn.classifier(), images)
    for h, expected in zip(same.activity, Features(dbn, images).activity, strict=False):
        torch.testing.assert_close(h, expected)


def test_dropout_is_off_and_the_net_is_left_as_it_was(tuned, images):
    net = torch.nn.Sequential(*tuned[:3], torch.nn.Dropout(0.5), *tuned[3:]).train()
    torch.testing.assert_close(Features(net, images).activity[0], Features(tuned, images).activity[0])
    assert net.training
    assert net[3].training


def test_linear_units_keep_their_sign(images):
    dbn = DBN([randomised(RBM(20, 6), 0, 0.7), randomised(CodeRBM(6, 3), 1, 0.7)])
    codes = Features(dbn, images).activity[1]
    assert codes.min() < 0
    torch.testing.assert_close(codes, dbn.autoencoder()[0](images).detach())


def test_a_picture_is_the_weighted_sum_of_the_pictures_below(dbn, images):
    found = Features(dbn, images)
    W1, W2, W3 = dbn.layers[0].W, dbn.layers[1].W, dbn.top.W[:70]
    assert torch.equal(found.pictures(0)[4].flatten(), W1[:, 4])
    second = sum(W2[j, 5] * W1[:, j] for j in range(6))
    torch.testing.assert_close(found.pictures(1)[5].flatten(), second)
    third = sum(W3[k, 2] * found.pictures(1)[k] for k in range(70))
    torch.testing.assert_close(found.pictures(2)[2], third)


def test_the_means_are_those_of_each_class():
    activity = torch.tensor([[1.0, 0.0], [3.0, 1.0], [5.0, 0.5]])
    assert class_means(activity, torch.tensor([0, 0, 2])).tolist() == [[2, 0.5], [0, 0], [5, 0.5]]


def test_the_orders():
    activity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.2, 0.8]])  # unit 0 is the most active, unit 2 tells 1 from 0
    labels = torch.tensor([0, 1])
    assert order(activity, labels, "index").tolist() == [0, 1, 2]
    assert order(activity, labels, "activity").tolist() == [0, 2, 1]
    assert order(activity, labels, 1).tolist() == [2, 1, 0]
    assert order(activity, labels, 0).tolist() == [0, 1, 2]


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
    assert changed(explorer.on.click) == everything
    assert changed(explorer.back.click) == everything


def test_a_new_order_or_layer_goes_to_its_first_unit_and_the_arrows_follow_it(explorer, dbn, images, labels):
    h = units_by_hand(dbn, images)
    explorer.sort.value = 2
    for layer in (1, 0, 2, 1):
        explorer.layer.value = layer
        preference = h[layer][labels == 2].mean(0) - h[layer][labels != 2].mean(0)
        by_hand = sorted(range(len(preference)), key=lambda unit: -preference[unit])
        assert explorer.unit.value == by_hand[0]
        assert explorer.unit.max == len(by_hand) - 1
        explorer.on.click()
        assert explorer.unit.value == by_hand[1]
        explorer.back.click()
        explorer.back.click()
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
    both = torch.stack([Features(net, images).activity[1][:, unit] for net in (dbn, tuned)])
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
