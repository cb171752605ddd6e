"""What a split costs, against the bytes that real runs count, the weights that ranks really have, and by hand."""

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
from dlkit.strategies import (
    DataParallel,
    Hybrid,
    ModelAveraging,
    OneWeirdTrick,
    Pipeline,
    SpatialParallel,
    TensorParallel,
    cost,
)
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
    return sent[-1] - sent[-2], held[-1], [(s.name, s.bytes_sent) for s in spans if s.bytes_sent]


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
    found = cost(NETS[name](), (28, 28), BATCH, ranks, STRATEGIES[how])
    for rank, (sent, held, _) in enumerate(team(ranks).call(counted, NETS[name], STRATEGIES[how], CrossEntropy())):
        reports = {"data": 2 * 2 * 4, "hybrid": 2 * 4, "layers": 2 * 4}.get(how, 0)  # loss and error
        assert 0 <= sent - found.bytes_sent(rank) <= reports + ranks * len(found.layers[rank])  # which are rounded down
        assert found.total(rank, "parameters") == held


@pytest.mark.parametrize(("how", "ranks"), [("data", 2), ("data", 3), ("neurons", 2), ("neurons", 3), ("hybrid", 4)])
def test_an_rbm_s_bill_is_what_a_gibbs_step_sends(how, ranks):
    make = partial(RBM, 784, 61)
    found = cost(make(), (28, 28), BATCH, ranks, STRATEGIES[how])
    for rank, (sent, held, _) in enumerate(team(ranks).call(counted, make, STRATEGIES[how], CD(), flat=True)):
        assert 0 <= sent - found.bytes_sent(rank) <= 10
        assert found.total(rank, "parameters") == held


def test_forward_and_backward_are_told_apart():
    """By the names that the exchanges of rows have, and by the order of a pipeline's ranks."""
    found = cost(LeNet5(), (28, 28), BATCH, 3, SpatialParallel())
    for rank, (_, _, spans) in enumerate(team(3).call(counted, LeNet5, SpatialParallel(), CrossEntropy())):
        sizes = {name: sum(size for other, size in spans if other == name) // 2 for name, _ in spans}
        assert found.total(rank, "forward") == sizes["halo"] + sizes["all-gather"]
        assert found.total(rank, "backward") == sizes["halo, back"]
        assert found.total(rank, "exchanged") == pytest.approx(sizes["all-reduce"], abs=4)
    found = cost(LeNet5(), (28, 28), BATCH, 3, Pipeline(4))
    ways = [(found.total(rank, "forward") > 0, found.total(rank, "backward") > 0) for rank in range(3)]
    assert ways == [(True, False), (True, True), (False, True)]
    assert found.total(0, "forward") == found.total(1, "backward")
    assert found.total(1, "forward") == found.total(2, "backward")


def test_a_pair_of_linear_layers_by_hand():
    found = cost(two_pairs(), (28, 28), 100, 2, TensorParallel())
    first, second, third, fourth = found.layers[0]
    assert [one.along for one in found.layers[0]] == ["units", "inputs", "units", "inputs"]
    assert (first.forward, first.backward) == (0, 0)  # images need no gradient
    assert (second.forward, second.backward) == (100 * 40 * 4, 0)  # 2 (n-1)/n of the sums, for n = 2
    assert (third.forward, third.backward) == (0, 100 * 40 * 4)
    assert (fourth.forward, fourth.backward) == (100 * 10 * 4, 0)
    assert first.parameters == (784 * 25 + 25) * 4
    assert second.parameters == (25 * 40 + 40) * 4  # the bias is on both
    assert (third.part.count, found.layers[1][2].part.count) == (16, 15)
    assert first.activations == 100 * 25 * 4
    assert second.activations == 100 * 40 * 4


def test_parts_make_the_whole():
    net = LeNet5()
    along_of = {DataParallel(): "images", TensorParallel(): "units", SpatialParallel(): "rows", Pipeline(): "layer"}
    for strategy, along in along_of.items():
        items = cost(net, (28, 28), BATCH, 3, strategy).layers
        third = [each[2] for each in items]  # C3
        assert {one.along for one in third} == {along}
        assert sum(one.part.count for one in third) == third[0].part.whole
        assert sum(one.activations for one in third) == BATCH * 16 * 10 * 10 * 4


def test_a_net_is_as_it_was():
    net = LeNet5()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for strategy in STRATEGIES.values():
        cost(net, (28, 28), BATCH, 4, strategy)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_it_is_shown_as_a_table():
    found = cost(LeNet5(), (28, 28), BATCH, 2, DataParallel())
    assert repr(found).splitlines()[1].split()[:3] == ["0", "240", "kB"]
    assert "<td>240 kB</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("net", "strategy", "ranks", "message"),
    [
        (LeNet5(), DataParallel(), 1, "1 ranks and a batch of 60: at least 2 and 1"),
        (nn.Bilinear(2, 2, 2), DataParallel(), 2, r"Bilinear does not take images of shape"),
        (perceptron(), SpatialParallel(), 2, "has no layer with maps and weights"),
        (perceptron(), Pipeline(), 4, "4 ranks need a layer with weights each, and this Sequential has 3"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 3)),
            TensorParallel(),
            4,
            "no layer of this Sequential has as many",
        ),
        (RBM(784, 3), TensorParallel(), 4, "3 hidden units for 4 ranks"),
        (RBM(784, 30), Pipeline(), 2, "RBM has no forward that images go through"),
        (LeNet5(), Hybrid(2, 2), 3, r"Hybrid\(data=2, model=2\) needs 4 ranks, and there are 3"),
        (perceptron(), OneWeirdTrick(), 2, "Sequential is not convolutions with Linear layers behind them"),
    ],
)
def test_what_cannot_be_split_is_said(net, strategy, ranks, message):
    with pytest.raises(ValueError, match=message):
        cost(net, (28, 28), BATCH, ranks, strategy)


