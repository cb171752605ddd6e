"""Ranks with parts of a net learn what one process does, or a sentence before step 1 says what takes a part for all."""

from dataclasses import dataclass

import pytest
import torch
from ranks import team
from splitting import difference, same_bits
from splitting import run as run_once
from torch import nn

from dlkit import Experiment
from dlkit.models.rbm import RBM
from dlkit.strategies import (
    DataParallel,
    Hybrid,
    ModelAveraging,
    OneWeirdTrick,
    Pipeline,
    SpatialParallel,
    TensorParallel,
)
from dlkit.strategies.spatial.spatial_parallel import SpatialShard
from dlkit.training import CD, PCD, CrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(62, 12, 12, generator=GENERATOR), torch.randint(0, 4, (62,), generator=GENERATOR)
STEPS = 5


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 4))


def convolutions():
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(96, 20), nn.Tanh(), nn.Linear(20, 4),
    )  # fmt: skip


def experiment(net=dense, learner=None, **settings):
    settings = {"batch_size": 15, "lr": 0.1, "optimizer": torch.optim.SGD} | settings
    return Experiment(net, (IMAGES, LABELS), learner or CrossEntropy(), **settings)


def run(made, strategy=None, steps=STEPS, **settings):
    if strategy is None:
        return run_once(made, steps=steps, **settings)
    return team(2).call(run_once, made, strategy, steps=steps, **settings)[0]


# Learners that read weights.


@dataclass
class Penalised(CrossEntropy):
    """penalty: of all parameters."""

    strength: float = 0.01

    def penalty(self, model):
        return sum(p.norm() for p in model.parameters())

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        loss, metrics = self.weighted_loss(model(self.own_inputs(batch, generator)), batch)
        (loss + self.strength * batch.weight * self.penalty(model)).backward()
        return metrics


class Orthogonal(Penalised):
    def penalty(self, model):
        return sum((p @ p.T - torch.eye(len(p)).to(p)).square().sum() for p in model.parameters() if p.ndim == 2)


class Largest(Penalised):
    def penalty(self, model):
        return max(p.abs().max() for p in model.parameters())


class Reports(CrossEntropy):
    """The norm of all weights, and leaves the gradient alone."""

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        norm = torch.stack([p.detach().norm() for p in model.parameters()]).norm()
        return metrics | {"norm": norm * batch.weight}


class Clips(CrossEntropy):
    """The norm of gradients, if it is large; at first it is not."""

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        return metrics


class Indexes(CrossEntropy):
    """A unit that one rank does not have."""

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        next(p for p in model.parameters() if p.ndim == 2 and len(p) > 5).grad[15] *= 2
        return metrics


class Averages(CrossEntropy):
    """A running mean of the first layer's largest weight."""

    def start(self, model, data, batch_size, generator):
        super().start(model, data, batch_size, generator)
        self.state["largest"] = torch.zeros(())

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        self.state["largest"] = self.state["largest"].lerp(next(model.parameters()).detach().sum(), 0.5)
        return metrics


SPLITS = [TensorParallel(), SpatialParallel(), Hybrid(1, 2), OneWeirdTrick()]


@pytest.mark.parametrize("learner", [Penalised(), Penalised(strength=1e-5), Largest()], ids=str)
@pytest.mark.parametrize("strategy", SPLITS, ids=str)
def test_a_learner_that_takes_parts_of_weights_for_the_whole_is_refused_and_its_mends_learn(strategy, learner):
    made = experiment(convolutions, learner)
    with pytest.raises(
        ValueError,
        match=rf"under {type(strategy).__name__} the gradient of \S+ is not what it is alone: "
        rf"{type(learner).__name__} .* takes a part of a layer for the whole, .* a weight_decay, or use DataParallel",
    ):
        run(made, strategy)
    assert difference(run(made).model, run(made, DataParallel()).model) < 2e-6
    decays = experiment(convolutions, weight_decay=0.01)
    assert difference(run(decays).model, run(decays, strategy).model) < 2e-6


