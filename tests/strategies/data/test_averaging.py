"""Model averaging with BatchNorm: each rank's own statistics, as in one process that trains the replicas in turn."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from ranks import team
from sequential_averaging import average_sequentially, batches_of
from splitting import run
from torch import nn

from dlkit import Experiment
from dlkit.strategies import ModelAveraging, Outer, cost
from dlkit.training import CrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(62, 12, 12, generator=GENERATOR), torch.randint(0, 4, (62,), generator=GENERATOR)
STEPS = 11


def net():
    return nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 20),
        nn.BatchNorm1d(20, momentum=None), nn.Tanh(), nn.Linear(20, 4),
    )  # fmt: skip


SGD = partial(torch.optim.SGD, momentum=0.9)


def experiment(make=net, optimizer=SGD, count=62, **settings):
    settings = {"batch_size": 14, "lr": 0.05, "dtype": torch.float64, "momentum": None} | settings
    return Experiment(make, (IMAGES[:count], LABELS[:count]), CrossEntropy(), optimizer=optimizer, **settings)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("optimizer", [SGD, torch.optim.Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_replicas_are_those_of_one_process_that_trains_them_in_turn(optimizer, every, ranks):
    made = experiment(optimizer=optimizer)
    found = team(ranks).call(run, made, ModelAveraging(every), steps=STEPS)[0].model.state_dict()
    batches = batches_of(IMAGES.double(), LABELS, 14, STEPS)
    wanted = average_sequentially(
        made.initial_model(), batches, ranks, every, lambda net: optimizer(net.parameters(), lr=0.05)
    )
    for name, value in wanted.items():  # Adam divides the gradient of a bias before BatchNorm, which is 0, by itself
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-9 if optimizer is SGD else 1e-6)


def test_replicas_with_averages_of_their_own_go_on_from_a_checkpoint(tmp_path):
    folder, made = str(tmp_path), experiment()
    whole = team(2).call(run, made, ModelAveraging(4), steps=STEPS)[0].model
    team(2).call(run, made, ModelAveraging(4), steps=6, checkpoint=folder)
    resumed = team(2).call(run, made, ModelAveraging(4), steps=STEPS, checkpoint=folder, resume=True)[0].model
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value)


def by_hand(made, every, steps, outer):
    """DiLoCo's Algorithm 1: two replicas, whose mean move is the gradient of torch's own SGD with Nesterov momentum."""
    replicas = [made.initial_model() for _ in range(2)]
    inner = [SGD(net.parameters(), lr=0.05) for net in replicas]
    anchor = made.initial_model()
    optimizer = torch.optim.SGD(anchor.parameters(), lr=outer.lr, momentum=outer.momentum, nesterov=True)
    for step, (images, labels) in enumerate(batches_of(IMAGES[:60].double(), LABELS[:60], 12, steps), 1):
        for net, own, half in zip(replicas, inner, (slice(0, 6), slice(6, 12)), strict=True):
            own.zero_grad()
            nn.functional.cross_entropy(net(images[half]), labels[half]).backward()
            own.step()
        if step % every == 0:
            for anchored, first, second in zip(anchor.parameters(), *(n.parameters() for n in replicas), strict=True):
                anchored.grad = anchored.detach() - (first.detach() + second.detach()) / 2
            optimizer.step()
            for net in replicas:
                net.load_state_dict(anchor.state_dict())
    return anchor.state_dict()


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 4))


def test_with_an_outer_step_it_is_diloco_and_goes_on_from_a_checkpoint(tmp_path):
    made, folder = experiment(plain, count=60, batch_size=12), str(tmp_path)
    strategy = ModelAveraging(3, outer=Outer())
    found = team(2).call(run, made, strategy, steps=12)[0].model.state_dict()
    for name, value in by_hand(made, 3, 12, Outer()).items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-13)
    team(2).call(run, made, strategy, steps=7, checkpoint=folder)
    resumed = team(2).call(run, made, strategy, steps=12, checkpoint=folder, resume=True)[0].model
    for name, value in found.items():
        assert torch.equal(resumed.state_dict()[name], value)


def test_an_outer_step_of_the_whole_move_is_the_mean():
    made = experiment(plain, count=60, batch_size=12)
    mean, whole = (
        team(2).call(run, made, strategy, steps=9)[0].model.state_dict()
        for strategy in (ModelAveraging(3), ModelAveraging(3, outer=Outer(lr=1.0, momentum=0.0)))
    )
    for name, value in mean.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-12, atol=1e-14)


def test_an_outer_step_that_leads_nowhere_is_refused():
    with pytest.raises(ValueError, match="lr above 0, and momentum at least 0 and below 1"):
        Outer(momentum=1.0)


def frozen():
    made = net()
    made[1].requires_grad_(False)
    return made


def sent_in_steps(made):
    sent = [0]
    run(made, ModelAveraging(2), steps=4, on_step=lambda run: sent.append(run.shard.recorder.bytes_sent))
    return [after - before for before, after in pairwise(sent)]


def test_the_bill_has_what_a_meeting_sends_with_running_averages_and_what_is_not_trained():
    in_steps = team(2).call(sent_in_steps, experiment(frozen, dtype=torch.float32))[0]
    bill = cost(frozen(), (12, 12), 14, 2, ModelAveraging(2))
    between, at_a_meeting = in_steps[2:]
    assert 2 * bill.bytes_sent(0) == pytest.approx(at_a_meeting - between, abs=10)  # each step sends its metrics


def test_parts_without_statistics_are_refused():
    with pytest.raises(ValueError, match=r"a batch of 3 leaves a rank of 2 1 image, of which 2, a BatchNorm2d, has no"):
        team(2).call(run, experiment(count=59), ModelAveraging(4), steps=STEPS)
    with pytest.raises(ValueError, match=r"a batch of 2 leaves a rank of 3 no image, .* under which ranks share them"):
        team(3).call(run, experiment(count=58), ModelAveraging(4), steps=STEPS)


class Counts(nn.Linear):
    """Counts the images of one class that it has seen: another number on each rank, which a trial does not see."""

    def __init__(self):
        super().__init__(144, 4, dtype=torch.float64)
        self.register_buffer("bright", torch.tensor(0))

    def forward(self, x):
        x = x.flatten(1)
        if len(x) == 7:  # of the 15 of a batch, on the second of two ranks
            self.bright += int(x[0, 0] * 100)
        return super().forward(x)


def test_counts_that_differ_have_no_mean():
    with pytest.raises(RuntimeError, match="a buffer of whole numbers has other values on other ranks"):
        team(2).call(run, experiment(Counts, batch_size=15), ModelAveraging(2), steps=6)
