"""What a net draws by torch itself is the same alone, split, and in a run that goes on."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import team
from splitting import difference, run, same_bits
from torch import nn
from torch.utils.checkpoint import checkpoint

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
from dlkit.training import CrossEntropy

STEPS = 9  # two epochs and a part of a batch at the end of each
GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(82, 12, 12, generator=GENERATOR), torch.randint(0, 4, (82,), generator=GENERATOR)


class Noise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def convolutions():
    """Draws on maps, on units, before and behind each cut."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Dropout2d(0.3),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(96, 20), Noise(), nn.RReLU(), nn.Linear(20, 4),
    )  # fmt: skip


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 2, dropout=0.5, batch_first=True)
        self.lstm = nn.LSTM(12, 8, 2, dropout=0.5, batch_first=True)
        self.output = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 4))

    def forward(self, x):
        return self.output(self.lstm(x + self.attention(x, x, x)[0])[0][:, -1])


class ThreeGenerators(nn.Module):
    """One number for all images from each of the program's generators."""

    def __init__(self):
        super().__init__()
        self.output = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))

    def forward(self, x):
        return self.output(x * torch.rand(1)) * (1 + np.random.rand()) * (1 + random.random())


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(144, 144), nn.Dropout(0.3)) for _ in range(2))
        self.output = nn.Linear(144, 4)

    def forward(self, x):
        return self.output(checkpoint(self.second, self.first(x.flatten(1)), use_reentrant=False))


SPLITS = [
    (convolutions, DataParallel()),
    (convolutions, DataParallel(reduce="ddp")),
    (convolutions, TensorParallel()),
    (convolutions, SpatialParallel()),
    (convolutions, Pipeline(2)),
    (convolutions, OneWeirdTrick()),
    (Attention, DataParallel(reduce="ring")),
    (Attention, TensorParallel()),
    (ThreeGenerators, DataParallel()),
    (ThreeGenerators, ModelAveraging(1)),
    (Recomputed, DataParallel()),
    (Recomputed, ModelAveraging(1)),
    (Recomputed, TensorParallel()),
]


def experiment(net):
    return Experiment(net, (IMAGES, LABELS), CrossEntropy(), batch_size=20, lr=0.1)


@pytest.mark.parametrize("net", [convolutions, Attention, ThreeGenerators, Recomputed], ids=lambda net: net.__name__)
def test_alone_the_same_experiment_gives_the_same_bits_and_goes_on_with_them(net, tmp_path):
    torch.manual_seed(1)
    whole = run(experiment(net), steps=STEPS)
    run(experiment(net), steps=4, checkpoint=tmp_path)
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    assert same_bits(whole.model, run(experiment(net), steps=STEPS, checkpoint=tmp_path, resume=True).model)
    assert not same_bits(whole.model, run(replace(experiment(net), seed=1), steps=STEPS).model)


@pytest.mark.parametrize(("net", "strategy"), SPLITS, ids=lambda case: getattr(case, "__name__", str(case)))
def test_split_it_draws_what_it_draws_alone(net, strategy):
    alone = run(experiment(net), steps=STEPS)
    split = team(2).call(run, experiment(net), strategy, steps=STEPS)
    assert difference(alone.model, split[0].model) < 2e-6


def test_replicas_that_are_split_draw_their_parts_both_ways():
    alone = run(experiment(convolutions), steps=STEPS)
    split = team(4).call(run, experiment(convolutions), Hybrid(2, 2), steps=STEPS)
    assert difference(alone.model, split[0].model) < 2e-6


def test_a_run_that_began_split_goes_on_alone(tmp_path):
    alone = run(experiment(convolutions), steps=STEPS)
    team(2).call(run, experiment(convolutions), DataParallel(), steps=5, checkpoint=Path(tmp_path))
    rest = run(experiment(convolutions), steps=STEPS, checkpoint=tmp_path, resume=True)
    assert difference(alone.model, rest.model) < 2e-6


class Clock(nn.Module):
    """Keeps a number that no checkpoint sees."""

    def __init__(self):
        super().__init__()
        self.output, self.calls = nn.Linear(144, 4), 0

    def forward(self, x):
        self.calls += 1
        return self.output(x.flatten(1)) * (1 + 0.1 * (self.calls % 3))


class OwnGenerator(Clock):
    def forward(self, x):
        self.draws = getattr(self, "draws", None) or np.random.default_rng(0)
        return self.output(x.flatten(1)) * self.draws.random()


