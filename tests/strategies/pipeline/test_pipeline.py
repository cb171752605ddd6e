"""Splitting by layers: the same result as one process, in the order that the schedules are published with."""

import os
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch
from ranks import team
from splitting import STEPS, difference, digits, experiments, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.distributed.recorder import Span
from dlkit.models import DBN, LeNet5
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.graph_check import graph_of
from dlkit.models.rbm import RBM
from dlkit.strategies import Pipeline, bubble, measured_bubble
from dlkit.strategies.pipeline import partition
from dlkit.strategies.pipeline.partition import best_cut
from dlkit.training import CrossEntropy, InputDropout, Reconstruction, UpDown
from dlkit.training.fine_tuning import LineSearches

EXPERIMENTS = experiments()


@pytest.fixture(scope="module")
def alone():
    """Each experiment in one process, run once."""
    found = {}

    def get(name):
        if name not in found:
            found[name] = run(EXPERIMENTS[name])
        return found[name]

    return get


def passes(experiment, strategy, **settings):
    """This rank's run with what it noted down, the names and bytes of what it held, and its optimizer's."""
    found = experiment.run(strategy=strategy, **{"steps": 3, "device": "cpu", "progress": False} | settings)
    kept = {name: value.nbytes for name, value in found.shard.model.state_dict().items()}
    momentum = sum(x.nbytes for state in found.optimizer.state.values() for x in state.values())
    return list(found.shard.recorder.spans), kept, momentum


# The same as one process


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        *(("LeNet-5", 2), ("LeNet-5", 3), ("LeNet-5", 4)),
        *(("ConvNet", 3), ("DBN", 3), ("autoencoder", 2), ("autoencoder", 4)),
    ],
)
def test_a_split_run_gives_what_one_process_gives(name, ranks, schedule, alone):
    outcomes = team(ranks).call(run, EXPERIMENTS[name], Pipeline(schedule=schedule))  # the last batch: 50 images, in 2
    assert difference(alone(name).model, outcomes[0].model) < 1e-5
    assert all(same_bits(outcomes[0].model, other.model) for other in outcomes[1:])
    for outcome in outcomes:
        for mine, theirs in zip(alone(name).history, outcome.history, strict=True):
            assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-5)
            assert theirs.get("error") == pytest.approx(mine.get("error"))


@pytest.mark.parametrize(
    "learner",
    [CrossEntropy(distortion=InputDropout()), CrossEntropy(rubbish=1.0)],
    ids=["input dropout", "rubbish class"],
)
def test_what_is_drawn_or_added_to_a_batch_is_so_here(learner):
    images, labels = digits(205)  # the last batch, of 5, goes in one piece
    experiment = replace(EXPERIMENTS["DBN"], learner=learner, data=(images.flatten(1), labels))
    (found, _) = team(2).call(run, experiment, Pipeline(10))
    assert difference(run(experiment).model, found.model) < 1e-5


@pytest.mark.parametrize(
    ("stages", "begins"),
    [(["c3", "f6"], ["pad", "c3.0", "f6.0"]), ([2, 5], ["pad", "s2.0", "c5.0"]), (["c3.0", 4], None)],
    ids=["names", "positions", "both"],
)
def test_stages_begin_where_they_are_asked_to(stages, begins, alone):
    found = team(3).call(passes, EXPERIMENTS["LeNet-5"], Pipeline(stages=stages), steps=1)
    whole = {name: value.nbytes for name, value in LeNet5().state_dict().items()}
    assert [name for _, kept, _ in found for name in kept] == list(whole)
    assert sum(sum(kept.values()) for _, kept, _ in found) == sum(whole.values())
    trained = sum(p.nbytes for p in LeNet5().parameters())
    assert sum(momentum for _, _, momentum in found) == trained
    for (_, kept, _), begin in zip(found[1:], (begins or ["pad", "c3.0", "s4.0"])[1:], strict=True):
        assert next(iter(kept)).startswith(f"{begin}.")


# What a checkpoint keeps is the whole's


class Counting(torch.optim.SGD):
    """SGD that also keeps a number, and not only tensors, of each parameter: how many values it has changed."""

    def step(self, closure=None):
        found = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["changed"] = self.state[p].get("changed", 0) + p.numel()
        return found


