"""Splitting by data: the same result as one process, however the gradients are brought together."""

import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from ranks import team
from splitting import STEPS, difference, digits, experiments, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group, ring_all_reduce
from dlkit.models import LeNet5
from dlkit.models.rbm import RBM
from dlkit.models.sparse_coding import SparseCoding
from dlkit.strategies import DataParallel, ModelAveraging
from dlkit.training import CD, PCD, CrossEntropy, InputDropout, Reconstruction, UpDown
from dlkit.training.dictionary import DictionaryLearning

EXPERIMENTS = experiments()
WAYS = ["naive", "bucketed", "ring", "ddp"]


@pytest.fixture(scope="module")
def alone():
    """Each experiment in one process, run once."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = run(EXPERIMENTS[name])
        return found[name]

    return get


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_split_run_gives_what_one_process_gives(name, ranks, alone):
    outcomes = team(ranks).call(run, EXPERIMENTS[name], DataParallel())
    assert difference(alone(name).model, outcomes[0].model) < 1e-5
    assert all(same_bits(outcomes[0].model, other.model) for other in outcomes[1:])
    for mine, theirs in zip(alone(name).history, outcomes[0].history, strict=True):
        for column in ("loss", "error"):
            if column in mine:
                assert theirs[column] == pytest.approx(mine[column], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("reduce", WAYS)
def test_all_ways_to_add_gradients_up_agree(reduce, alone):
    (found, _) = team(2).call(run, EXPERIMENTS["LeNet-5"], DataParallel(reduce))
    assert difference(alone("LeNet-5").model, found.model) < 1e-5


@pytest.mark.parametrize("bucket", [4096, 1], ids=["some together", "each alone, summed where it is"])
@pytest.mark.parametrize("name", ["LeNet-5", "CD"])
def test_small_buckets_go_during_the_backward_pass_and_in_order(alone, name, bucket):
    (found, _) = team(2).call(run, EXPERIMENTS[name], DataParallel(bucket=bucket))
    assert difference(alone(name).model, found.model) < 1e-5


class Views(nn.Module):
    """`a` and tanh(c) are given one tensor by the backward pass: `a` first, tanh after all that comes between."""

    def __init__(self):
        super().__init__()
        self.V, self.W = (nn.Parameter(torch.randn(n, m) / n**0.5) for n, m in ((784, 1000), (1000, 10)))
        self.c, self.a = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(10))

    def forward(self, x):
        squashed = self.c.tanh()
        between = (x @ self.V).relu() @ self.W
        return between + (squashed + self.a.view(2, 5)).view(10)


def test_a_gradient_that_the_pass_still_reads_is_not_summed_yet():
    images, labels = digits(200)
    experiment = Experiment(Views, (images.flatten(1), labels), CrossEntropy(), lr=0.1)
    (found, _) = team(2).call(run, experiment, DataParallel(bucket=1))
    assert difference(run(experiment).model, found.model) < 1e-5


def test_a_rank_takes_no_more_than_its_part_of_a_batch():
    def taken():
        experiment = Experiment(LeNet5, digits(10), CrossEntropy(), batch_size=10)
        shard = experiment.run(strategy=DataParallel(), steps=1, progress=False, device="cpu").shard
        batch = shard.select(Batch(*digits(10)), torch.tensor([7, 1, 4]))
        return batch.images, batch.labels, batch.weight, batch.rows

    images, labels = digits(10)
    for found, rows, part in zip(team(2).call(taken), ([7, 1], [4]), (Slice(0, 2, 3), Slice(2, 3, 3)), strict=True):
        assert torch.equal(found[0], images[rows])
        assert torch.equal(found[1], labels[rows])
        assert found[2:] == (len(rows) / 3, part)


@pytest.mark.parametrize(
    "learner",
    [CrossEntropy(distortion=InputDropout()), CrossEntropy(rubbish=1.0)],
    ids=["input dropout", "rubbish class"],
)
def test_what_is_drawn_or_added_to_a_batch_is_so_on_its_parts(learner):
    experiment = replace(EXPERIMENTS["DBN"], learner=learner)
    (found, _) = team(2).call(run, experiment, DataParallel())
    assert difference(run(experiment).model, found.model) < 1e-5


def test_a_last_batch_with_fewer_images_than_ranks(alone):
    images, labels = digits(201)
    experiment = Experiment(nn_classifier, (images.flatten(1), labels), CrossEntropy(), lr=0.1)
    outcomes = team(3).call(run, experiment, DataParallel())
    assert difference(run(experiment).model, outcomes[0].model) < 1e-5


def nn_classifier():
    return nn.Sequential(nn.Linear(784, 30), nn.Sigmoid(), nn.Linear(30, 10))


def test_chains_of_pcd_stay_with_their_rank_and_may_be_of_another_number_than_the_images():
    experiment = replace(EXPERIMENTS["PCD"], learner=PCD(chains=7))
    outcomes = team(3).call(run, experiment, DataParallel())
    assert difference(run(experiment).model, outcomes[0].model) < 1e-5


def test_dictionaries_and_up_down_split_too():
    rows = digits()[0].flatten(1)
    of_codes = Experiment(partial(SparseCoding, 784, 40), rows, DictionaryLearning(), lr=0.05)
    of_dbn = Experiment(untied, rows, UpDown(k=1, persistent=True), lr=0.1)
    for experiment in (of_codes, of_dbn):
        (found, _) = team(2).call(run, experiment, DataParallel())
        assert difference(run(experiment).model, found.model) < 1e-5


def untied():
    from splitting import small_dbn

    return small_dbn().untied()


# Checkpoints: what is written is the whole's.


@pytest.mark.parametrize("name", ["LeNet-5", "PCD"])
def test_a_run_goes_on_split_or_alone_from_the_same_checkpoint(name, tmp_path, alone):
    experiment = EXPERIMENTS[name]
    folder = str(tmp_path / "split")
    team(2).call(run, experiment, DataParallel(), steps=7, checkpoint=folder)
    on_three = team(3).call(run, experiment, DataParallel(), checkpoint=folder, resume=True)[0]
    assert on_three.step == STEPS
    assert difference(alone(name).model, on_three.model) < 1e-5

    folder = str(tmp_path / "alone")
    run(experiment, steps=7, checkpoint=folder)
    on_two = team(2).call(run, experiment, DataParallel(), checkpoint=folder, resume=True)[0]
    assert difference(alone(name).model, on_two.model) < 1e-5


@pytest.mark.parametrize("strategy", [DataParallel(), ModelAveraging(every=4)], ids=repr)
@pytest.mark.parametrize("name", ["LeNet-5", "PCD"])
def test_a_split_run_that_was_cut_off_ends_with_the_same_bits(name, strategy, tmp_path):
    experiment = EXPERIMENTS[name]
    folder = str(tmp_path)
    whole = team(2).call(run, experiment, strategy)[0]
    team(2).call(run, experiment, strategy, steps=10, checkpoint=folder)
    resumed = team(2).call(run, experiment, strategy, checkpoint=folder, resume=True)[0]
    assert same_bits(whole.model, resumed.model)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


def test_replicas_that_differ_are_not_taken_for_one_run(tmp_path):
    folder = str(tmp_path)
    team(2).call(run, EXPERIMENTS["CD"], ModelAveraging(), steps=5, checkpoint=folder)
    with pytest.raises(ValueError, match=r"is of another run \(replicas: 2 there, None here\)"):
        run(EXPERIMENTS["CD"], checkpoint=folder, resume=True)


# Averaging


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_averaging_after_each_step_of_sgd_is_data_parallel_training(momentum):
    images, labels = digits(1000)
    experiment = Experiment(nn_classifier, (images.flatten(1), labels), CrossEntropy(), lr=0.1, momentum=momentum)
    every_step, seldom = (team(2).call(run, experiment, ModelAveraging(every))[0] for every in (1, 10))
    assert difference(run(experiment).model, every_step.model) < 1e-5
    assert difference(run(experiment).model, seldom.model) > 1e-3


def test_averaging_after_each_step_of_adam_is_another_algorithm():
    images, labels = digits(1000)
    data = images.flatten(1), labels
    experiment = Experiment(nn_classifier, data, CrossEntropy(), lr=0.01, momentum=None, optimizer=torch.optim.Adam)
    every_step = team(2).call(run, experiment, ModelAveraging(every=1))[0]
    assert difference(run(experiment).model, every_step.model) > 1e-2


def test_averages_are_those_of_two_runs_on_half_the_data_each():
    images, labels = digits(1000)
    rows = images.flatten(1)
    experiment = Experiment(nn_classifier, (rows, labels), CrossEntropy(), lr=0.1)
    found = team(2).call(run, experiment, ModelAveraging(every=5), steps=5)[0].model

    start, halves = experiment.initial_model(), []
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    for half in (slice(0, 50), slice(50, 100)):
        net = nn_classifier()
        net.load_state_dict(start.state_dict())
        for step in range(5):
            picked = order[100 * step : 100 * (step + 1)][half]
            net.zero_grad()
            nn.functional.cross_entropy(net(rows[picked]), labels[picked]).backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= 0.1 * p.grad
        halves.append(net.state_dict())
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)


# Messages


def test_the_ring_adds_up_and_sends_two_parts_in_n_of_the_bytes_n_minus_1_times():
    def reduced(count):
        group = Group()
        tensor = torch.arange(float(count)) * (group.rank + 1)
        ring_all_reduce(tensor, group)
        return tensor, group.recorder.bytes_sent

    for tensor, sent in team(3).call(reduced, 30):
        torch.testing.assert_close(tensor, 6 * torch.arange(30.0))
        assert sent == 2 * 2 * 30 * 4 // 3
    for tensor, _ in team(3).call(reduced, 2):  # fewer numbers than ranks
        torch.testing.assert_close(tensor, 6 * torch.arange(2.0))


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the kernel counts no bytes here")
def test_what_is_counted_is_what_the_kernel_counts():
    def counted():
        def written():
            with open("/proc/self/io") as lines:
                return dict(line.split(": ") for line in lines)["wchar"]

        group = Group()
        tensor = torch.ones(300_000)
        group.all_reduce(tensor)  # connects
        before, sent = int(written()), group.recorder.bytes_sent
        for _ in range(5):
            group.all_reduce(tensor)
        group.all_gather(tensor, [300_000] * group.world_size)
        group.exchange(
            {(group.rank + 1) % group.world_size: tensor}, {(group.rank - 1) % group.world_size: tensor.clone()}
        )
        return int(written()) - before, group.recorder.bytes_sent - sent

    for ranks in (2, 3):
        for kernel, ours in team(ranks).call(counted):
            assert ours == pytest.approx(kernel, rel=0.01)


def test_all_ranks_stop_after_the_same_step_when_one_is_asked_to():
    def interrupted(strategy):
        rank = Group().rank
        experiment = replace(EXPERIMENTS["CD"], epochs=10**6)

        def interrupt(run):
            if rank == 1 and run.step == 20:
                os.kill(os.getpid(), signal.SIGINT)

        found = run(experiment, strategy, steps=None, on_step=interrupt)
        return found.step, found.stopped, found.model

    for strategy in (DataParallel(), ModelAveraging(every=7)):
        outcomes = team(2).call(interrupted, strategy)
        assert {stopped for _, stopped, _ in outcomes} == {"interrupted"}
        assert len({step for step, _, _ in outcomes}) == 1
        assert same_bits(outcomes[0][2], outcomes[1][2])


# What is refused


@pytest.mark.parametrize(
    ("learner", "strategy", "sentence"),
    [
        (CD(centred=True), DataParallel(), "centred=True needs the means of a whole batch"),
        (CD(sparsity_target=0.1), DataParallel(), "a sparsity target needs the means of a whole batch"),
        (PCD(chains=1), DataParallel(), "1 chains for 2 ranks"),
        (PCD(chains=1), ModelAveraging(), "1 chains for 2 ranks"),
        (CD(), DataParallel("ddp"), "CD has no backward pass, in which DDP sends gradients"),
    ],
)
def test_learners_that_need_a_whole_batch_are_refused_with_the_reason(learner, strategy, sentence):
    with pytest.raises(ValueError, match=sentence):
        team(2).call(run, replace(EXPERIMENTS["CD"], learner=learner), strategy)


def test_a_sparse_autoassociator_is_refused_with_the_reason():
    experiment = replace(EXPERIMENTS["autoassociator"], learner=Reconstruction(sparsity_target=0.1))
    with pytest.raises(ValueError, match="a sparsity target needs the mean activity of a whole batch"):
        team(2).call(run, experiment, DataParallel())


def test_a_strategy_without_ranks_says_where_to_get_them(unchecked):
    with pytest.raises(RuntimeError, match=r"a strategy needs a process for each rank: `cluster.run"):
        EXPERIMENTS["CD"].run(strategy=DataParallel(), progress=False)


def test_a_strategy_s_class_is_not_a_strategy(unchecked):
    with pytest.raises(
        TypeError, match=r"strategy=DataParallel is the class itself: give a strategy, DataParallel\(\)"
    ):
        EXPERIMENTS["CD"].run(strategy=DataParallel, progress=False)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DataParallel("sum"), 'reduce="sum": it is one of bucketed, naive, ring, ddp'),
        (lambda: DataParallel(bucket=0), "bucket=0: at least 1 byte"),
        (lambda: ModelAveraging(0), "every=0: at least 1 step"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_rbm_is_a_plain_model_again_when_the_run_is_over():
    (found, _) = team(2).call(run, EXPERIMENTS["LeNet-5"], DataParallel())
    assert all(not p._post_accumulate_grad_hooks for p in found.model.parameters())
    assert isinstance(RBM(2, 2), nn.Module)
