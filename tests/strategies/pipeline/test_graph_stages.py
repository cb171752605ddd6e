"""Nets with a forward of their own, by layers: what crosses several stages, or is made early, or may not be parted."""

from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from ranks import team
from torch import nn

from dlkit import Experiment
from dlkit.data import Batch
from dlkit.models.graph_check import graph_of
from dlkit.strategies import Pipeline, cost
from dlkit.strategies.explanation import explain
from dlkit.strategies.pipeline.partition import best_cut, partition
from dlkit.training import Backprop, CrossEntropy

STEPS, BATCH, WIDTH = 4, 12, 9
GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.rand(30, WIDTH, generator=GENERATOR, dtype=torch.float64) - 0.3  # the last batch has 6
LABELS = torch.randint(0, 4, (30,), generator=GENERATOR)


class Wide(nn.Module):
    """Five layers of the same width, of which the nets below are made."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.out = nn.Linear(WIDTH, 4)


class Skips(Wide):
    """The first layer's output is taken by the last: it passes all stages; so are the images."""

    def forward(self, x):
        first = self.a(x).tanh()
        y = self.c(self.b(first).tanh()).tanh()
        return self.out(self.d(y + x).tanh() + first)


class EarlyOutput(Wide):
    """A tuple, a part of which is made in the first stage."""

    def forward(self, x):
        early = self.a(x).tanh()
        return self.out(self.d(self.c(self.b(early).tanh()).tanh()).tanh()), early[:, :4]


class Named(NamedTuple):
    logits: torch.Tensor
    early: torch.Tensor


class NamedOutput(EarlyOutput):
    def forward(self, x):
        return Named(*super().forward(x))


class DictOutput(EarlyOutput):
    def forward(self, x):
        logits, early = super().forward(x)
        return {"logits": logits, "early": [early]}


class UnusedOutput(EarlyOutput):
    """Its loss makes no use of the early output, of which there is then no gradient, nor of the layer that makes it."""

    def __init__(self):
        super().__init__()
        self.early = nn.Linear(WIDTH, 3)

    def forward(self, x):
        first = self.a(x).tanh()
        early = self.early(first)
        return self.out(self.d(self.c(self.b(first).tanh()).tanh()).tanh()), early


class Masked(Wide):
    """A mask of bools, and a count, from the images, which no gradient goes through."""

    def forward(self, x):
        mask, count = x > 0, (x > 0).sum(1, keepdim=True)
        y = self.b(self.a(x).tanh()).tanh().masked_fill(mask, 0.0)
        return self.out(self.d(self.c(y).tanh()) * mask / (1 + count))


class Frozen(Wide):
    """Its first layer is not trained: what it gives has no gradient; nor has what is detached."""

    def __init__(self):
        super().__init__()
        self.a.requires_grad_(False)

    def forward(self, x):
        first = self.a(x).tanh()
        y = self.b(first)
        return self.out(self.d(self.c(y.tanh()) + y.detach()) + first)


class InPlace(Wide):
    """Values that cross are changed in place, and so is a view of one."""

    def forward(self, x):
        first = self.a(x)
        y = self.b(first).mul_(1.5)
        y += first
        z = self.c(y)
        z[:, 2:5] = 0.5
        F.relu(z, inplace=True)
        return self.out(self.d(z).tanh_() + y)


class ChangedBehind(Wide):
    """A view of a value is changed in place while the value itself is still to be used: no cut may part them."""

    def forward(self, x):
        first = self.a(x)
        view = first.view(-1, WIDTH)
        y = self.b(x)
        view.mul_(2.0)
        return self.out(self.d(self.c(first + y).tanh()) + view)


class Shared(Wide):
    """Its second layer is called twice, the first's weights are read again."""

    def forward(self, x):
        y = self.b(self.b(self.a(x)).tanh()).tanh()
        y = F.linear(y, self.a.weight)
        return self.out(self.d(self.c(y).tanh()))