def counted(experiment, strategy=None, **settings):
    found = experiment.run(strategy=strategy, device="cpu", progress=False, **settings)
    return [
        (p.numel(), found.optimizer.state[p]["changed"])
        for group in found.optimizer.param_groups
        for p in group["params"]
    ]


@pytest.mark.parametrize(
    "experiment",
    [EXPERIMENTS["LeNet-5"], replace(EXPERIMENTS["autoencoder"], optimizer=torch.optim.Adam, momentum=None)],
    ids=["SGD", "Adam"],
)
def test_a_run_goes_on_split_or_alone_from_the_same_checkpoint(experiment, tmp_path):
    split, single = str(tmp_path / "split"), str(tmp_path / "single")
    whole = run(experiment).model
    team(3).call(run, experiment, Pipeline(), steps=7, checkpoint=split)
    run(experiment, steps=7, checkpoint=single)
    on_two = team(2).call(run, experiment, Pipeline(10, "gpipe"), checkpoint=single, resume=True)[0]
    on_one = run(experiment, checkpoint=split, resume=True)
    for found in (on_one, on_two):
        assert found.step == STEPS
        assert difference(whole, found.model) < 1e-5


def test_a_split_run_that_was_cut_off_ends_with_the_same_bits(tmp_path):
    experiment, folder = EXPERIMENTS["LeNet-5"], str(tmp_path)
    whole = team(2).call(run, experiment, Pipeline())[0]
    team(2).call(run, experiment, Pipeline(), steps=10, checkpoint=folder)
    resumed = team(2).call(run, experiment, Pipeline(), checkpoint=folder, resume=True)[0]
    assert same_bits(whole.model, resumed.model)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]


def test_numbers_that_an_optimizer_keeps_stay_with_their_parameters(tmp_path):
    experiment, folder = replace(EXPERIMENTS["DBN"], optimizer=Counting), str(tmp_path)
    team(3).call(counted, experiment, Pipeline(), steps=2, checkpoint=folder)
    parted = team(2).call(counted, experiment, Pipeline(), steps=5, checkpoint=folder, resume=True)
    single = counted(experiment, steps=7, checkpoint=folder, resume=True)
    assert [changed for part in parted for _, changed in part] == [5 * n for part in parted for n, _ in part]
    assert [changed for _, changed in single] == [7 * n for n, _ in single]


def test_all_ranks_stop_after_the_same_step_when_the_last_is_asked_to():
    def stopped(experiment):
        def ask(run):
            if run.shard.rank == 1 and run.step == 5:
                run.stop("seen enough")

        return run(experiment, Pipeline(), on_step=ask, steps=1000)

    outcomes = team(2).call(stopped, EXPERIMENTS["DBN"])
    assert {outcome.stopped for outcome in outcomes} == {"seen enough"}
    assert len({outcome.step for outcome in outcomes}) == 1
    assert outcomes[0].step < 100


# Who computes when, and what is sent

GPIPE = "F0 F1 F2 F3 B0 B1 B2 B3"
ORDERS = {  # Narayanan et al. 2019, §3.2: a stage lets in as many microbatches as stages are left, then takes turns
    "gpipe": [GPIPE, GPIPE, GPIPE],
    "1f1b": ["F0 F1 F2 B0 F3 B1 B2 B3", "F0 F1 B0 F2 B1 F3 B2 B3", "F0 B0 F1 B1 F2 B2 F3 B3"],
}


@pytest.mark.parametrize("schedule", ORDERS)
def test_passes_come_in_the_order_of_the_schedule_and_wait_for_each_other(schedule):
    found = team(3).call(passes, EXPERIMENTS["LeNet-5"], Pipeline(schedule=schedule))
    batches = [
        [[s for s in spans if s.kind == "compute" and s.number == number] for spans, _, _ in found]
        for number in (1, 2, 3)
    ]
    for ranks in batches:
        assert [" ".join(s.name for s in spans if s.name[0] != "L") for spans in ranks] == ORDERS[schedule]
        first, second, third = ({s.name: s for s in spans} for spans in ranks)
        for m in range(4):
            assert first[f"F{m}"].end <= second[f"F{m}"].begin <= second[f"F{m}"].end <= third[f"F{m}"].begin
            assert third[f"F{m}"].end <= third[f"L{m}"].begin <= third[f"L{m}"].end <= third[f"B{m}"].begin
            assert third[f"B{m}"].end <= second[f"B{m}"].begin <= second[f"B{m}"].end <= first[f"B{m}"].begin
    assert 0 < measured_bubble([spans for spans, _, _ in found]) < 1