@pytest.mark.parametrize(("strategy", "name"), [("data", "'data'"), (DataParallel, "DataParallel"), (None, "None")])
def test_a_strategy_is_wanted(strategy, name):
    with pytest.raises(TypeError, match=f"strategy={name}: give a strategy whose ranks take steps together"):
        cost(LeNet5(), (28, 28), BATCH, 2, strategy)


def test_memory_counts_what_the_optimizer_keeps():
    found = cost(LeNet5(), (28, 28), BATCH, 2, DataParallel())
    assert [found.memory_bytes(0, values) for values in (0, 1, 2)] == [n * 4 * 60_000 for n in (2, 3, 4)]


def test_meetings_are_paid_for_by_the_step():
    every, seldom = (cost(LeNet5(), (28, 28), BATCH, 2, ModelAveraging(every)) for every in (1, 10))
    assert every.bytes_sent(0) == 4 * 60_000 + 8 * 840  # and F6's codes for the ten digits, a buffer, as doubles
    assert seldom.bytes_sent(0) == pytest.approx(every.bytes_sent(0) / 10, abs=10)


@pytest.mark.parametrize(("data", "model"), [(4, 1), (1, 4), (3, 2)])
def test_a_mesh_of_any_shape_has_a_cost(data, model):
    found = cost(LeNet5(), (28, 28), BATCH, data * model, Hybrid(data, model))
    assert found.world_size == data * model
    plain = {(4, 1): DataParallel(), (1, 4): TensorParallel()}.get((data, model))
    if plain is not None:
        other = cost(LeNet5(), (28, 28), BATCH, 4, plain)
        assert [found.bytes_sent(rank) for rank in range(4)] == [other.bytes_sent(rank) for rank in range(4)]


# What is not counted is named


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


class Recurrent(nn.Module):
    """An LSTM and what takes its output in one module."""

    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(12, 8, batch_first=True), Last()

    def forward(self, x):
        return self.last(self.lstm(x))


