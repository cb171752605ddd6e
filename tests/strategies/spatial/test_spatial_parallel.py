"""Splitting by image region: forward, gradients and training as on one process, and no more sent than the halos."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from oracles import seeded
from ranks import team
from rows import answer_and_gradients, split_by_rows, split_pass
from splitting import STEPS, difference, digits, experiments, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.distributed.arrays.tile_exchange import Trade, exchange_tiles
from dlkit.distributed.arrays.tiles import Tiles, even_parts
from dlkit.distributed.group import Group
from dlkit.models import ConvNet, LeNet5
from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.locally_connected import L2Pool, LocallyConnected2d, LocalNet
from dlkit.strategies.spatial.spatial_parallel import SpatialParallel
from dlkit.training import CrossEntropy, Reconstruction
from dlkit.training.fine_tuning import LineSearches

TABLE = ((0, 1), (1, 2), (0,), (0, 1, 2))


def reused():
    squash = nn.ReLU(inplace=True)
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 3, 3), squash), nn.Sequential(nn.Conv2d(3, 2, 3), squash))


def last_in_channels(net):
    return net.to(memory_format=torch.channels_last)


NETS = {  # what makes each, and the shape of an image
    "padding and stride 2": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 3, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh()),
            *(nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 7 * 7, 5)),
        ),
        (1, 28, 28),
    ),
    "oblong kernels, dilated, same": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, (3, 5), stride=(2, 1), padding=(0, 3)), nn.Conv2d(4, 4, 3, dilation=2, padding=1)),
            *(nn.Conv2d(4, 2, (4, 2), padding="same", groups=2), nn.Conv2d(2, 2, 3, padding="valid", bias=False)),
        ),
        (2, 19, 14),
    ),
    "tables and sub-sampling that sticks out": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 3, 4), Subsample(3, 3, "trainable", stride=2), SparseConv2d(TABLE, 3)),
            *(Subsample(4, 3, "average", stride=2), Subsample(4, 2, "max", stride=1), nn.Flatten()),
        ),
        (1, 30, 28),
    ),
    "overlapping pooling, and strided": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(2, 2, 2), nn.AvgPool2d(3, 1, 1)),
            *(Subsample(2, 3, "strided"), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)),
        ),
        (1, 29, 29),
    ),
    "kernels taller than two bands": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 7, padding=3), nn.Flatten()),
        (1, 9, 8),
    ),
    "ranks without rows, in the middle too": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 3, 3, stride=2), nn.Tanh(), nn.MaxPool2d(2), Subsample(3, 2, "average", stride=1)),
            *(nn.Conv2d(3, 3, 3, padding=2), L2Pool(2, 1), nn.Conv2d(3, 3, 3), Subsample(3, 2), nn.Conv2d(3, 2, 1)),
        ),
        (1, 13, 13),
    ),
    "untied, ranks without weights": (
        lambda: nn.Sequential(
            *(LocallyConnected2d(1, 3, 3, (12, 12), 2, generator=seeded()), nn.Tanh()),
            *(LocallyConnected2d(3, 2, 2, (5, 5), 2, generator=seeded(1)), nn.Flatten(), nn.Linear(8, 3)),
        ),
        (1, 12, 12),
    ),
    "whole maps before the first bands": (
        lambda: nn.Sequential(nn.GroupNorm(1, 2), nn.Conv2d(2, 3, 3), nn.Sigmoid(), nn.GroupNorm(3, 3), nn.Flatten()),
        (2, 10, 9),
    ),
    "a module used twice, in place": (reused, (1, 12, 11)),
    "LeNet-5": (LeNet5, (28, 28)),
    "LeNet-5, overlapping": (partial(LeNet5, sub_sampling="max", window=3, output="softmax"), (28, 28)),
    "ConvNet": (ConvNet, (28, 28)),
    "LocalNet": (LocalNet, (28, 28)),
}


def made(name, dtype=torch.float64):
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make().to(dtype)
    return net, torch.rand(3, *shape, dtype=dtype, generator=seeded(1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("grid", [(2, 1), (3, 1), (4, 1), (1, 3), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
@pytest.mark.parametrize("name", NETS)
def test_answers_and_all_gradients_are_the_whole_nets(name, grid):
    net, images = made(name)
    wanted = answer_and_gradients(copy.deepcopy(net), images)
    for found in team(grid[0] * grid[1]).call(split_pass, net, images, None, grid):
        assert found.keys() == wanted.keys()
        for each in wanted:
            torch.testing.assert_close(found[each], wanted[each], msg=lambda text, each=each: f"{each}: {text}")


def test_the_last_maps_order_in_memory_changes_nothing_and_stays():
    def orders(net, images):
        shard, seen = split_by_rows(net, images), []
        for module in net:
            if isinstance(module, nn.Tanh):
                module.register_forward_hook(
                    lambda _module, given, _found: seen.append(
                        given[0].is_contiguous(memory_format=torch.channels_last)
                    )
                )
        return answer_and_gradients(net, images, shard.reduce_gradients), seen

    layers = nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Tanh()
    net = last_in_channels(nn.Sequential(*layers))
    images = torch.rand(3, 2, 12, 12, generator=seeded()).contiguous(memory_format=torch.channels_last)
    wanted = answer_and_gradients(copy.deepcopy(net), images)
    for found, seen in team(3).call(orders, net, images):
        assert seen == [True] * 3
        for each in wanted:
            torch.testing.assert_close(found[each], wanted[each])


def test_part_of_the_weights_may_be_left_as_they_are():
    net, images = made("LocalNet")
    for frozen in (net.filter1, net.output):
        frozen.requires_grad_(False)
    wanted = answer_and_gradients(copy.deepcopy(net), images)
    for found in team(3).call(split_pass, net, images):
        torch.testing.assert_close(found, wanted)


def test_some_of_the_ranks_can_split_a_net_among_them():
    def in_pairs(net, images):
        import torch.distributed as dist

        pairs = [dist.new_group(pair) for pair in ((0, 1), (2, 3))]
        number = dist.get_rank() // 2
        group = Group(pairs[number], name="pair")
        mine = images + number
        return split_pass(net, mine, group)

    net, images = made("LocalNet")
    wanted = [answer_and_gradients(copy.deepcopy(net), images + number) for number in (0, 1)]
    for rank, found in enumerate(team(4).call(in_pairs, net, images)):
        torch.testing.assert_close(found, wanted[rank // 2])


def test_rows_are_borrowed_from_whoever_has_them_and_their_gradients_go_back():
    def borrowed(x, weights):
        group = Group()
        have, need = even_parts(7, 4), (range(7), range(0), range(5, 7), range(2, 6))
        wide = (range(x.shape[3]),)
        mine = x[:, :, have[group.rank].start : have[group.rank].stop].clone().requires_grad_()
        found = exchange_tiles(mine, Trade(group, Tiles(have, wide), Tiles(need, wide), (2, 3)))
        (found * weights[group.rank][:, :, : len(need[group.rank])]).sum().backward()
        return found.detach(), mine.grad, group.recorder.bytes_sent

    x = torch.randn(2, 3, 7, 5, generator=seeded())
    weights = torch.randn(4, 2, 3, 7, 5, generator=seeded(1))
    answers = team(4).call(borrowed, x, weights)
    whole = x.clone().requires_grad_()
    wanted = [whole, whole[:, :, :0], whole[:, :, 5:], whole[:, :, 2:6]]
    for rank, each in enumerate(wanted):
        (each * weights[rank][:, :, : each.shape[2]]).sum().backward()
    for (found, _, _), each in zip(answers, wanted, strict=True):
        assert torch.equal(found, each)
    torch.testing.assert_close(torch.cat([grad for _, grad, _ in answers], dim=2), whole.grad)
    lent = [0, 4, 4, 2]  # of rows 0-1, 2-3, 4-5 and 6
    lacked = [5, 0, 1, 4]
    assert [sent for _, _, sent in answers] == [4 * 2 * 3 * 5 * (a + b) for a, b in zip(lent, lacked, strict=True)]


# Training


images, labels = digits()
EXPERIMENTS = {name: experiments()[name] for name in ("LeNet-5", "ConvNet")} | {
    "LocalNet": Experiment(LocalNet, (images, labels), CrossEntropy(), lr=0.02, momentum=0.9, weight_decay=1e-4),
    "autoencoder": Experiment(
        lambda: nn.Sequential(
            *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(196, 784), nn.Sigmoid()),
        ),
        images.flatten(1),
        Reconstruction(corruption=0.1),
        lr=0.002,
    ),
    "few rows, Adam": Experiment(
        lambda: nn.Sequential(
            *(
                nn.Unflatten(1, (1, 28)),
                nn.Conv2d(1, 4, 4, stride=4),
                nn.Tanh(),
                LocallyConnected2d(4, 6, 4, (7, 7), 2),
            ),
            *(nn.Tanh(), nn.Flatten(), nn.Linear(24, 10)),
        ),
        (images, labels),
        CrossEntropy(),
        lr=0.003,
        momentum=None,
        optimizer=torch.optim.Adam,
    ),
}


@pytest.fixture(scope="module")
def alone():
    """Each experiment in one process, run once."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = run(EXPERIMENTS[name])
        return found[name]

    return get


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        *(("LeNet-5", 2), ("LeNet-5", 3), ("LeNet-5", 4), ("LocalNet", 2), ("LocalNet", 3), ("LocalNet", 4)),
        *(("ConvNet", 3), ("autoencoder", 4), ("few rows, Adam", 4)),
    ],
)
def test_a_split_run_gives_what_one_process_gives(name, ranks, alone):
    outcomes = team(ranks).call(run, EXPERIMENTS[name], SpatialParallel())
    assert type(outcomes[0].model) is type(alone(name).model)
    assert difference(alone(name).model, outcomes[0].model) < 1e-5
    assert all(same_bits(outcomes[0].model, other.model) for other in outcomes[1:])
    for mine, theirs in zip(alone(name).history, outcomes[0].history, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-4)
        assert mine["loss"] > 0