@pytest.mark.parametrize(
    ("learner", "what"),
    [
        (Orthogonal(), r"a step fails on what a rank has \(RuntimeError|the gradient of \S+"),
        (Reports(), '"norm" of the first images'),
        (Clips(), r"the gradient of \S+"),
        (Averages(), r'state\["largest"\] is after a step'),
    ],
    ids=lambda case: type(case).__name__,
)
def test_each_kind_of_what_a_learner_gives_is_tried(learner, what):
    made = experiment(dense, learner)
    with pytest.raises(ValueError, match=rf"under TensorParallel ({what}).*{type(learner).__name__}"):
        run(made, TensorParallel())
    if not isinstance(learner, Clips):  # which no strategy takes that splits batches
        assert difference(run(made).model, run(made, DataParallel()).model) < 2e-6


def test_a_unit_that_a_rank_does_not_have_is_told_in_a_sentence():
    with pytest.raises(ValueError, match=r"a step fails on what a rank has \(IndexError: .*\): Indexes or a forward"):
        run(experiment(dense, Indexes()), TensorParallel())


class Keeps(CrossEntropy):
    """The model that it was started on, whose weights it pulls to 0 when the gradient is there."""

    def start(self, model, data, batch_size, generator):
        super().start(model, data, batch_size, generator)
        self.model = model

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        for parameter in self.model.parameters():
            parameter.grad += self.pull(parameter) * batch.weight
        return metrics

    def pull(self, parameter):
        return 0.1 * parameter.detach()


class KeepsNorms(Keeps):
    def pull(self, parameter):
        return 0.1 * parameter.detach() / parameter.detach().norm()


class KeptInLoss(CrossEntropy):
    """A penalty in the loss, on what was the whole net."""

    def start(self, model, data, batch_size, generator):
        super().start(model, data, batch_size, generator)
        self.model = model

    def loss(self, output, batch):
        loss, metrics = super().loss(output, batch)
        return loss + 0.1 * sum(p.square().sum() for p in self.model.parameters()), metrics


def test_what_a_learner_keeps_of_the_model_is_tried_too():
    for strategy in (DataParallel(), DataParallel(bucket=1000), TensorParallel()):
        made = experiment(dense, Keeps())
        assert difference(run(made).model, run(made, strategy).model) < 2e-6
    with pytest.raises(ValueError, match=r"under TensorParallel the gradient of .* KeepsNorms"):
        run(experiment(dense, KeepsNorms()), TensorParallel())
    made = experiment(dense, KeptInLoss())
    with pytest.raises(ValueError, match=r"under Pipeline the gradient of .* KeptInLoss"):
        run(made, Pipeline(3))
    assert difference(run(made).model, run(made, DataParallel()).model) < 2e-6


# Nets whose forward reads weights.


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = dense()

    def forward(self, x):
        return self.layers(x) * self.layers[1].weight.norm() / 3


class MaxNorm(Reads):
    """By hand; it bites when weights have grown."""

    def forward(self, x):
        return self.layers(x) * (5 / self.layers[1].weight.norm()).clamp(max=1)


class Normalised(Reads):
    def forward(self, x):
        first, last = self.layers[1], self.layers[3]
        return self.layers(x) / (first.weight.square().sum() + last.weight.square().sum()).sqrt()


