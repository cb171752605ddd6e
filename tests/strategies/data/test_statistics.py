"""Nets with BatchNorm under a split by data: what one process learns, its running averages too, or a sentence."""

import copy
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from ranks import team
from splitting import run
from torch import nn
from torch.utils.checkpoint import checkpoint

from dlkit import Experiment
from dlkit.strategies import DataParallel, Hybrid, OneWeirdTrick, Pipeline, cost
from dlkit.training import CrossEntropy, Learner, Reconstruction

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(62, 12, 12, generator=GENERATOR), torch.randint(0, 4, (62,), generator=GENERATOR)
STEPS = 8


def net(momentum=0.1, affine=True, track=True):
    norm = partial(nn.BatchNorm2d, momentum=momentum, affine=affine, track_running_stats=track)
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3), norm(6),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Dropout(0.3),
        nn.Linear(20, 4),
    )  # fmt: skip


def dense():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 4))


def experiment(make=net, learner=None, **settings):
    settings = {"batch_size": 15, "lr": 0.1, "momentum": 0.9, "dtype": torch.float64} | settings
    return Experiment(make, (IMAGES, LABELS), learner or CrossEntropy(), **settings)


def apart(model, other):
    """How far two models' parameters and buffers are from each other, each as one vector, relative to the first."""
    kinds = [[list(m.parameters()), list(m.buffers())] for m in (model, other)]
    vectors = [[torch.cat([t.detach().double().flatten() for t in kind]) for kind in pair if kind] for pair in kinds]
    return max(float((a - b).norm() / a.norm()) for a, b in zip(*vectors, strict=True))


def split(made, strategy, ranks=2, steps=STEPS, **settings):
    return team(ranks).call(run, made, strategy, steps=steps, **settings)


@pytest.mark.parametrize("strategy", [*map(DataParallel, ("bucketed", "naive", "ring", "ddp")), DataParallel(bucket=1)])
def test_a_split_run_gives_what_one_process_gives_with_running_averages(strategy):
    alone = run(experiment(), steps=STEPS)
    for found in split(experiment(), strategy):
        assert apart(alone.model, found.model) < 1e-10
        assert found.history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=1e-10)


@pytest.mark.parametrize("make", [partial(net, None), partial(net, 0.3, False, False)], ids=["momentum None", "bare"])
def test_averages_of_all_steps_and_none_on_parts_that_do_not_divide(make):
    alone = run(experiment(make), steps=STEPS)
    assert apart(alone.model, split(experiment(make), DataParallel(), ranks=3)[0].model) < 1e-10


def test_a_rank_without_images_does_not_count():
    made = experiment(dense, batch_size=6)  # the last batch is of 2 images, for 3 ranks
    alone = run(made, steps=12)
    assert apart(alone.model, split(made, DataParallel(), ranks=3, steps=12)[0].model) < 1e-10


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.below, self.norm, self.above = nn.Linear(144, 20), nn.BatchNorm1d(20), nn.Linear(20, 4)

    def forward(self, x):
        hidden = checkpoint(lambda x: self.norm(self.below(x)).tanh(), x.flatten(1), use_reentrant=False)
        return self.above(hidden)


def test_checkpointed_layers_are_counted_as_in_one_process():
    alone = run(experiment(Recomputed), steps=STEPS)
    assert int(alone.model.norm.num_batches_tracked) == 2 * STEPS
    assert apart(alone.model, split(experiment(Recomputed), DataParallel())[0].model) < 1e-10


