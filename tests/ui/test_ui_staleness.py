"""Workers in simulated time: what the explorer trains is what `train_virtually` trains."""

import time
from dataclasses import replace

import pytest
import torch
from splitting import digits, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.strategies import Adagrad, Downpour, Plain, Rule, train_virtually
from dlkit.training import CrossEntropy
from dlkit.ui import StalenessExplorer


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


MADE = Experiment(net, digits(600), CrossEntropy(), batch_size=20, epochs=1, lr=0.1, row_every=5)


class Halves(Rule):
    """A rule of a reader's own."""

    def step(self, values, gradient, lr, staleness):
        values.sub_(gradient, alpha=lr / 2)


@pytest.fixture
def explorer():
    yield StalenessExplorer(
        MADE, {"plain": (Plain, 0.1), "adagrad": (Adagrad, 0.03), "halves": (Halves, 0.2)}, lambda model: 12.5
    )
    StalenessExplorer.current.retire()
    StalenessExplorer.current = None


@pytest.mark.parametrize(("name", "rule", "lr"), [("adagrad", Adagrad, 0.03), ("halves", Halves, 0.2)])
def test_it_trains_what_is_set(explorer, name, rule, lr):
    explorer.rule.value, explorer.workers.value = name, 5
    assert explorer.rate.value == lr  # that of the rule
    explorer.start_button.click()
    run = explorer.wait()
    assert same_bits(run.model, train_virtually(replace(MADE, lr=lr), Downpour(rule=rule, overlap=False), 5).model)
    assert f"mean staleness {run.mean_staleness:.2f}" in explorer.status.value
    assert "held-out images (%) 12.5" in explorer.status.value
    assert f"{name}, 5 workers, rate {lr:g}: {run.history['loss'][-1]:.3g} at 30" in explorer.chart.value


def test_the_last_runs_stay_in_the_picture_and_one_that_is_made_again_is_there_once(explorer):
    for workers in (1, 2, 5, 10, 15, 20, 30, 1):
        explorer.workers.value = workers
        explorer.start()
        explorer.wait()
    assert [name.split(", ")[1] for name in explorer.losses] == [
        "5 workers", "10 workers", "15 workers", "20 workers", "30 workers", "1 worker"
    ]  # fmt: skip


def test_it_is_stopped(explorer):
    explorer.experiment = replace(MADE, epochs=10_000)
    explorer.start()
    while not any(explorer.losses.values()):
        time.sleep(0.01)
    explorer.stop_button.click()
    assert explorer.wait().stopped == "stopped"
    assert "Stopped" in explorer.status.value


def test_a_loss_that_is_no_number_any_more_is_told(explorer):
    explorer.experiment = replace(MADE, learner=Infinite())
    explorer.start()
    assert "is nan: try a smaller lr" in explorer.wait().stopped
    assert "is nan: try a smaller lr" in explorer.status.value


class Infinite(CrossEntropy):
    def loss(self, output, batch):
        loss, metrics = super().loss(output, batch)
        return loss, metrics | {"loss": metrics["loss"] * torch.nan}


def test_no_rules_are_refused():
    with pytest.raises(ValueError, match="no rules: give"):
        StalenessExplorer(MADE, {}, lambda model: 0.0)
