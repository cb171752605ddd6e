"""By data and by model at once: the same result as one process, in both published layouts."""

import shutil
from dataclasses import replace

import pytest
import torch
from ranks import team
from splitting import STEPS, difference, digits, experiments, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.core.slices import slice_of
from dlkit.distributed.batch_norm import exchanged_bytes
from dlkit.models import ConvNet, LeNet5
from dlkit.strategies import Hybrid, OneWeirdTrick, cost
from dlkit.training import CD, CrossEntropy

EXPERIMENTS = experiments()


@pytest.mark.parametrize("name", ["LeNet-5", "autoencoder", "CD", "PCD"])
def test_replicas_that_are_split_give_what_one_process_gives(name):
    outcomes = team(4).call(run, EXPERIMENTS[name], Hybrid(data=2, model=2))
    alone = run(EXPERIMENTS[name])
    assert difference(alone.model, outcomes[0].model) < 1e-5
    assert outcomes[0].history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=1e-4)
    assert all(same_bits(outcomes[0].model, other.model) for other in outcomes[1:])


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", ["LeNet-5", "ConvNet"])
def test_convolutions_by_data_and_the_rest_by_neurons_give_what_one_process_gives(name, ranks):
    outcomes = team(ranks).call(run, EXPERIMENTS[name], OneWeirdTrick())
    assert difference(run(EXPERIMENTS[name]).model, outcomes[0].model) < 1e-5


@pytest.mark.parametrize("mesh", [(1, 2), (2, 1)])
def test_a_mesh_of_one_row_or_column_is_one_of_the_two(mesh):
    found = team(2).call(run, EXPERIMENTS["PCD"], Hybrid(*mesh))[0]
    assert difference(run(EXPERIMENTS["PCD"]).model, found.model) < 1e-5


def test_fewer_images_in_the_last_batch_than_ranks():
    experiment = Experiment(LeNet5, digits(202), CrossEntropy(), lr=0.002, momentum=0.9)
    found = team(3).call(run, experiment, OneWeirdTrick(), steps=6)[0]
    assert difference(run(experiment, steps=6).model, found.model) < 1e-5


def test_neighbours_hold_a_replica_and_each_weight_is_held_once_in_it():
    def held():
        experiment = EXPERIMENTS["CD"]
        found = experiment.run(strategy=Hybrid(data=2, model=2), steps=1, device="cpu", progress=False)
        return found.shard.model.W.detach().clone()

    parts = team(4).call(held)
    assert [part.shape for part in parts] == [(784, 30)] * 4
    assert torch.equal(parts[0], parts[2])
    assert torch.equal(parts[1], parts[3])
    assert not torch.equal(parts[0], parts[1])