class Twice(nn.Module):
    """A layer that two branches share, and one that is used for no image."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(144, 20), nn.BatchNorm1d(20), nn.Linear(20, 4)
        self.unused = nn.BatchNorm1d(3)

    def forward(self, x):
        x = self.first(x.flatten(1))
        return self.last(self.norm(x).tanh() + self.norm(x.square()))


def test_a_layer_may_be_passed_twice_or_never():
    alone = run(experiment(Twice), steps=STEPS)
    for reduce in ("bucketed", "ddp"):
        assert apart(alone.model, split(experiment(Twice), DataParallel(reduce))[0].model) < 1e-10


@dataclass
class WeightedAfter(Learner):
    """Not a `Backprop`: its gradients are weighted behind the backward pass."""

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        loss = F.cross_entropy(model(batch.images), batch.labels)
        loss.backward()
        return {"loss": loss.detach()}


def test_a_learner_whose_gradients_are_weighted_later_learns_the_same():
    alone = run(experiment(learner=WeightedAfter()), steps=STEPS)
    assert apart(alone.model, split(experiment(learner=WeightedAfter()), DataParallel(), ranks=3)[0].model) < 1e-10


@dataclass
class Forgets(CrossEntropy):
    """The loss is not weighted: gradients of a part are those of the mean over it."""

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        loss, metrics = self.loss(model(batch.images), batch)
        loss.backward()
        return metrics


@dataclass
class Slopes(CrossEntropy):
    """A penalty on the gradient with respect to the images."""

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        images = batch.images.clone().requires_grad_()
        loss, metrics = self.weighted_loss(model(images), batch)
        (slope,) = torch.autograd.grad(loss, images, create_graph=True)
        (loss + slope.square().sum() / max(batch.weight, 1e-9)).backward()
        return metrics


class ByHand(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()


class Halves(nn.Module):
    """BatchNorm of the first half of a batch alone."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(144)

    def forward(self, x):
        return torch.cat([self.norm(x[: len(x) // 2]), x[len(x) // 2 :]])


def behind(*layers):
    return lambda: nn.Sequential(
        nn.Flatten(), *copy.deepcopy(layers), nn.Linear(144, 20), nn.BatchNorm1d(20), nn.Linear(20, 4)
    )


REFUSED = {
    "by hand": (experiment(behind(ByHand())), "under DataParallel a rank learns from a part of each batch, and"),
    "instance norm": (
        experiment(
            behind(nn.Unflatten(1, (2, 72)), nn.InstanceNorm1d(2, track_running_stats=True, momentum=0.5), nn.Flatten())
        ),
        "and the buffer 2.running_mean that",
    ),
    "halves": (experiment(behind(Halves())), "under DataParallel a rank learns from a part of each batch, and"),
    "no weight": (experiment(dense, Forgets()), "must be means over the images of a batch"),
    "second derivatives": (experiment(dense, Slopes()), "2, a BatchNorm whose batch is split, gives no gradient of a"),
    "sync": (experiment(behind(nn.SyncBatchNorm(144))), "1, a SyncBatchNorm, makes exchanges of its own: use"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_else_looks_at_a_whole_batch_is_refused(name):
    made, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        split(made, DataParallel())


def test_microbatches_have_statistics_of_their_own_which_is_refused():
    with pytest.raises(ValueError, match=r"2, a BatchNorm1d, takes .* under Pipeline .* nn.GroupNorm .* DataParallel"):
        split(experiment(dense), Pipeline())


def convolutions():
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 20),
        nn.Tanh(), nn.Linear(20, 4),
    )  # fmt: skip


@pytest.mark.parametrize("strategy", [Hybrid(2, 1), Hybrid(1, 2), OneWeirdTrick()], ids=str)
def test_replicas_that_are_split_otherwise_too_share_the_statistics_of_the_batch(strategy):
    alone = run(experiment(convolutions), steps=STEPS)
    assert apart(alone.model, split(experiment(convolutions), strategy)[0].model) < 1e-10


def one_place():
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 8, 12), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)
    )


def test_maps_of_one_place_are_split_by_images_too():
    """Of one image they have no statistics: what is tried beforehand is tried on a whole batch."""
    alone = run(experiment(one_place), steps=STEPS)
    assert apart(alone.model, split(experiment(one_place), OneWeirdTrick())[0].model) < 1e-10


def test_a_split_run_with_averages_goes_on_from_a_checkpoint(tmp_path):
    made, folder = experiment(dense), str(tmp_path)
    alone = run(made, steps=STEPS)
    split(made, DataParallel(), steps=5, checkpoint=folder)
    assert apart(alone.model, split(made, DataParallel(), checkpoint=folder, resume=True)[0].model) < 1e-10


def test_reconstructions_are_learned_too():
    rows = IMAGES.flatten(1)
    made = replace(experiment(), model=autoencoder, data=rows, learner=Reconstruction(corruption=0.2))
    alone = run(made, steps=STEPS)
    assert apart(alone.model, split(made, DataParallel())[0].model) < 1e-10


def autoencoder():
    return nn.Sequential(nn.Linear(144, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 144), nn.Sigmoid())


@pytest.mark.parametrize("make", [net, dense, partial(net, affine=False), behind(nn.BatchNorm1d(144))])
def test_statistics_cost_what_is_sent(make):
    def sent():
        seen = []
        experiment(make, dtype=torch.float32, batch_size=16, momentum=0.0).run(
            strategy=DataParallel(),
            steps=3,
            device="cpu",
            progress=False,
            on_step=lambda run: seen.append(run.shard.recorder.bytes_sent),
        )
        return seen[-1] - seen[-2]

    paper = cost(make(), (12, 12), 16, 2, DataParallel())
    for rank, bytes_sent in enumerate(team(2).call(sent)):
        assert 0 <= bytes_sent - paper.bytes_sent(rank) <= 3 * 2 * 4 + 2 * len(paper.layers[rank])