def test_what_is_sent_are_the_activations_of_all_images_and_their_gradients():
    found = team(3).call(passes, EXPERIMENTS["LeNet-5"], Pipeline(stages=["c3", "c5"]), steps=2)
    after_s2, after_s4 = 6 * 14 * 14, 16 * 5 * 5
    for (spans, _, _), forward, backward in zip(found, (after_s2, after_s4, 0), (0, after_s2, after_s4), strict=True):
        for name, values in (("send activations", forward), ("send gradients", backward)):
            sizes = [s.bytes_sent for s in spans if s.name == name]
            assert sizes == ([25 * values * 4] * 2 * 4 if values else [])
    for sender, receiver in ((0, 1), (1, 0), (1, 2), (2, 1)):  # each message has its two ends
        way = f"stage {sender} to {receiver}"
        sent, come = ([s for s in found[rank][0] if s.group == way] for rank in (sender, receiver))
        assert [s.number for s in sent] == [s.number for s in come] == list(range(1, 9))
        assert all(one.begin <= other.end for one, other in zip(sent, come, strict=True))


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the kernel counts no bytes here")
def test_what_is_counted_is_what_the_kernel_counts():
    def both(experiment):
        seen = []

        def look(run):
            with open("/proc/self/io") as lines:
                kernel = int(dict(line.split(": ") for line in lines)["wchar"])
            seen.append((kernel, run.shard.recorder.bytes_sent))

        run(experiment, Pipeline(), on_step=look, steps=10)
        return [last - first for first, last in zip(seen[2], seen[-1], strict=True)]

    for kernel, ours in team(2).call(both, EXPERIMENTS["LeNet-5"]):
        assert ours == pytest.approx(kernel, rel=0.02)


def test_the_bubble_is_that_of_a_line_whose_stages_are_equally_fast():
    K, M = 4, 8
    drained = M + K - 1  # by when the last stage has made its last forward pass; a backward one takes twice as long
    ranks = []
    for k in range(K):
        forward = [Span("compute", f"F{m}", m + k, m + k + 1) for m in range(M)]
        back = [drained + 2 * (m + K - 1 - k) for m in range(M)]
        backward = [Span("compute", f"B{m}", begin, begin + 2) for m, begin in enumerate(back)]
        waits = [Span("exchange", "receive activations", k, k + 5)]
        cold = [Span("compute", "F0", -90, -10, number=1)]
        ranks.append(cold + [s._replace(number=2) for s in forward + backward + waits])
    assert measured_bubble(ranks) == pytest.approx(bubble(K, M)) == pytest.approx(3 / 11)
    assert bubble(1, 4) == 0
    with pytest.raises(ValueError, match="train for longer"):
        measured_bubble([spans[:1] for spans in ranks])


# Where to cut


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_is_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(1, 100, (9,), generator=generator).tolist()
    for stages in range(1, 10):

        def slowest(places):
            return max(sum(costs[a:b]) for a, b in zip((0, *places), (*places, 9), strict=True))

        found = best_cut(costs, stages)
        assert len(found) == stages - 1
        assert slowest(found) == min(map(slowest, combinations(range(1, 9), stages - 1)))


def blocks_of(net):
    images = torch.rand(5, 784)
    return partition.partition(graph_of(net, images), images, deepcopy)


def test_a_layer_weighs_as_many_multiplications_as_both_its_passes_have(monkeypatch):
    monkeypatch.setattr(partition, "VALUE", 0)
    blocks = blocks_of(DBN([RBM(784, 60), RBM(60, 50)]).classifier(10))
    assert blocks.costs == [2 * 2 * 784 * 60, 2 * 3 * 60 * 50, 2 * 3 * 50 * 10]  # the first has no gradient to hand on
    assert [[blocks.seen.shape(node, 7) for node in values] for values in blocks.crossing] == [[], [(7, 60)], [(7, 50)]]