def test_bytes_of_the_two_layouts():
    """Yadan's: sums of half the gradients over 2 replicas, and what neurons send for half a batch."""
    rows, labels = digits(200)[0].flatten(1), digits(200)[1]
    experiment = Experiment(two_layers, (rows, labels), CrossEntropy(), batch_size=100)
    numbers = 784 * 40 + 40 + 40 * 10
    for _, _, step, _, sent in team(4).call(run, experiment, Hybrid(2, 2), steps=1):
        gradients = 4 * (numbers // 2 + 10)  # 2 (n-1)/n of half, for n = 2; the last bias is on both
        forward = 4 * 50 * 10  # partial sums of the second layer; images need no gradient
        report = 4 * 3  # loss, error, and how many parameters had no gradient
        assert step == 1
        assert sent == gradients + forward + report


def two_layers():
    return nn.Sequential(nn.Linear(784, 40), nn.Sigmoid(), nn.Linear(40, 10))


def test_features_of_all_images_are_what_the_trick_sends():
    experiment = replace(EXPERIMENTS["LeNet-5"], data=digits(100))
    net = LeNet5()
    inside = sum(p.numel() for name, p in net.named_parameters() if name[:2] in ("c1", "s2", "c3", "s4", "c5"))
    for _, _, _, _, sent in team(2).call(run, experiment, OneWeirdTrick(), steps=1):
        features, back = 50 * 120 * 4, 100 * 120 * 4  # gathered; summed over the two halves of F6
        outputs = 100 * 42 * 4  # half of F6 for all images, gathered for the output layer
        assert sent == 4 * (inside + 1) + features + back + outputs  # 1: how many parameters had no gradient


def test_maps_are_halved_before_they_are_gathered():
    experiment = replace(EXPERIMENTS["ConvNet"], data=digits(100))
    inside = sum(p.numel() for name, p in ConvNet().named_parameters() if name.startswith("c"))
    for _, _, _, _, sent in team(2).call(run, experiment, OneWeirdTrick(), steps=1):
        features, back, outputs = 50 * 96 * 4, 100 * 96 * 4, 100 * 5 * 4  # 6 maps of 4x4, not of 8x8
        assert sent == 4 * (inside + 1) + features + back + outputs  # 1: how many parameters had no gradient


@pytest.mark.parametrize("strategy", [Hybrid(2, 2), OneWeirdTrick()], ids=repr)
def test_a_run_goes_on_split_or_alone_from_the_same_checkpoint(strategy, tmp_path):
    experiment, folder = EXPERIMENTS["LeNet-5"], str(tmp_path / "split")
    whole = team(4).call(run, experiment, strategy)[0]
    team(4).call(run, experiment, strategy, steps=10, checkpoint=folder)
    shutil.copytree(folder, tmp_path / "copy")
    resumed = team(4).call(run, experiment, strategy, checkpoint=folder, resume=True)[0]
    assert resumed.step == STEPS
    assert same_bits(whole.model, resumed.model)
    on_one = run(experiment, checkpoint=str(tmp_path / "copy"), resume=True)
    on_four = team(4).call(run, experiment, strategy, steps=STEPS + 1, checkpoint=str(tmp_path / "none"), resume=True)[
        0
    ]
    assert difference(on_one.model, resumed.model) < 1e-5
    assert difference(run(experiment, steps=STEPS + 1).model, on_four.model) < 1e-5


class OwnForward(nn.Module):
    """Branches, BatchNorm on both sides of the cut, a size that follows the images, and a value that crosses too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 5, stride=3), nn.Conv2d(4, 4, 3, padding=1)
        self.maps, self.units = nn.BatchNorm2d(4), nn.BatchNorm1d(13)
        self.first, self.last, self.scale = nn.Linear(256, 13), nn.Linear(13, 10), nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, images):
        x = torch.relu(self.maps(self.a(images[:, None])))
        y = (x + self.b(x) * self.scale).view(len(images), 4, 8, 8)
        units = self.units(self.first(y.flatten(1)))
        return self.last(torch.tanh(units)) + x.mean((1, 2, 3)).unsqueeze(1)


@pytest.mark.parametrize("count", [100, 63])
def test_a_forward_of_its_own_is_cut_where_convolutions_end(count):
    made = Experiment(
        OwnForward, digits(count), CrossEntropy(), lr=0.01, momentum=0.9, batch_size=20, dtype=torch.float64
    )
    outcomes = team(2).call(run, made, OneWeirdTrick(), steps=6)
    assert difference(run(made, steps=6).model, outcomes[0].model) < 1e-10
    if count == 100:
        once = [run.bytes_sent for run in team(2).call(run, made, OneWeirdTrick(), steps=1)]
        counts = cost(OwnForward(), (28, 28), 20, 2, OneWeirdTrick())
        for rank, sent in enumerate(once):
            statistics = sum(exchanged_bytes(OwnForward().maps, 2))  # of doubles on paper too
            on_paper = 2 * (counts.bytes_sent(rank) - statistics) + statistics
            assert 0 <= sent - on_paper <= 8 * 4


def test_what_crosses_the_cut_is_told_by_images():
    class Mixed(OwnForward):
        def forward(self, images):
            x = self.b(self.a(images[:, None]))
            y = x.transpose(0, 1)
            return self.last(torch.tanh(self.first(x.flatten(1)))) + y.mean((0, 2, 3)).unsqueeze(1)

    class Tied(OwnForward):
        def forward(self, images):
            return super().forward(images) + self.scale.sum()

    with pytest.raises(ValueError, match="in Mixed cannot be told by images, so that OneWeirdTrick cannot compute it"):
        cost(Mixed(), (28, 28), 20, 2, OneWeirdTrick())
    with pytest.raises(ValueError, match="scale is used by the convolutions and behind them, which OneWeirdTrick"):
        cost(Tied(), (28, 28), 20, 2, OneWeirdTrick())


@pytest.mark.parametrize(
    ("experiment", "strategy", "sentence"),
    [
        (
            EXPERIMENTS["CD"],
            Hybrid(2, 2),
            r"Hybrid\(data=2, model=2\) needs 4 ranks, and there are 2: start Cluster\(4\)",
        ),
        (EXPERIMENTS["CD"], OneWeirdTrick(), "CD has no backward pass"),
        (EXPERIMENTS["DBN"], OneWeirdTrick(), "Sequential is not convolutions with Linear layers behind them"),
        (replace(EXPERIMENTS["CD"], learner=CD(centred=True)), Hybrid(1, 2), "centred=True needs the means"),
    ],
    ids=["ranks", "CD", "no convolutions", "centred"],
)
def test_what_cannot_be_split_so_is_refused_with_the_reason(experiment, strategy, sentence):
    with pytest.raises(ValueError, match=sentence):
        team(2).call(run, experiment, strategy)


def test_a_mesh_without_ranks_is_refused():
    with pytest.raises(ValueError, match="model=0: at least 1"):
        Hybrid(2, 0)


def test_parts_of_a_batch_are_in_the_order_of_ranks():
    assert [slice_of(5, rank, 2).start for rank in range(2)] == [0, 3]
