"""The bill of a split, against the bytes that real runs count, the weights that ranks really have, and by hand."""

from functools import partial

import pytest
import torch
from ranks import team
from splitting import digits
from torch import nn

from dlkit import Experiment
from dlkit.models import ConvNet, LeNet5
from dlkit.models.locally_connected import LocalNet
from dlkit.models.rbm import RBM
from dlkit.strategies import DataParallel, Hybrid, OneWeirdTrick, Pipeline, SpatialParallel, TensorParallel
from dlkit.strategies.costs import cost
from dlkit.training import CD, CrossEntropy

STRATEGIES = {
    "data": DataParallel(),
    "neurons": TensorParallel(),
    "region": SpatialParallel(),
    "layers": Pipeline(4),
    "hybrid": Hybrid(2, 2),
    "weird trick": OneWeirdTrick(),
}
BATCH = 60


def perceptron():
    """A pair of Linear layers, and one without a partner."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 10)
    )  # fmt: skip


def two_pairs():
    layers = [nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 31), nn.Linear(31, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


NETS = {"LeNet-5": LeNet5, "ConvNet": ConvNet, "LocalNet": LocalNet, "MLP": perceptron, "two pairs": two_pairs}


def counted(make, strategy, learner, flat=False):
    """Bytes that this rank sent in the second step, those it has of parameters, and what each send was for."""
    images, labels = digits(2 * BATCH)
    data = (images.flatten(1), labels) if flat else (images, labels)
    experiment = Experiment(make, data, learner, batch_size=BATCH)
    sent, held = [0], []

    def look(run):
        sent.append(run.shard.recorder.bytes_sent)
        held.append(sum(p.nbytes for p in run.model.parameters() if p.numel()))

    found = experiment.run(strategy=strategy, steps=2, device="cpu", progress=False, on_step=look)
    spans = [s for s in found.shard.recorder.spans if s.kind == "exchange"]
    return sent[-1] - sent[-2], held[-1], [(s.name, s.size) for s in spans if s.size]


def splits():
    """Each net in each way that there is for it, over two ranks and three, or where it takes four over those."""
    return [
        (name, how, ranks)
        for name in NETS
        for how in STRATEGIES
        if how not in ("region", "weird trick") or name not in ("MLP", "two pairs")
        for ranks in ((4,) if how == "hybrid" else (2, 3))
    ]


@pytest.mark.parametrize(("name", "how", "ranks"), splits())
def test_the_bill_is_what_a_run_sends_and_holds(name, how, ranks):
    found = cost(NETS[name](), (28, 28), BATCH, ranks, how)
    for rank, (sent, held, _) in enumerate(team(ranks).call(counted, NETS[name], STRATEGIES[how], CrossEntropy())):
        reports = {"data": 2 * 2 * 4, "hybrid": 2 * 4, "layers": 2 * 4}.get(how, 0)  # loss and error
        assert 0 <= sent - found.bytes_sent(rank) <= reports + ranks * len(found.items[rank])  # which are rounded down
        assert found.total(rank, "parameters") == held


@pytest.mark.parametrize(("how", "ranks"), [("data", 2), ("data", 3), ("neurons", 2), ("neurons", 3), ("hybrid", 4)])
def test_an_rbm_s_bill_is_what_a_gibbs_step_sends(how, ranks):
    make = partial(RBM, 784, 61)
    found = cost(make(), (28, 28), BATCH, ranks, how)
    for rank, (sent, held, _) in enumerate(team(ranks).call(counted, make, STRATEGIES[how], CD(), flat=True)):
        assert 0 <= sent - found.bytes_sent(rank) <= 10
        assert found.total(rank, "parameters") == held


def test_forward_and_backward_are_told_apart():
    """By the names that the exchanges of rows have, and by the order of a pipeline's ranks."""
    found = cost(LeNet5(), (28, 28), BATCH, 3, "region")
    for rank, (_, _, spans) in enumerate(team(3).call(counted, LeNet5, SpatialParallel(), CrossEntropy())):
        sizes = {name: sum(size for other, size in spans if other == name) // 2 for name, _ in spans}
        assert found.total(rank, "forward") == sizes["halo"] + sizes["all-gather"]
        assert found.total(rank, "backward") == sizes["halo, back"]
        assert found.total(rank, "exchanged") == pytest.approx(sizes["all-reduce"], abs=4)
    found = cost(LeNet5(), (28, 28), BATCH, 3, "layers")
    ways = [(found.total(rank, "forward") > 0, found.total(rank, "backward") > 0) for rank in range(3)]
    assert ways == [(True, False), (True, True), (False, True)]
    assert found.total(0, "forward") == found.total(1, "backward")
    assert found.total(1, "forward") == found.total(2, "backward")


def test_a_pair_of_linear_layers_by_hand():
    found = cost(two_pairs(), (28, 28), 100, 2, "neurons")
    first, second, third, fourth = found.items[0]
    assert [one.along for one in found.items[0]] == ["units", "inputs", "units", "inputs"]
    assert (first.forward, first.backward) == (0, 0)  # images need no gradient
    assert (second.forward, second.backward) == (100 * 40 * 4, 0)  # 2 (n-1)/n of the sums, for n = 2
    assert (third.forward, third.backward) == (0, 100 * 40 * 4)
    assert (fourth.forward, fourth.backward) == (100 * 10 * 4, 0)
    assert first.parameters == (784 * 25 + 25) * 4
    assert second.parameters == (25 * 40 + 40) * 4  # the bias is on both
    assert (third.part.count, found.items[1][2].part.count) == (16, 15)
    assert first.activations == 100 * 25 * 4
    assert second.activations == 100 * 40 * 4


def test_parts_make_the_whole():
    net = LeNet5()
    for how, along in (("data", "images"), ("neurons", "units"), ("region", "rows"), ("layers", "layer")):
        items = cost(net, (28, 28), BATCH, 3, how).items
        third = [each[2] for each in items]  # C3
        assert {one.along for one in third} == {along}
        assert sum(one.part.count for one in third) == third[0].part.whole
        assert sum(one.activations for one in third) == BATCH * 16 * 10 * 10 * 4


def test_a_net_is_as_it_was():
    net = LeNet5()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for how in STRATEGIES:
        cost(net, (28, 28), BATCH, 4, how)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_it_is_shown_as_a_table():
    found = cost(LeNet5(), (28, 28), BATCH, 2, "data")
    assert repr(found).splitlines()[1].split()[:3] == ["0", "240", "kB"]
    assert "<td>240 kB</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("net", "how", "ranks", "message"),
    [
        (LeNet5(), "rows", 2, r'how="rows": it is one of data, neurons, region, layers, hybrid, weird trick\.'),
        (LeNet5(), "data", 1, "1 ranks and a batch of 60: at least 2 and 1"),
        (nn.Bilinear(2, 2, 2), "data", 2, "Bilinear is no nn.Sequential"),
        (perceptron(), "region", 2, "has no layer with places"),
        (perceptron(), "layers", 4, "4 ranks need a layer with weights each, and this Sequential has 3"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), "neurons", 4, "no layer of this Sequential has as many"),
        (RBM(784, 3), "neurons", 4, "3 hidden units for 4 ranks"),
        (RBM(784, 30), "layers", 2, "RBM has one layer, and no maps"),
        (LeNet5(), "hybrid", 3, "need 4, 6, 8, ... ranks, and there are 3"),
        (RBM(784, 30), "hybrid", 2, "need 4, 6, 8, ... ranks, and there are 2"),
        (perceptron(), "weird trick", 2, "Sequential is not convolutions with Linear layers behind them"),
    ],
)
def test_what_cannot_be_split_is_said(net, how, ranks, message):
    with pytest.raises(ValueError, match=message):
        cost(net, (28, 28), BATCH, ranks, how)