@pytest.mark.parametrize(("grid", "overlap"), [((1, 4), False), ((2, 2), False), ((2, 2), True)])
@pytest.mark.parametrize("name", ["LeNet-5", "LocalNet"])
def test_a_run_on_tiles_gives_what_one_process_gives(name, grid, overlap, alone):
    outcomes = team(4).call(run, EXPERIMENTS[name], SpatialParallel(grid, overlap))
    assert difference(alone(name).model, outcomes[0].model) < 1e-5
    assert all(same_bits(outcomes[0].model, other.model) for other in outcomes[1:])


@pytest.mark.parametrize("name", ["LocalNet", "few rows, Adam"])
def test_a_run_goes_on_split_or_alone_from_the_same_checkpoint(name, tmp_path, alone):
    experiment = EXPERIMENTS[name]
    folder = str(tmp_path / "split")
    team(4).call(run, experiment, SpatialParallel(grid=(2, 2)), steps=10, checkpoint=folder)
    assert difference(alone(name).model, run(experiment, checkpoint=folder, resume=True).model) < 1e-5

    folder = str(tmp_path / "alone")
    run(experiment, steps=10, checkpoint=folder)
    on_four = team(4).call(run, experiment, SpatialParallel(), checkpoint=folder, resume=True)[0]
    assert on_four.step == STEPS
    assert difference(alone(name).model, on_four.model) < 1e-5