def test_layers_without_weights_stay_with_the_one_before():
    blocks = blocks_of(DBN([RBM(784, 60), RBM(60, 50)]).autoencoder())
    called = [[node.target for node in blocks.graph.nodes[slice(*blocks.span(i, i + 1))]] for i in range(4)]
    assert [called[0][1:], *called[1:3], called[3][:-1]] == [  # but for the images and the output
        ["0.0", "0.1", "0.2"],
        ["0.3"],
        ["1.0", "1.1"],
        ["1.2", "1.3"],
    ]


# What is refused


class Own(nn.Sequential):
    def forward(self, input):
        return super().forward(input) + 1


def shared():
    layer = nn.Linear(784, 784)
    return nn.Sequential(layer, nn.Sigmoid(), layer, nn.Sigmoid(), nn.Flatten())


class Centred(nn.Linear):
    def forward(self, input):
        return super().forward(input - input.mean(0))


def net(*layers):
    return nn.Sequential(nn.Linear(784, 20), *layers, nn.Linear(20, 10))


LINEAR, ROWS = EXPERIMENTS["DBN"], EXPERIMENTS["CD"].data
REFUSED = [
    (EXPERIMENTS["CD"], {}, "CD has no loss of a net's output, and so no backward pass from stage to stage"),
    (Experiment(lambda: DBN([RBM(784, 9), RBM(9, 9)]).untied(), ROWS, UpDown()), {}, "UpDown has no loss"),
    (
        Experiment(partial(Autoassociator, 784, 9), ROWS, Reconstruction(sparsity_target=0.1)),
        {},
        "a sparsity target needs the mean activity of a whole batch",
    ),
    (EXPERIMENTS["autoassociator"], {"stages": ["b"]}, "of those with weights: a."),
    (replace(LINEAR, model=lambda: Own(nn.Linear(784, 10))), {}, "ranks need a layer with weights each, and this Own"),
    (replace(LINEAR, model=shared), {}, "0.weight and 2.weight are one parameter, which would be on two ranks"),
    (replace(LINEAR, model=lambda: net(nn.BatchNorm1d(20))), {}, "1, a BatchNorm1d, takes its statistics from"),
    (replace(LINEAR, model=lambda: net(Centred(20, 20))), {}, "what an image gives must not depend on the others"),
    (
        replace(LINEAR, optimizer=LineSearches, momentum=None),
        {},
        "LineSearches looks at all parameters, or at whole ones, at once",
    ),
    (LINEAR, {"microbatches": 8}, "a batch of 100 does not divide into 8 microbatches: 4, 5 or 10 do."),
    (LINEAR, {"microbatches": 1}, "microbatches=1 does not fill 2 stages: 1F1B needs one for each"),
    (
        replace(LINEAR, model=lambda: nn.Sequential(nn.Linear(784, 10), nn.Sigmoid())),
        {},
        "2 ranks need a layer with weights each, and this Sequential has 1",
    ),
    (EXPERIMENTS["ConvNet"], {"stages": ["s1"]}, "of those with weights: c2.0, output."),
    (EXPERIMENTS["ConvNet"], {"stages": ["c1"]}, "of those with weights: c2.0, output."),
    (EXPERIMENTS["ConvNet"], {"stages": [9]}, "of those with weights: c2.0, output."),
    (EXPERIMENTS["ConvNet"], {"stages": ["output", "c2"]}, "in the net's order"),
    (EXPERIMENTS["ConvNet"], {"stages": ["c2", "output"]}, "makes 3 stages, and there are 2 ranks"),
]


def test_what_cannot_be_split_so_is_refused_with_the_reason():
    def said(refused):
        found = []
        for experiment, settings, _ in refused:
            try:
                run(experiment, Pipeline(**settings), steps=1)
                found.append("")
            except ValueError as error:
                found.append(str(error))
        return found

    for found in team(2).call(said, REFUSED):
        for sentence, (_, _, wanted) in zip(found, REFUSED, strict=True):
            assert wanted in sentence
            assert sentence.endswith(".")


def test_settings_that_make_no_sense_are_refused_at_once():
    with pytest.raises(ValueError, match="microbatches=0: at least 1"):
        Pipeline(microbatches=0)
    with pytest.raises(ValueError, match="it is one of 1f1b, gpipe"):
        Pipeline(schedule="interleaved")