class OwnParameters(Wide):
    """Parameters and buffers of its own, read where they are used, one of them twice."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.shift = nn.Parameter(torch.zeros(1, WIDTH))
        self.register_buffer("table", torch.arange(WIDTH) / WIDTH)

    def forward(self, x):
        y = self.a(x) * self.scale + self.table
        y = self.c(self.b(y).tanh()).tanh() + self.shift.expand(len(y), -1) * self.table
        return self.out(self.d(y))


class Sequences(Wide):
    """Along its second dimension are the images, and one value has none."""

    def forward(self, x):
        y = self.a(x.view(len(x), 3, 3).transpose(0, 1).repeat(1, 1, 3))  # (3, batch, 9)
        weights = torch.softmax(self.d.weight[0] + self.d.bias, 0)
        return self.out(self.c(self.b(y).tanh()).sum(0) * weights)


class Dropped(Wide):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.4)

    def forward(self, x):
        first = self.drop(self.a(x))
        y = F.dropout(self.b(first).tanh(), 0.3, self.training)
        y = self.c(y) + 0.1 * torch.randn_like(first)
        return self.out(self.drop(self.d(y).tanh()) + first)


class Recurrent(nn.Module):
    """A tuple of tuples inside, whose parts are taken in another stage."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTM(3, 5, batch_first=True), nn.LSTM(5, 5, batch_first=True)
        self.out = nn.Linear(5, 4)

    def forward(self, x):
        states, (last, _) = self.first(x.view(-1, 3, 3))
        states, (_, memory) = self.second(states)
        return self.out(states[:, -1] + memory[0] + last[0])


class BothOutputs(Backprop):
    """Cross-entropy of the first output, and a little of the squares of the second, whichever way they are given."""

    def loss(self, output, batch):
        logits, early = output.values() if isinstance(output, dict) else output
        if isinstance(output, dict):
            assert type(early) is list
            early = early[0]
        else:
            assert type(output) in (tuple, Named)
        loss = F.cross_entropy(logits, batch.labels) + 0.3 * F.cross_entropy(early, batch.labels)
        return loss, {"loss": loss, "early": early.square().mean()}


class FirstOutput(Backprop):
    def loss(self, output, batch):
        loss = F.cross_entropy(output[0], batch.labels)
        return loss, {"loss": loss}


CASES = {
    Skips: CrossEntropy(),
    EarlyOutput: BothOutputs(),
    NamedOutput: BothOutputs(),
    DictOutput: BothOutputs(),
    UnusedOutput: FirstOutput(),
    Masked: CrossEntropy(),
    Frozen: CrossEntropy(),
    InPlace: CrossEntropy(),
    ChangedBehind: CrossEntropy(),
    Shared: CrossEntropy(),
    OwnParameters: CrossEntropy(),
    Sequences: CrossEntropy(),
    Dropped: CrossEntropy(),
    Recurrent: CrossEntropy(),
}
FEW = {Recurrent: 3, ChangedBehind: 3, Shared: 3, Sequences: 3}  # stages that there can be


def experiment(net, **settings):
    given = {"batch_size": BATCH, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "dtype": torch.float64}
    return Experiment(net, (IMAGES, LABELS), CASES[net], **(given | settings))


def states(experiments, strategy=None):
    """The state after the first step and after the last, and the history, of each."""
    found = []
    for made in experiments:
        first = {}

        def keep(run, first=first):
            if run.step == 1:
                first.update({name: value.clone() for name, value in run.shard.model_state().items()})

        last = made.run(strategy=strategy, steps=STEPS, device="cpu", progress=False, on_step=keep)
        found.append((first, last.model.state_dict(), last.history.rows))
    return found


@pytest.fixture(scope="module")
def alone():
    """What one process learns with each net."""
    return dict(zip(CASES, states([experiment(net) for net in CASES]), strict=True))


@pytest.mark.parametrize(
    ("ranks", "strategy"),
    [
        (2, Pipeline(2)),
        (2, Pipeline(1, "gpipe")),
        (3, Pipeline(4)),
        (3, Pipeline(3, "gpipe")),
        (4, Pipeline(6)),
    ],
    ids=str,
)
def test_nets_with_a_forward_of_their_own_learn_what_they_learn_alone(ranks, strategy, alone):
    nets = [net for net in CASES if FEW.get(net, 4) >= ranks]
    for found in team(ranks).call(states, [experiment(net) for net in nets], strategy):
        for net, other in zip(nets, found, strict=True):
            one = alone[net]
            start = {name: value.double() for name, value in experiment(net).initial_model().state_dict().items()}
            moved, split_moved = (torch.cat([(x[0][n] - start[n]).flatten() for n in start]) for x in (one, other))
            assert (moved - split_moved).norm() / moved.norm() < 1e-10, net
            for name, value in one[1].items():
                torch.testing.assert_close(other[1][name], value, rtol=1e-9, atol=1e-11, msg=f"{net} {name}")
            for mine, theirs in zip(one[2], other[2], strict=True):
                assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-9)


