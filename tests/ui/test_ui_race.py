"""The race: the runs are the cluster's own, and an engine can be slowed."""

import time
from dataclasses import replace

import pytest
from splitting import digits, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.cluster import slowed
from dlkit.models import RBM
from dlkit.strategies import DataParallel, Downpour, ModelAveraging, Pipeline
from dlkit.training import CD, CrossEntropy
from dlkit.ui import Race


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 12), nn.Tanh(), nn.Linear(12, 10))


MADE = Experiment(net, digits(800), CrossEntropy(), batch_size=40, epochs=1, lr=0.1, row_every=2)
CONTESTANTS = {"by data": (MADE, DataParallel()), "Downpour": (MADE, Downpour(share=True))}


def weight(model):
    return float(model[1].weight.detach().abs().sum())


@pytest.fixture
def show(cluster):
    yield lambda contestants=CONTESTANTS, score=weight: Race(cluster, contestants, score, "sum of weights")
    if Race.current is not None:
        Race.current.retire()
        Race.current = None


def test_each_contestant_runs_and_is_scored_at_each_row(cluster, show):
    race = show()
    race.start_button.click()
    runs = race.wait()
    alone = cluster.run(MADE, DataParallel(), progress=False)
    assert same_bits(runs["by data"].model, alone.model)
    for name, run in runs.items():
        points = race.lines[name]
        assert points[0] == (0.0, pytest.approx(weight(MADE.initial_model())))
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert points[1:] == [(row["seconds"], row["score"]) for row in run.history.rows]
    assert race.lines["by data"][-1][1] == pytest.approx(weight(alone.model))
    assert [row[:2] for row in race.results] == [["by data", "no"], ["Downpour", "no"]]
    assert "by data: " in race.chart.value
    assert "<td" in race.table.value


def test_a_slowed_engine_is_waited_for_by_data_and_not_by_downpour(show):
    race = show({name: (replace(MADE, learner=Works()), strategy) for name, (_, strategy) in CONTESTANTS.items()})
    race.times.value = 10
    race.start()
    runs = race.wait()
    assert runs["by data"].seconds > 10 * 0.01 * 20
    quick, slow = runs["Downpour"].ranks
    assert quick.batches > 3 * slow.batches
    assert {row[1] for row in race.results} == {"10 times"}


class Works(CrossEntropy):
    """A batch takes 10 ms."""

    def fill_grad(self, *arguments):
        time.sleep(0.01)
        return super().fill_grad(*arguments)


def test_it_is_stopped(show):
    race = show({name: (replace(MADE, epochs=10_000), strategy) for name, (_, strategy) in CONTESTANTS.items()})
    race.start()
    while len(race.lines["by data"]) < 3:
        time.sleep(0.02)
    race.stop_button.click()
    runs = race.wait()
    assert [run.stopped for run in runs.values()] == ["stopped"]
    assert "Stopped." in race.status.value


def test_nobody_is_no_race(cluster):
    with pytest.raises(ValueError, match="nobody to race: give"):
        Race(cluster, {}, weight)


def rbm():
    return RBM(784, 10)


@pytest.mark.parametrize(
    ("made", "strategy"),
    [
        (MADE, ModelAveraging(2)),
        (Experiment(rbm, digits(200)[0].flatten(1), CD(), batch_size=40, lr=0.1), DataParallel()),
    ],
)
def test_a_slowed_learner_learns_the_same(cluster, made, strategy):
    slow = replace(made, learner=slowed(made.learner, 2))
    first, second = (cluster.run(each, strategy, steps=4, progress=False).model for each in (made, slow))
    assert same_bits(first, second)


def test_a_strategy_that_runs_the_net_itself_refuses_a_slowed_learner(cluster):
    with pytest.raises(ValueError, match="runs the net itself, and a learner cannot be slowed there"):
        cluster.run(replace(MADE, learner=slowed(MADE.learner, 2)), Pipeline(), steps=2, progress=False)


def test_a_learner_is_not_made_faster():
    with pytest.raises(ValueError, match=r"times=0.5: 1 leaves it as fast as it is"):
        slowed(CrossEntropy(), 0.5)
