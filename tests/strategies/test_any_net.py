"""Nets, learners, optimizers of a reader's own: split they learn what they learn alone, or a sentence says why not."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ranks import team
from splitting import difference, run
from torch import nn

from dlkit import Experiment
from dlkit.strategies import (
    DataParallel,
    Hybrid,
    ModelAveraging,
    OneWeirdTrick,
    Pipeline,
    SpatialParallel,
    TensorParallel,
)
from dlkit.strategies.optimizer_trial import works_on_parts
from dlkit.training import CrossEntropy, Reconstruction

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(62, 12, 12, generator=GENERATOR), torch.randint(0, 4, (62,), generator=GENERATOR)
ROWS = IMAGES.flatten(1)
REDUCE = [DataParallel(reduce) for reduce in ("bucketed", "naive", "ring", "ddp")]
STEPS = 8


def experiment(net, learner=None, **settings):
    """In float64, where what is left of a difference is no rounding."""
    settings = {"batch_size": 15, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "dtype": torch.float64} | settings
    return Experiment(net, (IMAGES, LABELS), learner or CrossEntropy(), **settings)


def layers(*first):
    return nn.Sequential(nn.Flatten(), *first, nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 4))


def split(made, strategy, ranks=2):
    return team(ranks).call(run, made, strategy, steps=STEPS)


# Ranks start alike.


class NumpysWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.from_numpy(np.random.randn(144, 4) * random.random()))

    def forward(self, x):
        return x.flatten(1) @ self.W


def test_weights_from_numpy_and_from_random_are_the_seed_s():
    alone = run(experiment(NumpysWeights), steps=STEPS)
    assert difference(alone.model, run(experiment(NumpysWeights), steps=STEPS).model) == 0
    assert difference(alone.model, split(experiment(NumpysWeights), DataParallel())[0].model) < 1e-12
    assert difference(alone.model, run(experiment(NumpysWeights, seed=1), steps=STEPS).model) > 0.1


def apart():
    """Other weights, in another order of layers, on each rank."""
    import os

    names = ["left", "right", "up"]
    if os.getpid() % 2:
        names.reverse()

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({name: nn.Linear(144, 4) for name in names})
            with torch.no_grad():
                self.parts["up"].bias += os.getpid()

        def forward(self, x):
            return sum(k * self.parts[name](x.flatten(1)) for k, name in enumerate(("left", "right", "up"), 1)) / 10

    return Sum()


@pytest.mark.parametrize("strategy", [*REDUCE, ModelAveraging(1)], ids=str)
def test_all_ranks_start_from_rank_0_s_model_by_name(strategy):
    def ends(made, strategy):
        finished = made.run(strategy=strategy, steps=3, device="cpu", progress=False)
        return made.initial_model().state_dict(), finished.model.state_dict()

    starts, models = zip(*team(2).call(ends, experiment(apart), strategy), strict=True)
    assert not torch.equal(starts[0]["parts.up.bias"], starts[1]["parts.up.bias"])
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    kept = models[0]["parts.up.bias"] - starts[0]["parts.up.bias"]
    assert kept.abs().max() < 1


def test_ranks_that_make_other_models_are_refused():
    with pytest.raises(ValueError, match=r"ranks 0 and 1 have made other models, 1.bias is .* make the same layers"):
        team(2).call(make_apart)


def make_apart():
    """Rank 1's net has one layer more."""
    import torch.distributed as dist

    net = (lambda: layers()) if dist.get_rank() == 0 else (lambda: layers(nn.Linear(144, 144)))
    return run(experiment(net), DataParallel(), steps=1)


# What is exchanged is the same on all ranks.


