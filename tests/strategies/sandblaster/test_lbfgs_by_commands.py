"""L-BFGS by commands: against torch's own, the inverse Hessian written out, and what a queue of portions promises."""

import json
import random
from collections import deque
from functools import partial

import pytest
import torch
from small_searches import IMAGES, NETS, experiment, largest_difference, lbfgs, net
from splitting import digits
from torch import nn

from dlkit import Experiment
from dlkit.models import RBM, ConvNet
from dlkit.strategies import Downpour, cost
from dlkit.strategies.sandblaster.lbfgs import Pair, two_loops
from dlkit.strategies.sandblaster.portions import PortionQueue
from dlkit.strategies.sandblaster.sandblaster import Sandblaster
from dlkit.strategies.sandblaster.vectors import Coordinator, Vector, VectorShard
from dlkit.strategies.sandblaster.virtual import sandblast_virtually
from dlkit.training import CD, Backprop, CrossEntropy
from dlkit.training.fine_tuning import LineSearches


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("iterations", "tolerance"), [(20, 1e-10), (50, 1e-8)])
def test_it_learns_what_torchs_does_on_any_number_of_servers_and_when_workers_die(name, iterations, tolerance):
    made = experiment(*NETS[name], iterations)
    alone = made.run(steps=1, progress=False)
    for servers in (1, 2, 3, 4) if iterations == 20 else (1, 4):
        kills = {(evaluation, evaluation % 3) for evaluation in range(0, 100, 10)} if servers > 1 else set()
        found = sandblast_virtually(made, Sandblaster(servers=servers), 3, steps=1, kills=kills)
        assert largest_difference(found.model, alone.model) < tolerance, (servers, found)
        assert found.history["loss"][0] == pytest.approx(alone.history["loss"][0], rel=1e-12)


@pytest.mark.parametrize("optimizer", [lbfgs(4), LineSearches], ids=["a history", "anew with each batch"])
def test_batches_follow_each_other_as_in_one_process(optimizer):
    made = experiment(batch_size=80, optimizer=optimizer)
    alone = made.run(steps=6, progress=False)
    found = sandblast_virtually(made, Sandblaster(servers=2, portions=10), 2, steps=6)
    assert largest_difference(found.model, alone.model) < 1e-8
    assert found.history["loss"] == pytest.approx(alone.history["loss"], rel=1e-8)


def space(*shards):
    return Coordinator(lambda commands: [shard.carry_out(commands) for shard in shards], torch.float64)


def test_the_two_loops_are_the_inverse_hessian_written_out():
    """BFGS' update of the inverse Hessian, as matrices: H = (I - rho s yT) H (I - rho y sT) + rho s sT."""
    generator = torch.Generator().manual_seed(0)
    gradient, *pairs = (torch.randn(9, generator=generator).double() for _ in range(9))
    shards = [VectorShard(torch.zeros(4).double()), VectorShard(torch.zeros(5).double())]
    coordinator = space(*shards)

    def put(values):
        vector = Vector(coordinator)
        shards[0].vectors[vector.name], shards[1].vectors[vector.name] = values[:4].clone(), values[4:].clone()
        return vector

    inverse, history = 0.7 * torch.eye(9).double(), deque()
    for y, s in zip(pairs[::2], pairs[1::2], strict=True):
        y = y if y.dot(s) > 0 else -y
        rho, eye = 1 / y.dot(s), torch.eye(9).double()
        inverse = (eye - rho * s.outer(y)) @ inverse @ (eye - rho * y.outer(s)) + rho * s.outer(s)
        history.append(Pair(put(y), put(s), rho))
    direction = two_loops(put(gradient), history, 0.7)
    coordinator.flush()
    found = torch.cat([shard.vectors[direction.name] for shard in shards])
    torch.testing.assert_close(found, -inverse @ gradient, rtol=1e-10, atol=1e-12)


def test_commands_are_those_of_whole_vectors_and_vectors_are_forgotten():
    shards = [VectorShard(torch.tensor([1.0, -2.0]).double()), VectorShard(torch.tensor([3.0, -4.0, 0.5]).double())]
    coordinator = space(*shards)
    x = Vector(coordinator, "x")
    assert (float(x.dot(x)), float(x.largest()), float(x.length())) == (30.25, 4.0, 10.5)
    y = x.scaled(2.0).plus(x, -3.0)
    y.add_(x, 0.5)
    assert float(y.dot(x)) == -0.5 * 30.25
    del y
    coordinator.flush()
    assert all(list(shard.vectors) == ["x"] for shard in shards)
    with pytest.raises(ValueError, match="there is no command 'eval'"):
        shards[0].carry_out([("eval", "x")])


def test_the_coordinator_sees_numbers_and_sends_words():
    sent = []

    def send(commands):
        sent.append(json.dumps(commands))
        return [shard.carry_out(json.loads(sent[-1]))]

    shard = VectorShard(torch.randn(100_000).double())
    x = Vector(Coordinator(send, torch.float64), "x")
    for _ in range(10):
        assert float(x.scaled(0.5).dot(x)) > 0
    assert max(map(len, sent)) < 200
    found = sandblast_virtually(experiment(), Sandblaster(), 2, steps=1)
    assert found.bill["dot"] > 20 * found.iterations / 2
    assert found.bill["collect"] == found.evaluations