# Where a net can be cut


def blocks_of(net):
    images = IMAGES[:5]
    return partition(graph_of(net.double(), images), images, deepcopy)


def crossing(net):
    """The names of the values that cross to each block."""
    blocks = blocks_of(net)
    return dict(zip(blocks.names, [[node.name for node in values] for values in blocks.crossing], strict=True))


def test_what_is_alive_crosses_each_value_once():
    torch.manual_seed(0)
    assert crossing(Skips()) == {
        "a": [],
        "b": ["images", "tanh"],
        "c": ["images", "tanh", "tanh_1"],
        "d": ["tanh", "add"],
        "out": ["add_1"],
    }


def test_weights_that_are_used_twice_keep_layers_together():
    assert list(crossing(Shared())) == ["a", "c", "d", "out"]
    with pytest.raises(ValueError, match=r"a.weight is used in two places, which would be on two ranks: 5 ranks need"):
        blocks_of(Shared()).check_enough(5)


def test_no_cut_comes_between_a_value_and_a_view_that_is_changed_later():
    assert list(crossing(ChangedBehind())) == ["a", "c", "d", "out"]


def test_a_value_costs_what_more_crosses():
    costs = [10, 10, 10, 10]
    assert best_cut(costs, 2) == (2,)
    assert best_cut(costs, 2, [0, 3, 20, 4]) == (1,)  # 33 and not 40
    assert best_cut(costs, 3, [0, 9, 1, 1]) == (2, 3)


# What a rank has, and sends


def held(made, strategy):
    sent = []
    found = made.run(
        strategy=strategy, steps=2, device="cpu", progress=False,
        on_step=lambda run: sent.append(
            (run.shard.recorder.bytes_sent, [name for name, _ in run.model.named_parameters()])
        ),
    )  # fmt: skip
    spans = [(s.name, s.bytes_sent) for s in found.shard.recorder.spans if s.name.startswith("send")]
    return sent[1][0] - sent[0][0], sent[0][1], spans


@pytest.mark.parametrize("net", [Skips, Masked, EarlyOutput, OwnParameters, Sequences], ids=lambda net: net.__name__)
def test_the_bill_is_what_is_sent_and_held(net):
    images = IMAGES.float()
    made = replace(experiment(net, dtype=torch.float32), data=(images[:24], LABELS[:24]))
    found = cost(net(), (WIDTH,), BATCH, 3, Pipeline(3))
    ranks = team(3).call(held, made, Pipeline(3))
    names = [name for name, _ in net().named_parameters()]
    assert sorted(name for _, own, _ in ranks for name in own) == sorted(names)  # each on one rank, under its own name
    reports = 4 * len(made.learner.loss(*_output_of(net))[1])
    for rank, (sent, own, spans) in enumerate(ranks):
        assert 0 <= sent - found.bytes_sent(rank) <= reports + 3
        sizes = {name: p.nbytes for name, p in net().named_parameters()}
        assert found.total(rank, "parameters") == sum(sizes[name] for name in own)
        for way, name in (("forward", "send activations"), ("backward", "send gradients")):
            assert found.total(rank, way) == sum(size for other, size in spans if other == name) // 2


def _output_of(net):
    return net()(IMAGES[:4].float()), Batch(IMAGES[:4].float(), LABELS[:4])


def test_stages_of_a_net_begin_where_they_are_asked_to():
    made = experiment(Skips)
    _, own, _ = zip(*team(3).call(held, made, Pipeline(3, stages=["b", "out"])), strict=True)
    assert [name.split(".")[0] for names in own for name in names[::2]] == ["a", "b", "c", "d", "out"]
    assert [names[0] for names in own] == ["a.weight", "b.weight", "out.weight"]
    with pytest.raises(ValueError, match=r"of those with weights: c, d, out"):
        team(2).call(held, experiment(Shared), Pipeline(3, stages=["b"]))


def test_what_is_split_how_is_explained():
    table = explain(Skips(), (WIDTH,), Pipeline(stages=["b", "d"]), world_size=3)
    split = {layer.layer: (layer.split, layer.exchanged) for layer in table.layers}
    assert split["a"] == ("all, on rank 0", "")
    assert split["b"] == ("all, on rank 1", "images from rank 0: 3.6 kB; tanh from rank 0: 7.2 kB")  # and back
    assert split["d"] == ("all, on rank 2", "tanh from rank 1: 7.2 kB; add from rank 1: 7.2 kB")