class Branches(nn.Module):
    """An image goes through one of two branches, of another size each; a third is never used."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(144, 4), nn.Sequential(nn.Linear(144, 30), nn.Linear(30, 4))
        self.never = nn.Linear(3, 3)

    def forward(self, x):
        return torch.cat([(self.small if image[0] > 0.6 else self.large)(image[None]) for image in x.flatten(1)])


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("strategy", REDUCE, ids=lambda strategy: strategy.reduce)
def test_branches_that_only_some_images_take(strategy, size):
    made = experiment(Branches, batch_size=size)
    assert difference(run(made, steps=STEPS).model, split(made, strategy)[0].model) < 1e-12


# More than one backward pass, or a gradient that changes after it.


class Accumulated(CrossEntropy):
    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        total = 0
        for images, labels in zip(batch.images.chunk(2), batch.labels.chunk(2), strict=True):
            loss = F.cross_entropy(model(images), labels, reduction="sum") / len(batch) * batch.weight
            loss.backward()
            total = total + loss.detach()
        return {"loss": total}


class Doubled(CrossEntropy):
    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        for parameter in model.parameters():
            parameter.grad *= 2
        return metrics


@pytest.mark.parametrize("learner", [Accumulated(), Doubled()], ids=lambda learner: type(learner).__name__)
@pytest.mark.parametrize("strategy", REDUCE, ids=lambda strategy: strategy.reduce)
def test_gradients_are_sent_when_they_are_final(learner, strategy):
    made = experiment(layers, learner)
    if strategy.reduce == "ddp":
        with pytest.raises(ValueError, match=r'runs more than one backward pass, .* reduce="bucketed" sends them'):
            split(made, strategy)
        strategy = DataParallel("bucketed")
    strategy = replace(strategy, bucket=1000)  # several buckets
    assert difference(run(made, steps=STEPS).model, split(made, strategy)[0].model) < 1e-12


def test_a_second_pass_that_no_trial_saw_fails_loudly():
    class Sometimes(CrossEntropy):
        def fill_grad(self, model, batch, generator):
            metrics = super().fill_grad(model, batch, generator)
            if len(batch) > 5:
                (0 * model(batch.images).sum()).backward()
            return metrics

    with pytest.raises(RuntimeError, match=r'more backward passes than in a trial .* DataParallel\(reduce="naive"\)'):
        split(experiment(layers, Sometimes()), DataParallel(bucket=1000))
    made = experiment(layers, Sometimes())
    assert difference(run(made, steps=STEPS).model, split(made, DataParallel("naive"))[0].model) < 1e-12


# An answer that depends on the other images of a batch.


class Through(nn.Module):
    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.parts)


class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(12, 12))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.mean.detach().clone() * 0  # it shows in the buffer alone


def pairs(x):
    rows = x.flatten(1)
    whole = rows[: len(rows) // 2 * 2].view(-1, 2, 144)
    return torch.cat([(whole - whole.mean(1, keepdim=True)).flatten(0, 1), rows[len(whole) * 2 :]])


def behind(layer):
    return lambda: nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(10), nn.Tanh(), nn.Linear(10, 4))


MIXES = {
    "LSTM along the batch": behind(lambda: Through(lambda x, lstm: lstm(x)[0], nn.LSTM(12, 8))),
    "attention over the batch": behind(lambda: Through(lambda x, m: m(x, x, x)[0], nn.MultiheadAttention(12, 2))),
    "Softmax over the batch": behind(lambda: nn.Softmax(0)),
    "centring": behind(lambda: Through(lambda x: x - x.mean(0))),
    "pairs": behind(lambda: Through(pairs)),
    "the batch's norm": behind(lambda: Through(lambda x: x / x.norm())),
    "a running mean": behind(RunningMean),
    "InstanceNorm with running statistics": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True),
        nn.Flatten(), nn.Linear(300, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXES)
def test_images_that_depend_on_each_other_are_found(name):
    made = experiment(MIXES[name])
    assert run(made, steps=2).step == 2
    what = "the buffer" if "running" in name else "the gradient"
    for strategy in (DataParallel(), Pipeline(3)):
        with pytest.raises(ValueError, match=rf"under {type(strategy).__name__} a rank learns from .* {what}"):
            split(made, strategy)


def spectral():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(144, 20)), nn.Linear(20, 4))


def weight_norm():
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(144, 20)), nn.Linear(20, 4))


def test_a_layer_that_iterates_once_a_pass_is_right_by_data_and_refused_by_microbatches():
    def state(net, strategy):  # such nets cannot be pickled
        return run(experiment(net), strategy, steps=STEPS).model.state_dict()

    for net, strategy in ((spectral, DataParallel()), (weight_norm, Pipeline(3))):
        alone = state(net, None)
        found = team(2).call(state, net, strategy)[0]
        assert max(float((alone[name] - found[name]).abs().max()) for name in alone) < 1e-12
    with pytest.raises(ValueError, match="under Pipeline a rank learns from a part of each batch"):
        team(2).call(state, spectral, Pipeline(3))


class ClipsSeldom(CrossEntropy):
    """Which the first gradients are not."""

    def fill_grad(self, model, batch, generator):
        metrics = super().fill_grad(model, batch, generator)
        nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        return metrics


class KeepsAMean(CrossEntropy):
    """Of the batch's outputs, from which later ones are told apart."""

    def start(self, model, data, batch_size, generator):
        super().start(model, data, batch_size, generator)
        self.state["mean"] = torch.zeros(4, dtype=data.images.dtype)

    def loss(self, output, batch):
        loss, metrics = super().loss(output - self.state["mean"], batch)
        self.state["mean"] = 0.5 * (self.state["mean"].to(output) + output.detach().mean(0))
        return loss, metrics


