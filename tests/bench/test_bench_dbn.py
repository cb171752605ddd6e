"""The DBN's bench, reduced: its rows, and that its bare loop trains the same net as the library does."""

import copy
from functools import partial

import torch

from dlkit.bench import dbn as bench
from dlkit.data import Split
from dlkit.models import DBN
from dlkit.training import CrossEntropy, Experiment


def test_the_bare_loop_is_the_same_training(monkeypatch):
    """Given the library's order of the digits, it comes to the library's net."""
    digits = Split(torch.rand(50, 6), torch.arange(50) % 3)
    net, ours = DBN.of([6, 5, 4], std=0.5).classifier(3), DBN.of([6, 5, 4]).classifier(3)
    ours.load_state_dict(net.state_dict())
    run = Experiment(partial(copy.deepcopy, ours), digits, CrossEntropy(), batch_size=10, epochs=1, momentum=0.9)
    trained = run.run(progress=False)
    order, ours = trained._order(0), trained.model
    monkeypatch.setattr(bench.torch, "randperm", lambda count: order)
    bench.bare_loop(net, digits, 10)
    for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine)


def test_it_measures_both_halves(monkeypatch):
    monkeypatch.setattr(bench, "SIZES", [784, 8, 8])
    monkeypatch.setattr(bench, "IMAGES", 2000)
    rows = bench.measure()
    assert [row.name.split(",")[0] for row in rows] == ["greedy pre-training"] * 2 + ["fine-tuning by backprop"] * 2
    assert all(row.value > 0 and row.ratio > 0 for row in rows)
