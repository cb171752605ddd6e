"""Exchanges under autograd: first and second derivatives on two ranks are those of the same sums in one process."""

import pytest
import torch
from oracles import seeded
from ranks import team
from splitting import difference, run
from torch import nn

from dlkit import Experiment
from dlkit.distributed.arrays.tile_exchange import Trade, exchange_tiles, gather_tiles
from dlkit.distributed.arrays.tiles import Tiles
from dlkit.distributed.autograd import copy_to_ranks, gather_from_ranks, reduce_from_ranks
from dlkit.distributed.group import Group
from dlkit.strategies import DataParallel, Hybrid, OneWeirdTrick, Pipeline, SpatialParallel, TensorParallel
from dlkit.training import Backprop, CrossEntropy

COUNTS = [2, 1]


def penalty(loss, x, weights):
    """The gradients of |∂loss/∂x|² with respect to the weights: second derivatives of the loss."""
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    return slope.detach(), torch.autograd.grad(slope.square().sum(), weights)


def test_second_derivatives_of_what_is_copied_summed_and_gathered_are_those_of_one_process():
    def split(x, weights):
        group = Group()
        start = sum(COUNTS[: group.rank])
        w = weights[start : start + COUNTS[group.rank]].clone().requires_grad_()
        x = x.clone().requires_grad_()
        parts = (copy_to_ranks(x, group) * w).tanh()  # some of the units of a layer on each rank
        whole = gather_from_ranks(parts, COUNTS, 0, group)
        mixed = reduce_from_ranks((copy_to_ranks(whole, group).cos().sum() * w).sin().sum(), group)
        slope, (second,) = penalty(mixed * whole.square().sum(), x, [w])
        return slope, second

    x = torch.randn(1, 5, generator=seeded(), dtype=torch.float64)
    weights = torch.randn(3, 5, generator=seeded(1), dtype=torch.float64)
    answers = team(2).call(split, x, weights)
    x, w = x.requires_grad_(), weights.requires_grad_()
    whole = (x * w).tanh()
    slope, (second,) = penalty((whole.cos().sum() * w).sin().sum() * whole.square().sum(), x, [w])
    for found, _ in answers:
        torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([found for _, found in answers]), second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 3, 1)])
def test_what_is_gathered_may_be_changed_in_place(shape):
    """As by an activation or a Dropout with inplace=True that comes next."""
    dim = shape.index(3)

    def split(x):
        group = Group()
        own = x.narrow(dim, sum(COUNTS[: group.rank]), COUNTS[group.rank]).clone().requires_grad_()
        whole = gather_from_ranks(own, COUNTS, dim, group).flatten(1).mul_(3)
        whole.square().sum().backward()
        return whole.detach(), own.grad

    x = torch.randn(shape, generator=seeded(), dtype=torch.float64)
    answers = team(2).call(split, x)
    for whole, _ in answers:
        torch.testing.assert_close(whole, 3 * x.flatten(1))
    torch.testing.assert_close(torch.cat([gradient for _, gradient in answers], dim), 18 * x)