@pytest.mark.parametrize(("learner", "what"), [(ClipsSeldom, "the gradient"), (KeepsAMean, r'state\["mean"\]')])
def test_what_shows_in_later_steps_alone_is_found_before_the_first(learner, what):
    assert run(experiment(layers, learner()), steps=2).step == 2
    with pytest.raises(ValueError, match=rf"under DataParallel a rank learns from a part of each batch, and {what}"):
        split(experiment(layers, learner()), DataParallel())


def hooked():
    net = layers()
    net[1].weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    return net


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel()], ids=str)
def test_a_hook_on_a_gradient_is_refused(strategy):
    assert run(experiment(hooked), steps=2).step == 2
    with pytest.raises(ValueError, match=r"1.weight has a hook on its gradient, which .* makes of parts"):
        split(experiment(hooked), strategy)


def halved():
    net = layers()
    net[3].register_full_backward_pre_hook(lambda module, gradients: tuple(0.5 * gradient for gradient in gradients))
    return net


def test_a_module_with_a_backward_hook_is_not_split():
    alone = run(experiment(halved), steps=STEPS)
    assert difference(alone.model, split(experiment(halved), TensorParallel())[0].model) < 1e-12


def frozen_statistics():
    net = layers(nn.BatchNorm1d(144))
    net[1].eval().requires_grad_(False)
    return net


def test_batch_normalisation_that_is_not_training_is_like_any_layer():
    alone = run(experiment(frozen_statistics), steps=STEPS)
    assert difference(alone.model, split(experiment(frozen_statistics), DataParallel())[0].model) < 1e-12


class NoisyLabels(CrossEntropy):
    def loss(self, output, batch):
        batch.labels[batch.labels == 3] = 2
        return super().loss(output, batch)


def test_labels_changed_in_place_are_this_step_s_alone():
    made = experiment(layers, NoisyLabels())
    before = LABELS.clone()
    assert difference(run(made, steps=STEPS).model, split(made, DataParallel())[0].model) < 1e-12
    assert torch.equal(LABELS, before)


# Optimizers.


class ClipsNorm(torch.optim.SGD):
    def step(self, closure=None):
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 0.1)
        return super().step(closure)


class ClipsLargeNorms(torch.optim.SGD):
    """Which gradients of the usual size never have."""

    def step(self, closure=None):
        nn.utils.clip_grad_norm_([p for group in self.param_groups for p in group["params"]], 1e3)
        return super().step(closure)


class ClipsValues(torch.optim.SGD):
    def step(self, closure=None):
        nn.utils.clip_grad_value_([p for group in self.param_groups for p in group["params"]], 0.1)
        return super().step(closure)


class TrustRatio(torch.optim.SGD):
    """As LARS and LAMB, by each parameter."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad *= p.norm() / (p.grad.norm() + 1e-6)
        return super().step(closure)


class Centralizes(torch.optim.SGD):
    """Each row's mean: harmless by rows, not by columns."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim > 1:
                    p.grad -= p.grad.mean(1, keepdim=True)
        return super().step(closure)


