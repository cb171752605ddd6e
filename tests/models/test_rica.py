"""RICA: its cost against matrices written out, stages that learn without labels, and the same over tiles."""

import copy
from functools import partial

import pytest
import torch
from oracles import seeded
from ranks import team
from rows import answer_and_gradients, split_pass
from torch import nn

from dlkit import Experiment, data
from dlkit.models import LocallyConnected2d, RICAStack, RICAStage
from dlkit.models.locally_connected import locally_connected_transposed
from dlkit.strategies import DataParallel, SpatialParallel, cost
from dlkit.training import OwnCost, pretrain


@pytest.mark.parametrize(("size", "stride", "input"), [(3, 1, (5, 6)), (3, 2, (8, 7)), (2, 2, (5, 7)), (2, 3, (6, 9))])
def test_its_transpose_is_that_of_the_matrix_of_all_weights(size, stride, input):
    layer = LocallyConnected2d(2, 3, size, input, stride, bias=False, generator=seeded()).double()
    x = torch.rand(1, 2, *input, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(lambda x: layer(x).flatten(), x).flatten(1)
    code = torch.randn(4, *layer(x).shape[1:], dtype=torch.float64, generator=seeded(1))
    found = layer.transposed(code)
    torch.testing.assert_close(found.flatten(1), code.flatten(1) @ matrix, rtol=1e-12, atol=1e-12)
    assert torch.equal(found, locally_connected_transposed(code, layer.weight, size, stride, input))


def test_the_cost_of_a_stage_is_the_formula_s():
    stage = RICAStage(1, 3, 3, (9, 8), pool=(2, 2), sparsity=0.3, generator=seeded()).double()
    images = torch.randn(2, 9, 8, dtype=torch.float64, generator=seeded(1))
    layer = stage.filters
    matrix = torch.autograd.functional.jacobian(lambda x: layer(x).flatten(), images[:1, None]).flatten(1)
    for image, found in zip(images.flatten(1), stage(images), strict=True):
        code = matrix @ image
        error = (matrix.T @ code - image).square().sum()
        maps = code.view(3, 7, 6)
        pools = 0.0
        for one in maps:
            for row in range(0, 6, 2):
                for column in range(0, 5, 2):
                    pools += (1e-4 + one[row : row + 2, column : column + 2].square().sum()).sqrt()
        assert found.item() == pytest.approx((error + 0.3 * pools).item(), rel=1e-12)
    assert stage.hidden_given(images).shape == (2, *stage.output)


def stages(maps=(2, 3), size=(14, 13)):
    first = RICAStage(1, maps[0], 3, size, generator=seeded())
    return [first, RICAStage(maps[0], maps[1], 2, first.output[1:], pool=(2, 1), contrast=3, generator=seeded(1))]


def test_a_stack_has_the_sum_of_its_stages_costs_each_of_what_the_one_below_gives():
    lower, upper = stages()
    images = torch.randn(3, 14, 13, generator=seeded(1))
    stack = RICAStack([lower, upper])
    below = lower.hidden_given(images)
    torch.testing.assert_close(stack(images), lower(images) + upper(below))
    torch.testing.assert_close(stack.hidden_given(images), upper.hidden_given(below))


@pytest.mark.parametrize("grid", [(2, 1), (1, 3), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_over_tiles_a_stack_has_the_same_costs_and_gradients(grid):
    net = RICAStack(stages()).double()
    images = torch.randn(3, 14, 13, dtype=torch.float64, generator=seeded(1))
    wanted = answer_and_gradients(copy.deepcopy(net), images)
    for found in team(grid[0] * grid[1]).call(split_pass, net, images, None, grid):
        assert found.keys() == wanted.keys()
        for name in wanted:
            assert (found[name] - wanted[name]).norm() <= 1e-12 * wanted[name].norm(), name


def trained(strategy=None):
    patches = data.patches(14, 500)
    experiment = Experiment(lambda: RICAStack(stages(size=(14, 14))), patches, OwnCost(), batch_size=50, lr=0.001)
    run = experiment.run(strategy=strategy, steps=10, device="cpu", progress=False)
    sent = 0 if strategy is None else run.shard.recorder.bytes_sent
    held = sum(p.numel() for p in run.model.parameters())
    return {name: value.clone() for name, value in run.model.state_dict().items()}, run.history["loss"][-1], sent, held


def test_split_by_data_or_by_region_it_learns_what_it_learns_alone():
    alone, loss, _, _ = trained()
    for strategy in (DataParallel(), SpatialParallel(), SpatialParallel((1, 2))):
        for found, other, _, _ in team(2).call(trained, strategy):
            assert other == pytest.approx(loss, rel=1e-5)
            for name, value in alone.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def sent_in_a_step(grid):
    patches = data.patches(14, 400)
    experiment = Experiment(lambda: RICAStack(stages(size=(14, 14))), patches, OwnCost(), batch_size=50, lr=0.001)
    sent, held = [], []

    def look(run):
        sent.append(run.shard.recorder.bytes_sent)
        held.append(sum(p.nbytes for p in run.model.parameters()))

    experiment.run(strategy=SpatialParallel(grid), steps=2, device="cpu", progress=False, on_step=look)
    return sent[1] - sent[0], held[0]


@pytest.mark.parametrize("grid", [(2, 1), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def test_a_step_sends_what_its_cost_says_and_a_rank_has_the_weights_of_its_places(grid):
    ranks = grid[0] * grid[1]
    bill = cost(RICAStack(stages(size=(14, 14))), (14, 14), 50, ranks, SpatialParallel(grid))
    whole = sum(p.nbytes for p in RICAStack(stages(size=(14, 14))).parameters())
    for rank, (sent, held) in enumerate(team(ranks).call(sent_in_a_step, grid)):
        assert 0 <= sent - bill.bytes_sent(rank) <= ranks * len(bill.layers[rank])
        assert held == bill.total(rank, "parameters") < whole


def test_stage_by_stage_the_costs_fall():
    patches = data.patches(14, 2000)
    lower, upper = stages(size=(14, 14))
    layers = [
        Experiment(
            partial(copy.deepcopy, stage),
            patches if number == 0 else None,
            OwnCost(),
            batch_size=50,
            lr=0.001,
            row_every=10,
        )
        for number, stage in enumerate((lower, upper))
    ]
    for run in pretrain(layers, device="cpu", progress=False):
        assert run.history["loss"][-1] < 0.9 * run.history["loss"][0]


def test_what_is_no_cost_and_stages_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"Sequential gives \(5, 3\) for 5 images: OwnCost trains nets that give a cost"
    ):
        Experiment(
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(196, 3)), data.patches(14, 300), OwnCost(), batch_size=50
        ).run(steps=1, device="cpu", progress=False)
    with pytest.raises(ValueError, match="pools of 3x3 for maps of 2x2: make them smaller"):
        RICAStage(1, 2, 5, (6, 6))
    with pytest.raises(ValueError, match="a sparsity of -1: 0 or more"):
        RICAStage(1, 2, 3, (6, 6), sparsity=-1)
    with pytest.raises(ValueError, match=r"a stage that gives \(2, 5, 5\) below one that takes \(1, 14, 13\)"):
        RICAStack([stages()[0], stages()[0]])
    with pytest.raises(ValueError, match="a stack without stages"):
        RICAStack([])