def own(x=12):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.rand(x * x, 6))

        def forward(self, images):
            return (images.flatten(1) @ self.w).relu()

    return Own()


UNUSUAL = {
    "LSTM": lambda: nn.Sequential(Recurrent(), nn.Linear(8, 4)),
    "ConvTranspose2d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.ConvTranspose2d(1, 4, 3), nn.Flatten(), nn.Linear(784, 4)
    ),
    "norms": lambda: nn.Sequential(
        *(nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4), nn.Flatten()),
        *(nn.Linear(400, 6), nn.LayerNorm(6), nn.Linear(6, 4)),
    ),
    "a parameter of one's own": lambda: nn.Sequential(own(), nn.Linear(6, 4)),
    "frozen": lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 6).requires_grad_(False), nn.Linear(6, 4)),
}


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel(), Pipeline(1, schedule="gpipe")], ids=str)
@pytest.mark.parametrize("name", UNUSUAL)
def test_all_parameters_are_in_the_table_and_all_gradients_that_there_are(name, strategy):
    net = UNUSUAL[name]()
    if name == "frozen" and isinstance(strategy, Pipeline):
        return  # one stage would have nothing to train: refused
    table = cost(net, (12, 12), 6, 2, strategy)
    assert sum(layer.whole for layer in table.layers[0]) == sum(p.nbytes for p in net.parameters())
    if isinstance(strategy, DataParallel):
        assert table.total(0, "gradients") == sum(p.nbytes for p in net.parameters() if p.requires_grad)
        assert table.memory_bytes(0, 0) == sum(p.nbytes * (1 + p.requires_grad) for p in net.parameters())


def test_what_has_activations_inside_is_named_in_the_table():
    table = cost(UNUSUAL["LSTM"](), (12, 12), 6, 2, DataParallel())
    assert repr(table).endswith("\nNot counted: activations inside 0.lstm (LSTM).")
    assert "0.lstm (LSTM)" in table._repr_html_()
    for name in ("norms", "a parameter of one's own"):  # whose forward is taken apart
        assert "Not counted" not in repr(cost(UNUSUAL[name](), (12, 12), 6, 2, DataParallel()))
    assert not any(cost(NETS[name](), (28, 28), 6, 2, DataParallel()).not_counted for name in ("LeNet-5", "LocalNet"))


def test_a_layer_that_gives_more_than_a_tensor_is_counted():
    net = nn.Sequential(nn.LSTM(12, 8, batch_first=True), Last(), nn.Linear(8, 4))
    table = cost(net, (12, 12), 6, 2, DataParallel())
    assert sum(layer.whole for layer in table.layers[0]) == sum(p.nbytes for p in net.parameters())


def test_a_parameter_of_two_layers_is_refused_and_a_net_of_doubles_is_not():
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 144), nn.Tanh(), nn.Linear(144, 144))
    expected = cost(net, (12, 12), 6, 2, DataParallel()).bytes_sent(0)
    assert cost(net.double(), (12, 12), 6, 2, DataParallel()).bytes_sent(0) == expected
    net[3].weight = net[1].weight
    with pytest.raises(ValueError, match=r"are one parameter, which would be counted twice: give each layer its own"):
        cost(net, (12, 12), 6, 2, DataParallel())
    net[3].weight = nn.Parameter(net[1].weight.detach().clone())
    cost(net, (12, 12), 6, 2, DataParallel())


def test_a_frozen_convolution_sends_no_gradients_by_rows():
    def net():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 3, 5).requires_grad_(False), nn.Tanh(), nn.Conv2d(3, 2, 5)),
            *(nn.Tanh(), nn.Flatten(), nn.Linear(800, 10)),
        )

    table = cost(net(), (28, 28), BATCH, 2, SpatialParallel())
    answers = team(2).call(counted, net, SpatialParallel(), CrossEntropy())
    assert [table.bytes_sent(rank) for rank in range(2)] == [sent for sent, _, _ in answers]