class Noisy(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad += 0.01 * torch.randn_like(p)
        return super().step(closure)


class Sharpness(torch.optim.SGD):
    """Asks for the gradient again, at weights a little further up, as sharpness-aware minimisation does."""

    def moves(self, parameters):
        return [0.05 * p.grad.sign() for p in parameters]

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        moves = self.moves(parameters)
        for p, move in zip(parameters, moves, strict=True):
            p += move
        with torch.enable_grad():
            closure()
        for p, move in zip(parameters, moves, strict=True):
            p -= move
        return super().step()


class SharpnessByNorm(Sharpness):
    def moves(self, parameters):
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        return [0.05 * p.grad / norm for p in parameters]


class ClipsLate(ClipsNorm):
    """Clips from the sixth step on."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure) if self.steps > 5 else torch.optim.SGD.step(self, closure)


class TrustsLate(TrustRatio):
    """By the norm of each parameter from the ninth step on."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure) if self.steps > 8 else torch.optim.SGD.step(self, closure)


OPTIMIZERS = {  # which may have parts of parameters, and some of them whole
    "SGD": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1), True, True),
    **{
        kind.__name__: (lambda p, kind=kind: kind(p, 0.1), True, True)
        for kind in (
            torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta,
            torch.optim.NAdam, torch.optim.RAdam, torch.optim.Rprop, torch.optim.Adamax, torch.optim.ASGD,
        )
    },
    "fused Adam": (lambda p: torch.optim.Adam(p, 0.1, fused=True), True, True),
    "clipped values": (lambda p: ClipsValues(p, 0.1), True, True),
    "Adafactor": (lambda p: torch.optim.Adafactor(p, 0.1), False, True),
    "Muon": (lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], 0.1), False, True),
    "trust ratio": (lambda p: TrustRatio(p, 0.1), False, True),
    "centralized": (lambda p: Centralizes(p, 0.1), False, True),
    "LBFGS": (lambda p: torch.optim.LBFGS(p, 0.1), False, False),
    "clipped norm": (lambda p: ClipsNorm(p, 0.1), False, False),
    "norm clipped where it is large": (lambda p: ClipsLargeNorms(p, 0.1), False, False),
    "clipped norm, later": (lambda p: ClipsLate(p, 0.1), False, False),
    "trust ratio, later": (lambda p: TrustsLate(p, 0.1), False, True),
    "noisy": (lambda p: Noisy(p, 0.1), False, False),
    "sharpness, by sign": (lambda p: Sharpness(p, 0.1), True, True),
    "sharpness, by norm": (lambda p: SharpnessByNorm(p, 0.1), False, False),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_judged_by_its_steps(name):
    make, parts, some = OPTIMIZERS[name]
    assert works_on_parts(make) == parts
    assert works_on_parts(make, whole_parameters=True) == some


@pytest.mark.parametrize("optimizer", [ClipsNorm, Noisy, Sharpness])
def test_optimizers_of_one_s_own_step_split_as_alone_or_are_refused(optimizer):
    made = experiment(layers, optimizer=optimizer)
    alone = run(made, steps=STEPS)
    assert difference(alone.model, split(made, DataParallel())[0].model) < 1e-12
    for strategy in (TensorParallel(), Pipeline(3)):
        if optimizer is Sharpness:
            assert difference(alone.model, split(made, strategy)[0].model) < 1e-12
            continue
        with pytest.raises(
            ValueError, match=f"{optimizer.__name__} looks at all parameters, or at whole ones, at once"
        ):
            split(made, strategy)


def test_a_norm_is_clipped_in_the_step_that_it_is_of():
    """By hand; the gradient is there when `step` begins."""
    made = experiment(layers, optimizer=ClipsNorm, momentum=0.0, weight_decay=0.0, batch_size=62)
    net = made.initial_model()
    F.cross_entropy(net(IMAGES.double()), LABELS).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.1 * parameter.grad
    assert difference(net, run(made, steps=1).model) < 1e-12


