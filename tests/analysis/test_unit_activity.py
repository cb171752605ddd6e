"""The units of a stack: their activity, their pictures, and how they are sorted."""

import pytest
import torch
from oracles import randomised, seeded

from dlkit.analysis.unit_activity import UnitActivity, class_means, sorted_units
from dlkit.models import DBN, RBM, CodeRBM


@pytest.fixture
def images():
    """Forty images of 4x5 pixels."""
    return torch.rand(40, 4, 5, generator=seeded(1))


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


def units_by_hand(dbn, images):
    """The units of each layer of the labelled stack, in float64."""
    (W1, b1), (W2, b2) = (((layer.W.double()), layer.b.double()) for layer in dbn.lower)
    top = dbn.top
    h1 = torch.sigmoid(images.flatten(1).double() @ W1 + b1)
    h2 = torch.sigmoid(h1 @ W2 + b2)
    return [h.detach() for h in (h1, h2, torch.sigmoid(h2 @ top.W[:70].double() + top.b.double()))]


def test_the_units_are_those_of_the_way_up(dbn, images):
    units = UnitActivity(dbn, images)
    for h, expected in zip(units.activity, units_by_hand(dbn, images), strict=True):
        torch.testing.assert_close(h.double(), expected, atol=1e-5, rtol=1e-4)
    assert units.sizes == [6, 70, 4]


def test_a_net_is_read_at_its_linear_layers(dbn, tuned, images):
    units = UnitActivity(tuned, images)
    v = images.flatten(1)
    h1 = torch.sigmoid(v @ tuned[1].weight.T + tuned[1].bias)
    h2 = torch.sigmoid(h1 @ tuned[3].weight.T + tuned[3].bias)
    torch.testing.assert_close(units.activity[0], h1.detach())
    torch.testing.assert_close(units.activity[1], h2.detach())
    torch.testing.assert_close(units.activity[3], tuned(images).detach())
    assert units.sizes == [6, 70, 4, 3]
    same = UnitActivity(dbn.classifier(), images)
    for h, expected in zip(same.activity, UnitActivity(dbn, images).activity, strict=False):
        torch.testing.assert_close(h, expected)


def test_dropout_is_off_and_the_net_is_left_as_it_was(tuned, images):
    net = torch.nn.Sequential(*tuned[:3], torch.nn.Dropout(0.5), *tuned[3:]).train()
    torch.testing.assert_close(UnitActivity(net, images).activity[0], UnitActivity(tuned, images).activity[0])
    assert net.training
    assert net[3].training


def test_linear_units_keep_their_sign(images):
    dbn = DBN([randomised(RBM(20, 6), 0, 0.7), randomised(CodeRBM(6, 3), 1, 0.7)])
    codes = UnitActivity(dbn, images).activity[1]
    assert codes.min() < 0
    torch.testing.assert_close(codes, dbn.autoencoder()[0](images).detach())


def test_a_picture_is_the_weighted_sum_of_the_pictures_below(dbn, images):
    units = UnitActivity(dbn, images)
    W1, W2, W3 = dbn.layers[0].W, dbn.layers[1].W, dbn.top.W[:70]
    assert torch.equal(units.pictures(0)[4].flatten(), W1[:, 4])
    second = sum(W2[j, 5] * W1[:, j] for j in range(6))
    torch.testing.assert_close(units.pictures(1)[5].flatten(), second)
    third = sum(W3[k, 2] * units.pictures(1)[k] for k in range(70))
    torch.testing.assert_close(units.pictures(2)[2], third)


def test_the_means_are_those_of_each_class():
    activity = torch.tensor([[1.0, 0.0], [3.0, 1.0], [5.0, 0.5]])
    assert class_means(activity, torch.tensor([0, 0, 2])).tolist() == [[2, 0.5], [0, 0], [5, 0.5]]


def test_the_orders():
    activity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.2, 0.8]])  # unit 0 is the most active, unit 2 tells 1 from 0
    labels = torch.tensor([0, 1])
    assert sorted_units(activity, labels, "index").tolist() == [0, 1, 2]
    assert sorted_units(activity, labels, "activity").tolist() == [0, 2, 1]
    assert sorted_units(activity, labels, 1).tolist() == [2, 1, 0]
    assert sorted_units(activity, labels, 0).tolist() == [0, 1, 2]


def test_its_repr_is_a_line(dbn, images):
    assert repr(UnitActivity(dbn, images)) == "UnitActivity(layers of [6, 70, 4] units, 40 images)"