@pytest.mark.parametrize("name", ["LocalNet", "few rows, Adam"])
def test_a_split_run_that_was_cut_off_ends_with_the_same_bits(name, tmp_path):
    experiment, folder = EXPERIMENTS[name], str(tmp_path)
    whole = team(3).call(run, experiment, SpatialParallel())[0]
    team(3).call(run, experiment, SpatialParallel(), steps=10, checkpoint=folder)
    resumed = team(3).call(run, experiment, SpatialParallel(), checkpoint=folder, resume=True)[0]
    assert same_bits(whole.model, resumed.model)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


# What is held, and sent


def test_a_rank_holds_its_own_rows_of_untied_weights_and_of_what_the_optimizer_keeps():
    def held(experiment):
        found = {}

        def note(run):
            for name, p in run.model.named_parameters():
                found[name] = (p.numel(), run.optimizer.state[p]["momentum_buffer"].numel())

        run(experiment, SpatialParallel(), steps=1, callbacks=[note])
        return found

    experiment = replace(EXPERIMENTS["LocalNet"], row_every=1)
    whole = {name: p.numel() for name, p in experiment.initial_model().named_parameters()}
    high = {"filter1": (25, [7, 6, 6, 6]), "filter2": (9, [3, 2, 2, 2])}  # of 28 and of 12 rows, by kernels of 4
    for rank, found in enumerate(team(4).call(held, experiment)):
        for name, numbers in found.items():
            rows, counts = high.get(name.split(".")[0], (1, [1] * 4))
            assert numbers == (whole[name] // rows * counts[rank],) * 2


def sizes(experiment):
    """Bytes that this rank sent in a step, by the name of the exchange."""
    found = experiment.run(strategy=SpatialParallel(), steps=2, device="cpu", progress=False)
    totals = {}
    last = max(span.begin for span in found.shard.recorder.spans if span.kind == "step")
    for span in found.shard.recorder.spans:
        if span.kind == "exchange" and span.begin > last:
            totals[span.name] = totals.get(span.name, 0) + span.bytes_sent
    return totals


def halo_bytes(layers, ranks, batch):
    """By counting row after row, who has it and who sees it: forward and backward, a number for each rank."""
    forward, backward = [0] * ranks, [0] * ranks

    def owner(row, height):
        least, more = divmod(height, ranks)
        bounds = [sum(least + (each < more) for each in range(rank + 1)) for rank in range(ranks)]
        return next(rank for rank, bound in enumerate(bounds) if row < bound)

    for height, high, size, stride, maps, width in layers:
        seen = {(row, owner(o, high)) for o in range(high) for row in range(o * stride, min(o * stride + size, height))}
        for row, rank in seen:
            if owner(row, height) != rank:
                forward[owner(row, height)] += maps * width * batch * 4
                backward[rank] += maps * width * batch * 4
    return forward, backward


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_bytes_sent_are_those_of_the_halos_the_gathered_rows_and_the_shared_weights(ranks):
    s2, c3, s4 = (28, 14, 2, 2, 6, 28), (14, 10, 5, 1, 6, 14), (10, 5, 2, 2, 16, 10)
    forward, backward = halo_bytes([s2, c3, s4], ranks, batch=100)
    weights = 156 + 12 + 1516 + 32  # as published: C1, S2, C3, S4
    for rank, found in enumerate(team(ranks).call(sizes, EXPERIMENTS["LeNet-5"])):
        assert found["halo"] == forward[rank]
        assert found["halo, back"] == backward[rank]
        assert found["all-gather"] == (ranks - 1) * -(-5 // ranks) * 5 * 16 * 100 * 4
        assert found["all-reduce"] == 2 * weights * 4 * (ranks - 1) // ranks
    if ranks == 2:  # rows 0-6 and 7-13 of S2: rank 0 computes rows 0-4 of C3 and lacks 7 and 8; rank 1 lacks 5 and 6
        rows = 2 * 6 * 14 + 1 * 16 * 10  # and of C3's ten rows S4's five part into 0-5 and 6-9: rank 0 lacks row 5
        assert (forward[1], backward[0]) == (rows * 400, rows * 400)
        assert (forward[0], backward[1]) == (2 * 6 * 14 * 400, 2 * 6 * 14 * 400)


def test_untied_weights_are_not_sent():
    for found in team(3).call(sizes, EXPERIMENTS["LocalNet"]):
        assert found.keys() == {"halo", "halo, back", "all-gather"}


# What is refused


def refused(experiment, grid=None):
    """The sentence, on each rank; all refuse alike, so that the ranks are still in step after it."""
    with pytest.raises(ValueError, match=r"\.$") as caught:
        run(experiment, SpatialParallel(grid))
    return str(caught.value)


FLAT = partial(copy.deepcopy, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
MAPS = (nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 2, 3))
LAST = (nn.Conv2d(2, 1, 3), nn.Flatten(), nn.LazyLinear(10))


def net_of(*modules):
    net = nn.Sequential(*copy.deepcopy((*MAPS, *modules)))
    net(torch.zeros(1, 28, 28))
    return net


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = FLAT(), FLAT()

    def forward(self, x):
        return self.one(x) + self.other(x)


REFUSED = {
    "an RBM": (experiments()["CD"], "CD has no net that images go through layer by layer"),
    "no places": (FLAT, "Sequential has no layer with maps and weights"),
    "branches without places": (Branches, "Branches has no layer with maps and weights"),
    "maps of one place": (
        lambda: nn.Sequential(nn.Flatten(), nn.Unflatten(1, (784, 1, 1)), nn.ConvTranspose2d(784, 1, 5), nn.Flatten()),
        "Sequential has no layer over maps that SpatialParallel knows how to split: use DataParallel.",
    ),
    "few rows": (
        lambda: nn.Sequential(MAPS[0], nn.Conv2d(1, 2, 27), nn.Flatten(), nn.Linear(8, 10)),
        "the maps of 1 have 2 rows, fewer than 3 ranks: use at most 2 engines",
    ),
    "line searches over parts": (
        replace(EXPERIMENTS["LocalNet"], optimizer=LineSearches, lr=1.0, momentum=None, weight_decay=0.0),
        "LineSearches looks at all parameters, or at whole ones, at once (their norm, say), and under SpatialParallel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused_with_the_reason(name):
    net, sentence = REFUSED[name]
    experiment = net if isinstance(net, Experiment) else Experiment(net, (images, labels), CrossEntropy())
    for found in team(3).call(refused, experiment):
        assert found.startswith(sentence)


@pytest.mark.parametrize(
    ("net", "grid", "sentence"),
    [
        (LeNet5, (2, 1), "SpatialParallel(grid=(2, 1)) needs as many ranks as its rows times its columns, and there "),
        (LeNet5, (3, 0), "SpatialParallel(grid=(3, 0)) needs as many ranks"),
        (
            lambda: nn.Sequential(MAPS[0], nn.Conv2d(1, 2, (3, 27)), nn.Flatten(), nn.Linear(104, 10)),
            (1, 3),
            "the maps of 1 are 26x2, too small for a grid of 1 x 3, which would leave a rank nothing: use a grid of at",
        ),
    ],
    ids=["ranks", "nothing", "columns"],
)
def test_grids_that_do_not_fit_are_refused(net, grid, sentence):
    experiment = Experiment(net, (images, labels), CrossEntropy())
    for found in team(3).call(refused, experiment, grid):
        assert found.startswith(sentence)


def test_line_searches_over_whole_weights_agree_on_all_ranks():
    experiment = replace(EXPERIMENTS["autoencoder"], optimizer=LineSearches, lr=1.0, momentum=None)
    outcomes = team(2).call(run, experiment, SpatialParallel(), steps=1)
    assert difference(run(experiment, steps=1).model, outcomes[0].model) < 1e-4
    assert same_bits(outcomes[0].model, outcomes[1].model)


def test_images_of_another_size_are_refused():
    def other(net, images):
        split_by_rows(net, images)
        with pytest.raises(
            ValueError, match=r"images of \(1, 12, 9\) for a net that was split for images of \(1, 12, 11\): give all"
        ):
            net(images[..., :9])

    team(2).call(other, *made("a module used twice, in place"))