@pytest.mark.parametrize("seed", range(20))
def test_each_portion_counts_once_whatever_workers_do(seed):
    rng = random.Random(seed)
    queue = PortionQueue(rng.choice([1, 7, 30]), together=rng.choice([1, 3]), backups=rng.choice([0, 2, 30]))
    counted, kept = [], {}
    now = 0.0
    while not queue.done:
        now += rng.random()
        worker = rng.randrange(4)
        own = kept.setdefault(worker, [])
        if rng.random() < 0.1:
            queue.lose(worker)
            kept[worker] = []
            continue
        if own and (queue.should_send(len(own)) or rng.random() < 0.1):
            if queue.deliver(worker, own):
                counted += own
            kept[worker] = own = []
        portion = queue.take(worker, now, own) if not queue.done else None
        if portion is not None:
            own.append(portion)
    assert sorted(counted) == list(range(queue.portions))


def test_the_slowest_is_given_out_twice_and_the_first_result_counts():
    queue = PortionQueue(3, backups=1)
    assert [queue.take(0, 0.0), queue.take(1, 1.0), queue.take(2, 2.0)] == [0, 1, 2]
    assert queue.deliver(2, [2])
    assert queue.take(2, 3.0) == 0  # which worker 0 has had the longest
    assert queue.take(2, 3.0, [0]) is None  # no more than one is given out twice
    assert queue.deliver(2, [0])
    assert not queue.deliver(0, [0])
    assert (queue.wasted, queue.done) == (1, False)
    assert queue.deliver(1, [1])
    assert queue.done


def test_a_sum_with_a_portion_that_has_counted_gives_the_others_out_again():
    queue = PortionQueue(2, together=2, backups=2)
    assert [queue.take(0, 0.0), queue.take(0, 1.0, [0])] == [0, 1]
    assert queue.take(0, 1.5, [0]) == 1  # the answer was lost
    assert queue.take(1, 2.0) == 0
    assert queue.deliver(1, [0])
    assert not queue.deliver(0, [0, 1])
    assert queue.take(1, 3.0) == 1


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_one_slow_worker_of_n_costs_hardly_more_than_its_work(workers):
    """Ten times the work for one: the others take it over, in n / (n - 0.9) of the time, and 15 % for what is left."""
    made, strategy = experiment(iterations=3), Sandblaster(portions=16 * workers, together=2)
    undisturbed = sandblast_virtually(made, strategy, workers, steps=1)
    slowed = sandblast_virtually(made, strategy, workers, steps=1, slowed={0: 10.0})
    assert sum(slowed.seconds) / sum(undisturbed.seconds) < 1.15 * workers / (workers - 0.9)
    assert largest_difference(slowed.model, undisturbed.model) < 1e-10


def drops():
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 12), nn.Dropout(0.2), nn.Linear(12, 10))


def normalises():
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 12), nn.BatchNorm1d(12), nn.Linear(12, 10))


class Spread(Backprop):
    """A loss that looks at two images at a time."""

    def loss(self, output, batch):
        loss = (output[1:] - output[:-1]).square().mean()
        return loss, {"loss": loss}


@pytest.mark.parametrize(
    ("made", "strategy", "message"),
    [
        (experiment(optimizer=torch.optim.Adam), Sandblaster(), "the optimizer is Adam: optimizer=partial"),
        (experiment(optimizer=torch.optim.LBFGS), Sandblaster(), "is L-BFGS with line searches"),
        (experiment(drops), Sandblaster(), "draws random numbers"),
        (experiment(normalises), Sandblaster(), "under Sandblaster a rank learns from a part"),
        (experiment(net, Spread()), Sandblaster(), "under Sandblaster a rank learns from a part"),
        (experiment(partial(RBM, 196, 5), CD()), Sandblaster(), "draws random numbers|learns from a part"),
        (experiment(batch_size=20), Sandblaster(), "a batch of 20 in 32 portions"),
    ],
)
def test_what_cannot_be_searched_is_refused(made, strategy, message):
    if isinstance(made.learner, CD):
        made = Experiment(
            made.model, IMAGES.flatten(1), CD(), batch_size=300, lr=1.0, momentum=None, optimizer=lbfgs(5)
        )
    with pytest.raises(ValueError, match=message):
        sandblast_virtually(made, strategy, 2, steps=1)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="portions=0: a whole number, at least 1"):
        Sandblaster(portions=0)
    with pytest.raises(ValueError, match="0 workers: at least 1"):
        sandblast_virtually(experiment(), Sandblaster(), 0)


def test_the_mend_of_the_refusal_works():
    made = experiment(ConvNet, optimizer=partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=2))
    with pytest.raises(ValueError, match="is SGD: optimizer=partial"):
        sandblast_virtually(experiment(optimizer=torch.optim.SGD), Sandblaster(), 1, steps=1)
    large = Experiment(
        ConvNet, digits(100), CrossEntropy(), batch_size=100, lr=1, momentum=None, optimizer=made.optimizer
    )
    assert sandblast_virtually(large, Sandblaster(), 2, steps=1).iterations > 0


def test_where_it_cannot_be_carried_out_that_is_said(unchecked):
    with pytest.raises(RuntimeError, match=r"a process for each rank: `cluster.run\(experiment, strategy\)` in a note"):
        experiment().run(strategy=Sandblaster(), steps=1, progress=False)
    for strategy in (Sandblaster(), Downpour()):
        with pytest.raises(TypeError, match="give a strategy whose ranks take steps together, such as DataParallel"):
            cost(net(), (14, 14), 10, 2, strategy)