# Passes with side effects.


@pytest.mark.parametrize("first", [nn.ReLU, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SiLU])
@pytest.mark.parametrize("strategy", [None, DataParallel(), Pipeline(3)], ids=str)
def test_a_net_may_work_in_place_on_the_images_that_it_is_to_reconstruct(first, strategy):
    def autoencoder(inplace):
        return lambda: nn.Sequential(first(inplace=inplace), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 144))

    images = 2 * ROWS - 1
    given = images.clone()
    made = [
        Experiment(autoencoder(inplace), given, Reconstruction(cost="squared"), batch_size=15, lr=0.005)
        for inplace in (False, True)
    ]
    apart, in_place = (run(e, steps=STEPS) if strategy is None else split(e, strategy)[0] for e in made)
    assert difference(apart.model, in_place.model) == 0
    assert torch.equal(given, images)


# How equal is equal: float64 within 1e-10 and 1e-8, float32 within ten times what another order of the rows does.


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )

    def forward(self, x):
        return torch.relu(x + self.inside(x))


def residual():
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.ReLU(), Residual(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(100, 20), nn.Tanh(), nn.Linear(20, 4),
    )  # fmt: skip


def vector(model):
    return torch.cat([parameter.detach().flatten().double() for parameter in model.parameters()])


def gradient(finished):
    return torch.cat([p.grad.flatten().double() for p in finished.model.parameters()])


class Permuted(CrossEntropy):
    """The rows of each batch in another order, which changes rounding alone."""

    def fill_grad(self, model, batch, generator):
        order = torch.arange(len(batch) - 1, -1, -1)
        return super().fill_grad(model, type(batch)(batch.images[order], batch.labels[order]), generator)


EQUAL = [DataParallel(), DataParallel("ring"), TensorParallel(), SpatialParallel(), Pipeline(3), OneWeirdTrick()]
EQUAL += [Hybrid(1, 2)]


@pytest.mark.parametrize("strategy", EQUAL, ids=str)
def test_split_is_alone_but_for_rounding(strategy):
    for dtype, of_gradient in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        made = experiment(residual, dtype=dtype, momentum=0.0, weight_decay=0.0)
        start = vector(made.initial_model())
        one, split_one = run(made, steps=1), team(2).call(run, made, strategy, steps=1)[0]
        moved, split_moved = vector(one.model) - start, vector(split_one.model) - start  # lr times the gradient
        assert (moved - split_moved).norm() / moved.norm() < of_gradient
        made = replace(made, momentum=0.9)
        alone = vector(run(made, steps=20).model)
        apart = vector(team(2).call(run, made, strategy, steps=20)[0].model)
        bound = 1e-8
        if dtype == torch.float32:
            bound = 10 * (vector(run(replace(made, learner=Permuted()), steps=20).model) - alone).norm() / alone.norm()
        assert (apart - alone).norm() / alone.norm() < bound


def test_model_averaging_is_a_sequential_one():
    """Two replicas trained by turns in one process, each on its part of the batches, averaged every third step."""
    made = experiment(layers, momentum=0.0, weight_decay=0.0, batch_size=16)
    replicas = [made.initial_model() for _ in range(2)]
    for step in range(STEPS):
        epoch, position = divmod(step, 4)
        order = torch.randperm(62, generator=torch.Generator().manual_seed(epoch))
        picked = order[position * 16 :][:16]
        for replica, part in zip(replicas, picked.tensor_split(2), strict=True):
            replica.zero_grad()
            F.cross_entropy(replica(IMAGES[part].double()), LABELS[part]).backward()
            with torch.no_grad():
                for parameter in replica.parameters():
                    parameter -= 0.1 * parameter.grad
        if (step + 1) % 3 == 0 or step + 1 == STEPS:  # at the end the replicas' mean comes back
            with torch.no_grad():
                for one, other in zip(*(replica.parameters() for replica in replicas), strict=True):
                    one.copy_((one + other) / 2)
                    other.copy_(one)
    assert difference(replicas[0], split(made, ModelAveraging(3))[0].model) < 1e-12