def test_second_derivatives_of_borrowed_and_gathered_rows_are_those_of_one_process():
    def split(x):
        group = Group()
        have, need = (range(4), range(4, 7)), (range(5), range(3, 7))
        own, wide = have[group.rank], (range(x.shape[3]),)
        mine = x[:, :, own.start : own.stop].clone().requires_grad_()
        seen = exchange_tiles(mine.sin(), Trade(group, Tiles(have, wide), Tiles(need, wide), (2, 3)))
        bands = seen[:, :, :-1] * seen[:, :, 1:]  # of rows r and r + 1; rows 3 and 4 are multiplied on both ranks
        tiles = Tiles((range(4), range(4, 7)), wide)
        loss = gather_tiles(bands, Trade(group, tiles, tiles, (2, 3))).square().sum()
        (slope,) = torch.autograd.grad(loss, mine, create_graph=True)
        total = reduce_from_ranks(slope.square().sum(), group)
        return slope.detach(), torch.autograd.grad(total, mine)[0]

    x = torch.randn(2, 3, 7, 2, generator=seeded(), dtype=torch.float64)
    answers = team(2).call(split, x)
    whole = x.clone().requires_grad_()
    rows = whole.sin()
    products = (rows[:, :, :-1] * rows[:, :, 1:]).square()
    slope, (second,) = penalty(products.sum() + products[:, :, 3].sum(), whole, [whole])
    for number, wanted in enumerate((slope, second)):
        found = torch.cat([answer[number] for answer in answers], dim=2)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_what_was_copied_may_be_changed_in_place():
    def in_place(x):
        group = Group()
        x = x.clone().requires_grad_()
        own = x.tanh()
        out = copy_to_ranks(own, group).mul_(group.rank + 1).relu_()
        (out.sum() + own.sum()).backward()
        return x.grad

    x = torch.randn(6, generator=seeded(), dtype=torch.float64)
    whole = x.clone().requires_grad_()
    h = whole.tanh()
    ((h * 1).relu().sum() + (h * 2).relu().sum() + h.sum()).backward()
    for found in team(2).call(in_place, x):
        torch.testing.assert_close(found, whole.grad, rtol=1e-12, atol=1e-12)


# A learner of one's own that holds the net's slope down: a penalty of the gradient under each strategy


class Smooth(Backprop):
    """Cross-entropy, and the squared norm of its gradient with respect to the images."""

    def fill_grad(self, model, batch, generator):
        model.zero_grad()
        images = batch.images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(images), batch.labels, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), images, create_graph=True)
        cost = (loss.mean() + slope.square().sum() / len(images)) * batch.weight
        cost.backward()
        return {"loss": cost.detach()}


def smooth_net():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, 3)),
    )


@pytest.mark.parametrize(
    "strategy",
    [DataParallel(), DataParallel(reduce="naive"), TensorParallel(), SpatialParallel(), OneWeirdTrick(), Hybrid(1, 2)],
    ids=str,
)
def test_a_penalty_of_the_gradient_is_learnt_split_as_alone(strategy):
    images, labels = torch.rand(24, 8, 8, generator=seeded()), torch.arange(24) % 3
    experiment = Experiment(smooth_net, (images, labels), Smooth(), batch_size=8, lr=0.1)
    alone = run(experiment, steps=5)
    for split in team(2).call(run, experiment, strategy, steps=5):
        assert difference(alone.model, split.model) < 1e-5
        assert split.history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=1e-5)


class SmoothToo(CrossEntropy):
    """The same, with a loss that a pipeline could run by itself, and forget the penalty."""

    fill_grad = Smooth.fill_grad


@pytest.mark.parametrize("learner", [Smooth(), SmoothToo()], ids=["no loss", "a loss"])
@pytest.mark.parametrize(
    ("strategy", "mended", "words"),
    [
        (Pipeline(2), DataParallel(), "Pipeline backpropagates through its `loss` alone: use DataParallel"),
        (TensorParallel("dtensor"), TensorParallel(), "parallelize_module backpropagates .*: leave `using` out"),
    ],
    ids=["Pipeline", "dtensor"],
)
def test_a_fill_grad_of_one_s_own_is_refused_where_a_strategy_would_not_call_it_and_the_mend_learns_it(
    strategy, mended, words, learner
):
    def net():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 3))

    images, labels = torch.rand(24, 8, 8, generator=seeded()), torch.arange(24) % 3
    experiment = Experiment(net, (images, labels), learner, batch_size=8, lr=0.1, optimizer=torch.optim.SGD)
    with pytest.raises(ValueError, match=f"fills gradients by a fill_grad of its own, and .*{words}"):
        team(2).call(run, experiment, strategy, steps=3)
    alone = run(experiment, steps=3)
    assert difference(alone.model, team(2).call(run, experiment, mended, steps=3)[0].model) < 1e-5
