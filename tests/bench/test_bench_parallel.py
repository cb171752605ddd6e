"""The cluster's bench, reduced: its rows, that what it compares is alike, and that nothing is left running."""

from dataclasses import replace

import psutil
import pytest
import torch
from ranks import team
from splitting import difference, digits

from dlkit.bench import parallel as bench
from dlkit.bench import parallel_data, parallel_floors, parallel_torchrun, parallel_turns
from dlkit.cluster import Cluster
from dlkit.data import Split
from dlkit.distributed.recorder import Span
from dlkit.models import LeNet5
from dlkit.strategies import Pipeline
from dlkit.training import CrossEntropy, Experiment


class SharedCluster(Cluster):
    def stop(self):
        """Other tests go on with its engines."""


def test_it_measures_every_row(monkeypatch, cluster):
    monkeypatch.setattr(bench, "Cluster", SharedCluster)
    monkeypatch.setattr(bench, "ENGINES", (2,))
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "STEPS", 1)
    monkeypatch.setattr(parallel_turns, "WARM", 1)
    monkeypatch.setattr(parallel_data, "torchrun", lambda batch, steps: 1.0)  # the next test's
    images, labels = digits(100)
    small = replace(parallel_data.LENET, data=(images, labels), batch_size=20)
    for module in (parallel_data, parallel_floors):
        monkeypatch.setattr(module, "LENET", small)
    monkeypatch.setattr(
        parallel_floors, "LOCALNET", replace(parallel_floors.LOCALNET, data=(images, labels), batch_size=20)
    )
    monkeypatch.setattr(parallel_data, "CNN", replace(parallel_data.CNN, data=(images, labels), batch_size=20))
    rows = replace(parallel_data.CD_1, data=images.flatten(1), batch_size=20)
    monkeypatch.setattr(parallel_data, "CD_1", rows)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    rows = bench.measure()
    assert [row.name for row in rows] == [
        "2 engines ready",
        "LeNet-5, batch 20, 2 engines, ddp",
        "LeNet-5, batch 20, 2 engines, bucketed",
        *["LeNet-5, batch 20, 2 engines"] * 2,
        *["four convolutions, batch 20, 2 engines"] * 2,
        *["CD-1, RBM 784 x 500, batch 20, 2 engines"] * 2,
        *(f"LeNet-5, batch 20, 2 engines, {name}Parallel" for name in ("Data", "Tensor", "Spatial")),
        "LeNet-5, batch 20, 2 engines, Pipeline",
        "LocalNet, batch 20, 2 engines, SpatialParallel",
        *(
            f"{net}, batch 20, 2 engines, SpatialParallel, against what a rank computes"
            for net in ("LeNet-5", "LocalNet")
        ),
    ]
    assert all(row.value > 0 and row.ratio > 0 for row in rows)
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not [child for child in children if "ipyparallel" in " ".join(child.cmdline())]


def test_the_script_runs_under_torchrun(monkeypatch):
    monkeypatch.setattr(parallel_data, "WARM", 1)
    assert parallel_data.torchrun(20, 2) > 0


def test_gpus_are_to_be_hidden(monkeypatch):
    monkeypatch.setattr(bench, "gpus_here", lambda: 1)
    with pytest.raises(ValueError, match="hide the GPUs"):
        bench.measure()


def test_the_script_under_torchrun_is_the_same_training():
    """Given the library's net and its order of the digits, it comes to the library's net."""
    images, labels = digits(200)
    experiment = Experiment(
        LeNet5, (images, labels), CrossEntropy(), batch_size=20, lr=parallel_torchrun.LR, momentum=0.9
    )
    steps = 15  # into a second epoch
    whole = experiment.run(steps=steps, device="cpu", progress=False)
    order = [indices for epoch in (0, 1) for indices in whole._order(epoch).split(20)][:steps]

    def script():
        torch.manual_seed(0)
        net = experiment.initial_model()
        parallel_torchrun.batches = lambda count, batch, steps: order
        parallel_torchrun.train(net, Split(images, labels), 20, steps - 5, 5)
        return net

    nets = team(2).call(script)
    assert all(difference(whole.model, net) < 1e-5 for net in nets)


def test_its_batches_are_epochs_of_all_digits():
    batches = list(parallel_torchrun.batches(10, 4, 7))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2, 4]
    first, second = (torch.cat(batches[i : i + 3]) for i in (0, 3))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_script_that_fails_says_why(monkeypatch, tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('no digits')")
    monkeypatch.setattr(parallel_data.parallel_torchrun, "__file__", str(script))
    with pytest.raises(RuntimeError, match="no digits"):
        parallel_data.torchrun(20, 1, world_size=1)


def test_seconds_are_those_between_the_first_row_and_the_last():
    waits = iter(range(100))
    steps = []

    def count(run):
        steps.append(run.step)
        return parallel_turns.clock(run) | {"clock": float(next(waits))}

    rows = history(
        parallel_turns.with_clock_rows(Experiment(LeNet5, digits(100), CrossEntropy(), batch_size=1)), 50, count
    )
    assert steps == [20, 40, 50]
    assert parallel_turns.seconds_after_warm_up(rows) == 2.0


def history(experiment, steps, callback):
    return experiment.run(steps=steps, device="cpu", progress=False, callbacks=[callback]).history


def test_a_floor_is_the_passes_of_a_rank_and_its_exchanges():
    seconds = {
        **{f"all-reduce of {n}": [s] for n, s in ((parallel_floors.FEW, 1e-3), (parallel_floors.MANY, 3e-3))},
        parallel_floors.of(parallel_floors.LENET, 128): [0.010, 0.010, 0.010],
    }
    rate = parallel_floors.Rate.of(seconds, "all-reduce")
    megabyte = 4 * (parallel_floors.MANY - parallel_floors.FEW)
    assert rate.seconds(megabyte // 2) == pytest.approx(2e-3)
    by_rank = [
        [],
        [
            Span("exchange", "all-reduce", 0.0, 1.0, bytes_sent=megabyte),
            Span("exchange", "halo", 0.0, 1.0, bytes_sent=8),
        ],
    ]
    rates = {"all-reduce": rate, "send": parallel_floors.Rate(1e-3, 8e6)}  # 3 ms, and 1.001 ms
    computed = parallel_floors.seconds_of(seconds, parallel_floors.LENET, parallel_floors.Work(128, 1))
    row = parallel_floors.row("by data", [0.014, 0.016, 0.028], computed, by_rank, rates)
    assert row.value == pytest.approx(16)
    assert row.ratio == pytest.approx(0.014001 / 0.016)


def test_a_pipeline_of_two_computes_while_it_fills_and_empties():
    work = parallel_floors.work_of_a_rank(256)[Pipeline()]
    assert work.images * work.times == 256 / 2 * 5 / 4  # bubble (K-1)/(M+K-1) of 1/5
