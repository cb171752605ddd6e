"""The bench of nets that grow with their ranks, reduced: sizes, what is planned to be sent and is, its rows."""

from collections import Counter

import pytest
import torch

from dlkit.bench import scaling, scaling_prediction
from dlkit.bench.parallel_floors import Rate
from dlkit.bench.scaling_prediction import GrownNet, PlannedExchange, measure_tile, planned_exchanges
from dlkit.cluster import Cluster
from dlkit.distributed.links import GIGABIT
from dlkit.strategies import cost

A_RANK = 40_000  # parameters


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("MAPS", 4), ("SIZE", 8), ("BATCH", 4)):
        monkeypatch.setattr(scaling_prediction, name, value)


@pytest.mark.parametrize("grid", [(1, 1), (2, 1), (2, 2), (3, 3)])
def test_every_rank_of_a_grown_net_holds_about_as_many_parameters(grid):
    net = GrownNet.over(grid, A_RANK)
    weights = scaling_prediction.model_of(net.image)().filters.weight
    places = [length - 8 + 1 for length in net.image]
    assert weights.numel() == places[0] * places[1] * 4 * 8**2 == scaling_prediction.parameters_for(net.image)
    if net.ranks == 1:
        assert weights.numel() == pytest.approx(A_RANK, rel=0.06)
        return
    on_paper = paper_cost(net)
    for rank in range(net.ranks):
        assert on_paper.total(rank, "parameters") / 4 == pytest.approx(A_RANK, rel=0.1)


def paper_cost(net):
    return cost(scaling_prediction.model_of(net.image)(), net.image, 4, net.ranks, net.strategy)


@pytest.mark.parametrize("grid", [(2, 1), (2, 2)])
def test_planned_exchanges_add_up_to_what_cost_says(grid):
    net = GrownNet.over(grid, A_RANK)
    exchanges, on_paper = planned_exchanges(net, 4), paper_cost(net)
    for rank in range(net.ranks):
        assert sum(exchange.sent[rank] for exchange in exchanges) == on_paper.bytes_sent(rank) > 0
    assert planned_exchanges(GrownNet.over((1, 1), A_RANK), 4) == []


def test_a_run_sends_and_holds_what_is_planned(cluster):
    net, steps = GrownNet.over((2, 1), A_RANK), 3
    exchanges = planned_exchanges(net, 4)
    run = cluster.run(net.experiment(), net.strategy, steps=steps, device="cpu", progress=False)
    on_paper = paper_cost(net)
    for rank, report in enumerate(run.ranks):
        assert report.bytes_sent == steps * sum(exchange.sent[rank] for exchange in exchanges)
        assert report.memory_bytes == on_paper.memory_bytes(rank, optimizer_values=0)
        spans = [span.name for span in report.spans if span.kind == "exchange"]
        kinds = Counter(name if name == "all-reduce" else "send" for name in spans)
        assert kinds == Counter(exchange.kind for _ in range(steps) for exchange in exchanges)
    assert all(torch.tensor(run.history["loss"]).isfinite())


def test_a_tile_is_what_a_rank_holds_of_the_net(cluster):
    net = GrownNet.over((2, 1), A_RANK)
    tiles = cluster.call(measure_tile, net.experiment(), net.strategy, 1)
    assert [4 * tile.parameters for tile in tiles] == [paper_cost(net).total(rank, "parameters") for rank in (0, 1)]
    assert all(tile.seconds > 0 for tile in tiles)


def test_exchanges_take_a_latency_each_and_their_bytes():
    exchanges = [PlannedExchange("send", (1000, 0), 1000), PlannedExchange("all-reduce", (8, 8), 8)]
    rates = {kind: Rate.of_link(GIGABIT, kind, 2) for kind in ("send", "all-reduce")}
    seconds = GIGABIT.seconds("halo", 1000, 2) + GIGABIT.seconds("all-reduce", 8, 2)  # 8 bytes go twice half-way
    assert scaling_prediction.planned_seconds(exchanges, rates) == pytest.approx(seconds)


def test_each_engine_has_one_core_and_shares_it_where_there_are_too_few(monkeypatch):
    for cores, expected in ([0, 1], [1, 1, 1, 1]), (list(range(8)), [1, 1, 1, 1]):
        monkeypatch.setattr(scaling, "cores_here", lambda cores=cores: cores)
        plan = scaling.one_core_each(4).plan
        assert [placement.threads for placement in plan] == expected
        assert Counter(placement.cores for placement in plan) == {(core,): 4 // len(cores[:4]) for core in cores[:4]}


class SharedCluster(Cluster):
    def stop(self):
        """Other tests go on with its engines."""


def test_it_measures_every_row(monkeypatch, cluster):
    monkeypatch.setattr(scaling, "Cluster", SharedCluster)
    monkeypatch.setattr(scaling, "PARAMETERS_A_RANK", A_RANK)
    monkeypatch.setattr(scaling, "GRIDS", ((2, 1),))
    for name in ("ROUNDS", "STEPS", "WARM"):
        monkeypatch.setattr(scaling, name, 1)
    rows = scaling.measure()
    assert [(row.grid, row.link) for row in rows] == [("2x1", link) for link in scaling.LINKS]
    for row in rows:
        assert row.ranks == 2
        assert row.cores * row.ranks_a_core >= 2
        assert row.parameters == 2 * int(row.parameters_a_rank.replace(",", ""))
        assert row.kilobytes > 0
        assert row.predicted > row.exchanges > 0
        assert row.measured > 0
    assert rows[0].times_one_rank == 1


def test_gpus_are_to_be_hidden(monkeypatch):
    monkeypatch.setattr(scaling, "gpus_here", lambda: 1)
    with pytest.raises(ValueError, match="hide the GPUs"):
        scaling.measure()
