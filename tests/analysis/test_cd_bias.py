"""A training by contrastive divergence is measured against the exact likelihood and gradient."""

import pytest
import torch
from oracles import likelihood_gradient, visible_distribution

from dlkit.analysis import cd_bias, exact
from dlkit.analysis.cd_bias import train_by_cd
from dlkit.data import Batch, bars_and_stripes
from dlkit.models import RBM
from dlkit.training import CD


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A training of 50 updates in place of 1,000."""
    monkeypatch.setattr(cd_bias, "UPDATES", 50)


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
    training = train_by_cd(2, 0.5, 4)
    p = visible_distribution(rbm)
    number = (v.long() * 2 ** torch.arange(15, -1, -1)).sum(1)  # in the order of the oracle
    assert training.updates == [0, 25, 50]
    assert training.log_likelihood[-1] == pytest.approx(float(p[number].log().mean()))
    assert training.pattern_probability == pytest.approx(float(p[number].sum()))
    cosine = exact.cosine(exact.cd_gradient(rbm, v, 5), likelihood_gradient(rbm, v))
    assert training.cosines[5] == pytest.approx(cosine)
    valid = set(number.tolist())
    assert sum(training.valid) == sum(int(i) in valid for i in p.topk(30).indices)


def test_it_tells_how_far_it_is():
    reports = []
    train_by_cd(1, 0.1, 2, on_progress=lambda so_far: reports.append(str(so_far)))
    assert reports == ["CD-1, rate 0.1, 2 hidden units: training, update 0 of 50"]
