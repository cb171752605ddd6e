"""Callbacks that change weights: alone and by data they do what they say; of parts of weights a sentence says no."""

import random
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ranks import team
from splitting import difference, same_bits
from splitting import run as run_once
from torch import nn

from dlkit import Experiment
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, Pipeline, SpatialParallel, TensorParallel
from dlkit.training import CrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(60, 12, 12, generator=GENERATOR), torch.randint(0, 4, (60,), generator=GENERATOR)


def net():
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 20), nn.Tanh(),
        nn.Linear(20, 4),
    )  # fmt: skip


def experiment(**settings):
    settings = {"batch_size": 15, "lr": 0.1, "row_every": 2} | settings
    return Experiment(net, (IMAGES, LABELS), CrossEntropy(), **settings)


def run(made, strategy=None, ranks=2, **settings):
    if strategy is None:
        return run_once(made, steps=6, **settings)
    return team(ranks).call(run_once, made, strategy, steps=6, **settings)[0]


def clamps(run):
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.clamp_(-0.05, 0.05)


def max_norm(run):
    """Of whole tensors, by `data`, whose changes torch does not count."""
    for parameter in run.model.parameters():
        parameter.data.mul_(min(1.0, 0.5 / float(parameter.data.norm())))


def replaces(run):
    """By a tensor of its own."""
    for parameter in run.model.parameters():
        parameter.data = parameter.data * 0.9


def loads(run):
    run.model.load_state_dict({name: 0.9 * value for name, value in run.model.state_dict().items()})


PARTS = [TensorParallel(), TensorParallel("dtensor"), SpatialParallel(), Hybrid(1, 2), Pipeline(3)]
SENTENCE = (
    r"a callback has changed weights at step \d, and a rank has a part of them, .* an optimizer of your own, .* or use "
    "DataParallel"
)


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 4))


def made_for(strategy):
    """An experiment that it takes."""
    chain = strategy == TensorParallel("dtensor")
    return replace(experiment(), model=dense, optimizer=torch.optim.SGD) if chain else experiment()


CHANGES = [(strategy, change) for strategy in PARTS for change in (clamps, max_norm)]


@pytest.mark.parametrize(("strategy", "change"), [*CHANGES, (PARTS[0], replaces), (PARTS[0], loads)])
def test_a_callback_that_changes_parts_of_weights_is_refused(strategy, change):
    made = made_for(strategy)
    with pytest.raises(ValueError, match=SENTENCE):
        run(made, strategy, callbacks=[change])
    with pytest.raises(ValueError, match=SENTENCE):
        run(made, strategy, on_step=change)


def later(run):
    """Not at first."""
    if run.step > 3:
        max_norm(run)


def test_it_is_found_when_it_happens():
    for given in ({"callbacks": [later]}, {"on_step": later}):
        with pytest.raises(ValueError, match=SENTENCE):
            run(experiment(), TensorParallel(), **given)


@pytest.mark.parametrize("change", [clamps, max_norm, replaces, loads])
def test_under_data_parallel_it_does_what_it_does_alone(change):
    for given in ({"callbacks": [change]}, {"on_step": change}):
        changed = run(experiment(), **given)
        assert difference(changed.model, run(experiment(), DataParallel(), **given).model) < 2e-6
        assert difference(changed.model, run(experiment()).model) > 0.01


class Clamped(torch.optim.SGD):
    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.clamp_(-0.05, 0.05)
        return loss


class MaxNorm(Clamped):
    @torch.no_grad()
    def step(self, closure=None):
        loss = torch.optim.SGD.step(self, closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter *= (0.5 / parameter.norm()).clamp(max=1)
        return loss


@pytest.mark.parametrize("strategy", PARTS, ids=str)
def test_in_the_step_of_an_optimizer_it_is_right_or_refused(strategy):
    made = experiment(optimizer=Clamped)
    if strategy != TensorParallel("dtensor"):  # which takes no convolutions
        clamped = run(made)
        assert max(float(p.detach().abs().max()) for p in clamped.model.parameters()) < 0.0500001
        assert difference(clamped.model, run(made, strategy).model) < 2e-6
    if strategy == Pipeline(3):  # whose ranks have whole parameters
        made = experiment(optimizer=MaxNorm)
        assert difference(run(made).model, run(made, strategy).model) < 2e-6
    if strategy == TensorParallel():
        with pytest.raises(ValueError, match="MaxNorm looks at all parameters, or at whole ones"):
            run(experiment(optimizer=MaxNorm), strategy)


# Ranks that each have the whole net.


def on_rank_0(run):
    if dist.is_initialized() and dist.get_rank() == 0:
        clamps(run)


def by_a_number_of_its_own(run):
    numbers = random.Random(dist.get_rank())
    for parameter in run.model.parameters():
        parameter.data += 0.1 * numbers.random()


def by_its_rank(run):
    """A layer that it has to itself."""
    [*run.model.parameters()][2 * dist.get_rank()].data.zero_()


@pytest.mark.parametrize("change", [on_rank_0, by_a_number_of_its_own, by_its_rank])
def test_ranks_that_are_changed_apart_are_found(change):
    with pytest.raises(ValueError, match=r"at step 2, but not in the same way on all ranks.* or use ModelAveraging"):
        run(experiment(), DataParallel(), callbacks=[change])
    assert run(experiment(), ModelAveraging(2), callbacks=[change]).step == 6


def looks(run):
    return {"largest": max(float(p.detach().abs().max()) for p in run.model.parameters())}


@pytest.mark.parametrize("strategy", [TensorParallel(), Pipeline(3), DataParallel()], ids=str)
def test_a_callback_that_only_looks_changes_nothing(strategy):
    seen = run(experiment(), strategy, callbacks=[looks], on_step=looks)
    assert same_bits(seen.model, run(experiment(), strategy).model)
    assert seen.history[-1]["largest"] > 0
