"""Shards of parameters, gradients and the optimizer's state: the answer of one process, and the memory a cost says."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from ranks import team
from splitting import run
from test_statistics import IMAGES, apart, behind, dense, experiment, net
from torch import nn

from dlkit import Experiment
from dlkit.models.rbm import RBM
from dlkit.strategies import DataParallel, cost
from dlkit.strategies.data.units import candidates
from dlkit.training import CD, CrossEntropy

STEPS = 20
SHARDS = [DataParallel(shard=shard) for shard in ("optimizer", "all")]
ADAM = {"optimizer": torch.optim.Adam, "momentum": None, "lr": 0.01, "weight_decay": 0.01}


def split(made, strategy, ranks=2, steps=STEPS, **settings):
    return team(ranks).call(run, made, strategy, steps=steps, **settings)


class Blocks(nn.Module):
    """Blocks in a list, with skips, an activation in place, a Linear of fewer rows than ranks, and a number."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(144, 16)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.ReLU(inplace=True)) for _ in range(2))
        self.narrow, self.wide = nn.Linear(16, 1), nn.Linear(1, 16, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + self.scale * block(x)
        return self.last(x + self.wide(self.narrow(x).tanh()))


class UsedElsewhere(nn.Module):
    """The second layer is not called: its weight is used by the net's own forward; the third is called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third, self.last = (
            nn.Linear(n, m) for n, m in ((144, 20), (20, 20), (20, 20), (20, 4))
        )

    def forward(self, x):
        x = self.first(x.flatten(1)).tanh()
        x = self.third(F.linear(x, self.second.weight, self.second.bias).tanh()).tanh()
        return self.last(self.third(x) + x @ self.first.weight[:, :20].T)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.code, self.decode, self.last = (
            nn.Linear(n, m) for n, m in ((144, 30), (30, 20), (20, 30), (30, 4))
        )
        self.code.weight = nn.Parameter(self.code.weight.detach())
        self.decode.weight = nn.Parameter(torch.empty(0))
        self.decode.weight = self.below.weight
        self.decode = nn.Linear(144, 30, bias=False)
        self.decode.weight = self.below.weight

    def forward(self, x):
        x = x.flatten(1)
        return self.last(self.below(x).tanh() + self.decode(x.square()))


class Frozen(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 4))
        self[1].requires_grad_(False)
        self[3].bias.requires_grad_(False)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 2, 24, dropout=0.1, batch_first=True), 2)
        self.last = nn.Linear(144, 4)

    def forward(self, x):
        return self.last(self.encoder(x).flatten(1))


def parametrized():
    made = behind()()
    nn.utils.parametrizations.weight_norm(made[1])
    nn.utils.parametrizations.spectral_norm(made[3])
    return made


NETS = {
    "dense": dense,
    "norms and dropout": net,
    "blocks": Blocks,
    "used elsewhere": UsedElsewhere,
    "tied": Tied,
    "frozen": Frozen,
    "LSTM": Recurrent,
    "attention": Attention,
    "weight and spectral norm": parametrized,
}


CASES = [*((name, SHARDS[1]) for name in NETS), ("norms and dropout", SHARDS[0]), ("blocks", SHARDS[0])]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_shards_learn_what_one_process_learns(name, strategy):
    def ends(strategy=None):
        """Parameters and buffers: a net that is parametrized is not sent."""
        found = run(experiment(NETS[name], lr=0.05), strategy, steps=steps)
        return found.model.state_dict(), found.history[-1]["loss"]

    steps = STEPS if name == "norms and dropout" else 8
    alone, loss = ends()
    for found, other_loss in team(2).call(ends, strategy):
        assert other_loss == pytest.approx(loss, rel=1e-8)
        a, b = (torch.cat([x.double().flatten() for x in state.values()]) for state in (alone, found))
        assert (a - b).norm() < 1e-8 * a.norm()


@pytest.mark.parametrize("strategy", SHARDS, ids=str)
def test_rows_that_do_not_divide_over_three_ranks_by_adam(strategy):
    made = experiment(Blocks, **ADAM)
    assert apart(run(made, steps=STEPS).model, split(made, strategy, ranks=3)[0].model) < 1e-8


@dataclass
class Penalised(CrossEntropy):
    """A norm of the weights, which are still whole behind the forward pass."""

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        loss, metrics = self.weighted_loss(model(self.own_inputs(batch, generator)), batch)
        (loss + 0.01 * batch.weight * sum(p.norm() for p in model.parameters())).backward()
        return metrics


@pytest.mark.parametrize("strategy", SHARDS, ids=str)
def test_a_penalty_on_whole_weights_is_the_whole_s(strategy):
    made = experiment(dense, Penalised())
    assert apart(run(made, steps=8).model, split(made, strategy, steps=8)[0].model) < 1e-10


@pytest.mark.parametrize("strategy", SHARDS, ids=str)
def test_the_first_gradient_is_the_whole_batch_s(strategy):
    made = experiment(Blocks, lr=1.0, momentum=None, optimizer=torch.optim.SGD)
    start, alone = made.initial_model(), run(made, steps=1)
    found = split(made, strategy, steps=1)[0]
    for name, p in alone.model.named_parameters():
        gradient = dict(start.named_parameters())[name] - p
        other = dict(start.named_parameters())[name] - dict(found.model.named_parameters())[name]
        assert (gradient - other).norm() <= 1e-10 * gradient.norm()


@pytest.mark.parametrize(
    ("settings", "ways"),
    [({}, (SHARDS[1], DataParallel())), (ADAM, (SHARDS[1], None)), (ADAM, (None, SHARDS[0]))],
    ids=["SGD, to replicas", "Adam, to one process", "Adam, from one process"],
)
def test_a_checkpoint_is_the_whole_s(settings, ways, tmp_path):
    made = experiment(Blocks, **settings)
    alone = run(made, steps=STEPS)
    for strategy, steps in zip(ways, (7, STEPS), strict=True):
        where = {"steps": steps, "checkpoint": str(tmp_path), "resume": steps == STEPS}
        found = run(made, **where) if strategy is None else split(made, strategy, **where)[0]
    assert apart(alone.model, found.model) < 1e-10


@pytest.mark.parametrize("strategy", SHARDS, ids=str)
def test_callbacks_may_look_at_the_net(strategy):
    def seen():
        losses = []

        def look(run):
            with torch.no_grad():
                losses.append(float(run.model.eval()(IMAGES.double()).square().sum()))
            run.model.train()

        found = experiment(Blocks, row_every=2).run(
            strategy=strategy, steps=4, device="cpu", progress=False, callbacks=[look]
        )
        return losses, found.model

    alone = run(experiment(Blocks), steps=4).model
    for losses, model in team(2).call(seen):
        assert apart(alone, model) < 1e-10
        assert losses[-1] == pytest.approx(float(alone.eval()(IMAGES.double()).square().sum()), rel=1e-8)


def held(strategy, make, settings):
    """Bytes of parameters, gradients and optimizer state that a rank holds after a step, and those that it sends."""
    sent = []
    made = experiment(make, dtype=torch.float32, batch_size=16, **settings)
    finished = made.run(
        strategy=strategy,
        steps=3,
        device="cpu",
        progress=False,
        on_step=lambda run: sent.append(run.shard.recorder.bytes_sent),
    )
    shard = finished.shard.model
    local = [getattr(p, "_local_tensor", p) for p in shard.parameters()]
    gradients = [getattr(p.grad, "_local_tensor", p.grad) for p in shard.parameters() if p.grad is not None]
    states = [x for state in finished.optimizer.state.values() for x in state.values() if x.ndim]
    states = [getattr(x, "_local_tensor", x) for x in states]
    return sum(x.nbytes for x in [*local, *gradients, *states]), sent[-1] - sent[-2]


def chain():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, 21), nn.BatchNorm1d(21), nn.Tanh(), nn.Linear(21, 1, bias=False),
        nn.Linear(1, 30), nn.ReLU(), nn.Linear(30, 4),
    )  # fmt: skip


@pytest.mark.parametrize("strategy", SHARDS, ids=str)
@pytest.mark.parametrize("settings", [ADAM, {"momentum": 0.9}], ids=["Adam", "momentum"])
def test_a_rank_holds_and_sends_what_its_cost_says(strategy, settings):
    paper = cost(chain(), (12, 12), 16, 2, strategy)
    values = 2 if settings is ADAM else 1
    for rank, (kept, sent) in enumerate(team(2).call(held, strategy, chain, settings)):
        assert kept == paper.memory_bytes(rank, values)
        assert 0 <= sent - paper.bytes_sent(rank) <= 3 * 2 * 4 + 2 * len(paper.layers[rank])
    whole = cost(chain(), (12, 12), 16, 2, DataParallel())
    assert paper.memory_bytes(0, values) < 0.56 * whole.memory_bytes(0, values)


def test_shards_of_all_are_gathered_again_for_the_backward_pass():
    once, twice, never = (cost(chain(), (12, 12), 16, 2, s).bytes_sent(0) for s in (*SHARDS, DataParallel()))
    assert once == pytest.approx(never, rel=0.06)  # rows are padded
    assert once < twice < 1.6 * once


def test_units_are_blocks_and_not_the_lists_they_are_in():
    assert list(candidates(Blocks())) == ["first", "blocks.0.0", "blocks.1.0", "last"]
    assert list(candidates(Tied())) == ["code", "last"]


# What is refused


class InParts(CrossEntropy):
    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        output = self.own_inputs(batch, generator)
        for layer in model:
            output = layer(output)
        loss, metrics = self.weighted_loss(output, batch)
        loss.backward()
        return metrics


class Clipping(torch.optim.SGD):
    def step(self, closure=None):
        torch.nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 0.01)
        return super().step(closure)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(144, 4), nn.Linear(144, 4)

    def forward(self, x):
        x = x.flatten(1)
        bright = x[:, 0] > 0.5
        output = x.new_zeros(len(x), 4)
        for rows, layer in ((bright, self.left), (~bright, self.right)):
            if rows.any():
                output[rows] = layer(x[rows])
        return output


REFUSED = {
    "parts": (experiment(dense, InParts()), "InParts does not call the net, for which shards are gathered, but parts"),
    "clipping": (
        experiment(dense, optimizer=Clipping, momentum=None),
        r"Clipping looks at all parameters, .* under .*shard=",
    ),
    "branches": (experiment(Branches), "some images leave parameters of the net unused that others use"),
    "CD": (
        Experiment(partial(RBM, 144, 20), IMAGES.flatten(1), CD(), batch_size=15),
        "CD has no backward pass, in which shards are gathered: leave out shard=",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sharded_is_refused_with_the_mend(name):
    made, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        split(made, SHARDS[1])


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match='shard="some": it is one of optimizer, all'):
        DataParallel(shard="some")
    with pytest.raises(ValueError, match='shard="all" has an exchange of its own: leave out reduce='):
        DataParallel("naive", shard="all")
    assert replace(SHARDS[0]) == SHARDS[0] != SHARDS[1]
