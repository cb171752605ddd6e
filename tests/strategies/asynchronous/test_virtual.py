"""Replicas in simulated time: against one process, torch's own Adagrad, and what theory says of their staleness."""

from functools import partial

import pytest
import torch
from torch import nn

from dlkit import Experiment
from dlkit.models import RBM
from dlkit.strategies.asynchronous.parameter_shard import ParameterShard, Push
from dlkit.strategies.asynchronous.rules import Adagrad, ByStaleness, Plain
from dlkit.strategies.asynchronous.virtual import VirtualRun, arrivals, train_virtually
from dlkit.training import CD, CrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(120, 8, 8, generator=GENERATOR), torch.randint(0, 4, (120,), generator=GENERATOR)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.2), nn.Tanh(), nn.Linear(12, 4))


def experiment(make=net, learner=None, **settings):
    data = IMAGES.flatten(1) if isinstance(learner, CD) else (IMAGES, LABELS)
    settings = {"batch_size": 10, "lr": 0.1, "dtype": torch.float64} | settings
    return Experiment(make, data, learner or CrossEntropy(), **settings)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "made",
    [experiment(), experiment(weight_decay=0.01), experiment(partial(RBM, 64, 9), CD())],
    ids=["net that draws", "weight decay", "CD"],
)
def test_one_replica_learns_what_one_process_does(made):
    alone = made.run(steps=30, progress=False)
    found = train_virtually(made, 1, 30, Plain)
    torch.testing.assert_close(parameters(found.model), parameters(alone.model), rtol=1e-12, atol=1e-14)
    assert found.history["loss"][0] == pytest.approx(alone.history["loss"][0], rel=1e-12)
    assert found.staleness == {0: 30}


def test_one_replica_with_adagrad_learns_what_torchs_does():
    alone = experiment(optimizer=torch.optim.Adagrad, momentum=None).run(steps=30, progress=False)
    found = train_virtually(experiment(), 1, 30, Adagrad)
    torch.testing.assert_close(parameters(found.model), parameters(alone.model), rtol=1e-10, atol=1e-12)


def test_two_replicas_in_turn_are_stale_by_one():
    """By hand: each gradient is of the parameters before the other's last step."""
    made, order = experiment(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4))), [0, 1, 0, 1, 0]
    found = VirtualRun(made, 2, Plain).train(order, 5)
    model = made.initial_model()
    first = parameters(model).clone()
    fetched, now = {0: first, 1: first}, first
    for number, replica in enumerate(order):
        torch.nn.utils.vector_to_parameters(fetched[replica], model.parameters())
        chosen = torch.randperm(60, generator=torch.Generator().manual_seed(0))[number // 2 * 10 :][:10] + 60 * replica
        loss = nn.functional.cross_entropy(model(IMAGES[chosen].double()), LABELS[chosen])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        now = now - 0.1 * torch.cat([gradient.flatten() for gradient in gradients])
        fetched[replica] = now
    torch.testing.assert_close(parameters(found.model), now, rtol=1e-12, atol=1e-14)
    assert found.staleness == {0: 1, 1: 4}


@pytest.mark.parametrize("replicas", [2, 5, 10])
def test_equal_replicas_are_as_stale_as_there_are_others(replicas):
    """A replica's gradient is overtaken by one of each of the others (Hermans 2017)."""
    versions, counts = [0] * replicas, []
    for update, replica in zip(range(4000), arrivals(replicas, seed=1), strict=False):
        counts.append(update - versions[replica])
        versions[replica] = update + 1
    settled = counts[10 * replicas :]
    assert sum(settled) / len(settled) == pytest.approx(replicas - 1, rel=0.05)


def test_a_slow_replica_is_waited_for_by_none():
    order = [replica for _, replica in zip(range(2100), arrivals(2, slowed={1: 20.0}), strict=False)]
    assert order.count(0) / order.count(1) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("rule", [Plain, Adagrad, ByStaleness])
def test_the_recorded_order_gives_the_same_bits(rule):
    first = train_virtually(experiment(), 4, 60, rule)
    again = first.replay()
    assert torch.equal(parameters(first.model), parameters(again.model))
    assert first.staleness == again.staleness
    other = VirtualRun(experiment(), 4, rule).train(sorted(first.order), 60)
    assert not torch.equal(parameters(first.model), parameters(other.model))


def test_a_run_goes_on_where_it_was():
    whole = train_virtually(experiment(), 3, 40, Adagrad)
    part = train_virtually(experiment(), 3, 25, Adagrad)
    part.train(whole.order[25:], 15)
    assert torch.equal(parameters(whole.model), parameters(part.model))


def test_a_stale_gradient_takes_a_smaller_step():
    shard = ParameterShard(torch.zeros(2), ByStaleness())
    for sequence in (1, 2, 3):
        shard.push(Push(0, sequence, sequence - 1, torch.zeros(2)), 1.0)
    shard.push(Push(1, 1, 0, torch.tensor([4.0, -8.0])), 0.5)  # three have been applied since
    assert shard.values.tolist() == [-0.5, 1.0]


def test_a_gradient_is_applied_once():
    shard = ParameterShard(torch.zeros(3), Plain())
    push = Push(7, 1, 0, torch.ones(3))
    assert shard.push(push, 1.0)
    assert not shard.push(push, 1.0)
    assert shard.values.tolist() == [-1.0] * 3
    assert (shard.version, shard.ledger, shard.staleness) == (1, {7: 1}, {0: 1})


def test_a_shard_goes_on_from_what_it_kept():
    generator = torch.Generator().manual_seed(2)
    pushes = [
        Push(number % 3, number // 3 + 1, max(number - 2, 0), torch.randn(5, generator=generator))
        for number in range(12)
    ]
    whole, first, later = (ParameterShard(torch.ones(5), Adagrad()) for _ in range(3))
    for push in pushes:
        whole.push(push, 0.1)
    for push in pushes[:7]:
        first.push(push, 0.1)
    later.load(first.state())
    for push in pushes[5:]:  # two come again
        later.push(push, 0.1)
    assert torch.equal(whole.values, later.values)
    assert (whole.version, whole.ledger, whole.staleness) == (later.version, later.ledger, later.staleness)


@pytest.mark.parametrize(
    ("push", "message"),
    [
        (Push(1, 1, 0, torch.ones(4)), r"replica 1 sent \(4,\) numbers of torch.float32 to a shard of \(3,\)"),
        (Push(1, 1, 0, torch.ones(3).double()), "of torch.float64 to a shard"),
        (Push(1, 1, 5, torch.ones(3)), "version 5, and there are 0: it has fetched from another run"),
    ],
)
def test_a_push_that_does_not_fit_is_refused_and_changes_nothing(push, message):
    shard = ParameterShard(torch.zeros(3), Plain())
    with pytest.raises(ValueError, match=message):
        shard.push(push, 1.0)
    assert (shard.values.tolist(), shard.version, shard.ledger) == ([0.0] * 3, 0, {})


def with_running_averages():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 0.9}, "SGD keeps state from step to step"),
        ({"optimizer": torch.optim.Adam, "momentum": None}, "Adam keeps state"),
        ({"make": with_running_averages}, "changes 2.running_mean, which is no parameter.* use nn.GroupNorm"),
        ({"batch_size": 40}, "4 replicas have 30 images or so each, fewer than a batch of 40"),
    ],
)
def test_what_cannot_be_trained_so_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        train_virtually(experiment(**settings), 4, 3)
    with pytest.raises(ValueError, match="0 replicas: at least 1"):
        next(arrivals(0))