class Biased(Reads):
    """A running mean of weights, in a buffer that no output depends on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        self.mean.lerp_(self.layers[1].weight.detach().mean(), 0.5)
        return self.layers(x)


@pytest.mark.parametrize("net", [Reads, MaxNorm, Biased])
def test_a_weight_that_the_forward_reads_too_stays_whole(net):
    alone, split = run(experiment(net)), run(experiment(net), TensorParallel())
    assert difference(alone.model, split.model) < 2e-6


def test_a_forward_that_reads_all_weights_leaves_nothing_to_split():
    with pytest.raises(ValueError, match="Normalised has nothing to split by neurons"):
        run(experiment(Normalised), TensorParallel())


class Forgets(SpatialParallel):
    """To sum the gradients of shared weights."""

    def shard(self, run):
        class Shard(SpatialShard):
            def reduce_grad(self, batch, generator):
                return self.learner.fill_weighted_grad(self.model, batch, generator)

        return Shard(run, self)


def test_a_strategy_that_forgets_an_exchange_is_found():
    with pytest.raises(ValueError, match=r"under Forgets the gradient of 1.weight is not what it is alone"):
        run(experiment(convolutions), Forgets())


# No false alarm, and all is put back.


class Counts(CrossEntropy):
    """Its steps, and those of its net."""

    steps = 0

    def fill_grad(self, model, batch, generator):
        self.steps += 1
        return super().fill_grad(model, batch, generator)


class Noted(nn.Module):
    """Notes its passes, in a number, a list, and a buffer."""

    def __init__(self):
        super().__init__()
        self.passes, self.sizes = 0, []
        self.register_buffer("sum", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        self.sizes.append(len(x))
        self.sum += 1
        return x


def noting():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Dropout(0.3), nn.ReLU(), nn.Linear(20, 4), Noted())


def rows(learner):
    return Experiment(lambda: RBM(144, 30), IMAGES.flatten(1).round(), learner, batch_size=15, lr=0.1)


TRIED = [
    (experiment(noting, Counts()), TensorParallel()),
    (experiment(noting, Counts()), Hybrid(1, 2)),
    (experiment(noting), Pipeline(1, "gpipe")),
    (experiment(dense), TensorParallel("dtensor")),
    (experiment(convolutions), SpatialParallel()),
    (experiment(convolutions), OneWeirdTrick()),
    (experiment(convolutions), Pipeline(3)),
    (rows(CD()), TensorParallel()),
    (rows(PCD()), Hybrid(1, 2)),
]


def with_and_without(made, strategy):
    """What a run leaves, with the trial and without: tensors, spans, what was noted."""
    import dlkit.strategies.base as base

    own, left = base.refuse_wrong_parts, []
    try:
        for refuse in (own, lambda *_: None):
            base.refuse_wrong_parts = refuse
            finished = made.run(strategy=strategy, steps=3, device="cpu", progress=False)
            noted = [m for m in finished.shard.model.modules() if type(m).__name__ == "Noted"]
            spans = [(s.kind, s.name, s.group, s.number, s.bytes_sent) for s in finished.shard.recorder.spans]
            left.append((
                finished.model, finished.learner.state, getattr(finished.learner, "steps", 0),
                finished.generator.get_state(), finished.shard.recorder.bytes_sent, sorted(spans),
                [(m.passes, m.sizes) for m in noted], finished.history.rows[-1]["loss"],
            ))  # fmt: skip
    finally:
        base.refuse_wrong_parts = own
    return left


@pytest.mark.parametrize(
    ("made", "strategy"), TRIED, ids=lambda case: str(case) if "batch_size" not in str(case) else ""
)
def test_the_trial_leaves_no_trace(made, strategy):
    for tried, untried in team(2).call(with_and_without, made, strategy):
        assert same_bits(tried[0], untried[0])
        assert all(torch.equal(tried[1][name], value) for name, value in untried[1].items())
        assert torch.equal(tried[3], untried[3])
        assert tried[2] == untried[2]
        assert tried[4:] == untried[4:]


class Single(nn.Module):
    """Computes in float32 alone."""

    def forward(self, x):
        return x.index_add(1, torch.arange(1), torch.zeros(len(x), 1, 12, 12))


def kinks():
    """Many activations near a kink, and many equal maxima."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), Single(), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Hardtanh(-0.1, 0.1),
        nn.Flatten(), nn.Linear(200, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4),
    )  # fmt: skip


def refusals(made, strategy, seeds):
    from dataclasses import replace

    return [
        replace(made, seed=seed).run(strategy=strategy, steps=1, device="cpu", progress=False).step for seed in seeds
    ]


@pytest.mark.parametrize("strategy", [TensorParallel(), SpatialParallel()], ids=str)
def test_rounding_at_kinks_is_no_reason_to_refuse(strategy):
    assert team(2).call(refusals, experiment(kinks), strategy, range(8))[0] == [1] * 8
    with pytest.raises(ValueError, match="the gradient of"):
        run(experiment(kinks, Penalised()), strategy)


def test_replicas_that_train_apart_are_not_tried():
    assert run(experiment(dense, Penalised()), ModelAveraging(2)).step == STEPS
