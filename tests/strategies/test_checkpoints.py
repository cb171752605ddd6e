"""Checkpoints of split runs: all that optimizers and learners keep; and one that cannot be written, as all are told."""

import resource
from functools import partial

import pytest
import torch
from ranks import team
from splitting import TeachesFromState, difference, digits, experiments, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.strategies import DataParallel, ModelAveraging, Pipeline, SpatialParallel, TensorParallel
from dlkit.training import CrossEntropy


def run_on_a_full_disk(*arguments, **settings):
    """As if the disk were full for whichever rank writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        return run(*arguments, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel(), SpatialParallel(), Pipeline(2)], ids=str)
def test_all_ranks_are_told_of_a_full_disk_and_go_on_from_the_checkpoint_before(strategy, tmp_path):
    experiment, ranks = experiments()["LeNet-5"], team(2)
    ranks.call(run, experiment, strategy, steps=2, checkpoint=tmp_path)
    with pytest.raises(
        OSError, match=r"\(File too large\): .*; the checkpoint of step 2 is still there, to go on from"
    ):
        ranks.call(run_on_a_full_disk, experiment, strategy, steps=4, checkpoint=tmp_path, resume=True)
    assert ranks.alive()  # they failed in step: none had to be started again
    alone = run(experiment, steps=4)
    for split in ranks.call(run, experiment, strategy, steps=4, checkpoint=tmp_path, resume=True):
        assert difference(alone.model, split.model) < 1e-5


class Adapts(torch.optim.SGD):
    """Keeps numbers and tensors in its parameter groups, and lists of tensors in its state."""

    def __init__(self, groups, lr):
        super().__init__(groups, lr)
        for group in self.param_groups:
            group |= {"pace": torch.tensor(1.0, dtype=torch.float64), "betas": (0.9, 0.5)}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["pace"] *= 0.9
            group["betas"] = tuple(0.9 * beta for beta in group["betas"])
            rate = group["lr"] * float(group["pace"]) * (1 + sum(group["betas"])) / group["steps"]
            for p in group["params"]:
                state = self.state[p]
                state["last"] = [*state.get("last", []), p.grad.clone()][-3:]
                p -= rate * sum(state["last"])


def small(optimizer, learner):
    def net():
        layers = nn.Linear(784, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 10)
        return nn.Sequential(nn.Flatten(), *layers)

    return Experiment(net, digits(250), learner, lr=0.02, momentum=None, optimizer=optimizer)


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel(), Pipeline(2)], ids=str)
def test_what_an_optimizer_keeps_in_groups_and_lists_goes_on_split_and_alone(strategy, tmp_path):
    experiment, ranks = small(Adapts, CrossEntropy()), team(2)
    alone = run(experiment, steps=5).model
    ranks.call(run, experiment, strategy, steps=3, checkpoint=tmp_path)
    assert difference(alone, run(experiment, steps=5, checkpoint=tmp_path, resume=True).model) < 1e-5
    ranks.call(run, experiment, strategy, steps=3, checkpoint=tmp_path)
    (split, _) = ranks.call(run, experiment, strategy, steps=5, checkpoint=tmp_path, resume=True)
    assert difference(alone, split.model) < 1e-5


APART = {
    "vectors and numbers": (partial(torch.optim.LBFGS, max_iter=3), CrossEntropy()),
    "rows and columns": (torch.optim.Adafactor, CrossEntropy()),
    "a state of the learner": (torch.optim.SGD, TeachesFromState()),
}


@pytest.mark.parametrize("name", APART)
def test_under_model_averaging_each_rank_goes_on_with_what_it_had(name, tmp_path):
    experiment, strategy, ranks = small(*APART[name]), ModelAveraging(every=4), team(2)
    (whole, _) = ranks.call(run, experiment, strategy, steps=6)
    ranks.call(run, experiment, strategy, steps=3, checkpoint=tmp_path)
    (parts, _) = ranks.call(run, experiment, strategy, steps=6, checkpoint=tmp_path, resume=True)
    assert same_bits(whole.model, parts.model)


class Counts(torch.optim.SGD):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            group["lr"] /= self.steps
        super().step(closure)


def test_what_a_checkpoint_would_not_keep_is_refused_on_all_ranks_before_they_meet(tmp_path):
    experiment, ranks = small(Counts, CrossEntropy()), team(2)
    with pytest.raises(ValueError, match=r"^a checkpoint would not keep `steps` of Counts"):
        ranks.call(run, experiment, DataParallel(), steps=2, checkpoint=tmp_path)
    assert ranks.alive()
    assert ranks.call(run, experiment, DataParallel(), steps=2)[0].step == 2