class HeldGenerator(Clock):
    """Which cannot be copied."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return self.output(x.flatten(1)) * (1 + torch.rand(1, generator=self.generator))


class Poisson(Clock):
    def forward(self, x):
        return self.output(torch.poisson(x.flatten(1)))


@pytest.mark.parametrize("net", [Clock, OwnGenerator, HeldGenerator])
def test_what_does_not_follow_from_the_state_is_named_alone_and_refused_split(net):
    with pytest.warns(UserWarning, match=rf"{net.__name__} under CrossEntropy.* gave another gradient"):
        run(experiment(net), steps=1)
    with pytest.raises(ValueError, match="DataParallel cannot keep ranks in step, for the same state does not give"):
        team(2).call(run, experiment(net), DataParallel(), steps=1)


def test_a_draw_that_cannot_be_made_in_parts_is_refused_by_the_layer_s_name():
    assert run(experiment(Poisson), steps=1).step == 1
    with pytest.raises(ValueError, match=r"what Poisson draws by aten.poisson cannot be drawn for a part of a batch"):
        team(2).call(run, experiment(Poisson), DataParallel(), steps=1)


class Blocks(nn.Module):
    """A block, with draws inside, that is left out by chance: not called, or, `masked`, called and multiplied by 0."""

    def __init__(self, p_left_out, masked=False):
        super().__init__()
        self.p_left_out, self.masked = p_left_out, masked
        self.first, self.output = nn.Linear(144, 20), nn.Linear(20, 4)
        self.block = nn.Sequential(nn.Linear(20, 20), nn.Dropout(0.5))

    def forward(self, x):
        x = torch.relu(self.first(x.flatten(1)))
        kept = bool(torch.rand(1) >= self.p_left_out) if self.training else True
        if kept or self.masked:
            x = x + kept * self.block(x)
        return self.output(x)


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_a_net_that_draws_more_often_by_chance_is_refused_before_the_first_step(p):
    net = partial(Blocks, p)
    assert same_bits(run(experiment(net), steps=STEPS).model, run(experiment(net), steps=STEPS).model)
    with pytest.raises(ValueError, match="it draws more often in one pass than in another"):
        team(2).call(run, experiment(net), DataParallel(), steps=STEPS)


def test_one_that_draws_as_often_and_multiplies_by_0_is_split():
    net = partial(Blocks, 0.5, masked=True)
    alone = run(experiment(net), steps=STEPS)
    split = team(2).call(run, experiment(net), DataParallel(), steps=STEPS)
    assert difference(alone.model, split[0].model) < 2e-6


def dropping(p):
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Dropout(p), nn.Linear(20, 4))


def drops_from_the_second_epoch_on(now):
    if now.step == 5:
        next(layer for layer in now.model.modules() if isinstance(layer, nn.Dropout)).p = 0.5


class SwapsPixelsLater(nn.Module):
    """Begins to draw from numpy's generator after ten passes in training."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(144, 4)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += self.training
        x = x.flatten(1)
        return self.output(x[:, np.random.permutation(144)] if self.passes > 10 else x)


LATE = [(lambda: dropping(0), [drops_from_the_second_epoch_on], "torch", 6), (SwapsPixelsLater, [], "numpy", None)]


@pytest.mark.parametrize(("net", "callbacks", "name", "step"), LATE)
def test_draws_that_begin_late_are_named_alone_and_end_a_run_that_is_split(net, callbacks, name, step):
    said = rf"step {step or '[0-9]+'} drew from the generator of {name}, and the trial before the first step did not"
    with pytest.warns(UserWarning, match=said) as told:
        run(experiment(net), steps=30, callbacks=callbacks)
    assert sum("drew from the generator" in str(one.message) for one in told) == 1
    with pytest.raises(RuntimeError, match=f"{said}: ranks are no longer in step"):
        team(2).call(run, experiment(net), DataParallel(), steps=30, callbacks=callbacks)


def test_a_net_that_draws_from_its_first_step_on_may_draw_more_later(recwarn):
    callbacks = [drops_from_the_second_epoch_on]
    net = partial(dropping, 1e-6)
    alone = run(experiment(net), steps=STEPS, callbacks=callbacks)
    torch.manual_seed(1)
    assert same_bits(alone.model, run(experiment(net), steps=STEPS, callbacks=callbacks).model)
    split = team(2).call(run, experiment(net), DataParallel(), steps=STEPS, callbacks=callbacks)
    assert difference(alone.model, split[0].model) < 2e-6
    assert not [one for one in recwarn if "generator" in str(one.message)]
