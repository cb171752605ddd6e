"""Ways to read a label, against enumeration of the label units' chain."""

import pytest
import torch
from oracles import every_state, randomised, seeded
from torch import nn

from dlkit.analysis.recognition import by_free_energy, by_gibbs, by_net, by_sampled_features, error
from dlkit.data import Split
from dlkit.models import DBN


def test_a_net_is_read_in_evaluation_mode_and_left_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    with torch.no_grad():
        net[1].running_mean += 0.3
    before = {name: value.clone() for name, value in net.state_dict().items()}
    v = torch.rand(50, 4, generator=seeded())
    guesses = by_net(net, v)
    assert net.training
    assert torch.equal(guesses, by_net(net, v))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(guesses, net.eval()(v).argmax(1))


def stack(std=0.8):
    return randomised(DBN.of([4, 3, 5], labels=3), 0, std)


def test_free_energy_picks_the_most_probable_label():
    dbn, v = stack(), every_state(4).float()
    assert torch.equal(by_free_energy(dbn, v), dbn.label_probabilities(v).argmax(1))


def test_sampled_features_vary_and_agree_with_the_mean_field_way_most_often():
    dbn, v = stack(), every_state(4)[5:6].float().expand(5000, -1)
    guesses = by_sampled_features(dbn, v, seeded())
    features, p = every_state(3), dbn.layers[0].hidden_given(v[:1]).double()
    chance = (features * p + (1 - features) * (1 - p)).prod(1)
    labels = dbn.top.label_probabilities(features.float()).argmax(1)
    expected = torch.zeros(3, dtype=torch.float64).index_add_(0, labels, chance)
    torch.testing.assert_close(torch.bincount(guesses, minlength=3) / 5000.0, expected.float(), atol=0.03, rtol=0)


def test_a_long_chain_of_the_labels_comes_to_their_distribution():
    """With the features all but fixed, the last probabilities average to p(label | features)."""
    dbn = stack()
    with torch.no_grad():
        dbn.layers[0].W.zero_()
        dbn.layers[0].b.copy_(torch.tensor([50.0, -50.0, 50.0]))
    exact = dbn.top.label_probabilities(torch.tensor([[1.0, 0.0, 1.0]]))[0]
    v = torch.zeros(20_000, 4)
    top, seen = dbn.top, []
    real = top.visible_given

    def watched(h):
        seen.append(top.split_labels(real(h))[1].mean(0))
        return real(h)

    top.visible_given = watched
    by_gibbs(dbn, v[:1000], seeded(), steps=60)
    torch.testing.assert_close(torch.stack(seen[20:60]).mean(0), exact, atol=0.03, rtol=0)


def test_gibbs_guesses_the_label_that_stands_out():
    dbn = stack(std=2.0)
    v = every_state(4).float()
    sure = dbn.label_probabilities(v).amax(1) > 0.999
    many = torch.stack([by_gibbs(dbn, v, seeded(seed)) for seed in range(15)]).mode(0).values
    assert sure.any()
    assert (many == by_free_energy(dbn, v))[sure].float().mean() > 0.7


def test_errors_are_counted_in_percent():
    digits = Split(torch.zeros(4, 2, 2), torch.tensor([0, 1, 2, 1]))
    assert error(torch.tensor([0, 1, 1, 1]), digits) == 25.0
    with pytest.raises(ValueError, match="no labels to compare with"):
        error(torch.zeros(4).long(), Split(torch.zeros(4, 2, 2), None))


def test_a_net_is_read_by_its_largest_logit():
    net, x = torch.nn.Linear(3, 4), torch.rand(2500, 3)
    assert torch.equal(by_net(net, x), net(x).argmax(1))
