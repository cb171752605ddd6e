"""Runs on a cluster: the same as alone, told live, stopped together, and gone on with when an engine is lost."""

import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from splitting import STEPS, difference, digits, experiments, run, same_bits, slow_net
from torch import nn

from dlkit import Experiment
from dlkit.cluster import Cluster, ClusterError
from dlkit.cluster.split_run import own_files
from dlkit.distributed.links import Link
from dlkit.models.rbm import RBM
from dlkit.strategies import DataParallel
from dlkit.training import CD, CrossEntropy, pretrain
from dlkit.training.pretraining import layer_experiments

EXPERIMENTS = experiments()
LENET = EXPERIMENTS["LeNet-5"]


def test_a_run_on_a_cluster_is_the_run_alone(cluster):
    alone = run(LENET)
    split = cluster.run(LENET, DataParallel(), steps=STEPS, progress=False)
    assert difference(alone.model, split.model) < 1e-5
    assert type(split.model) is type(alone.model)
    assert [row["step"] for row in split.history] == [row["step"] for row in alone.history]
    assert (split.step, split.stopped, len(split.ranks)) == (STEPS, None, 2)
    gradients = sum(p.numel() for p in alone.model.parameters()) * 4
    for rank in split.ranks:
        assert rank.bytes_sent == pytest.approx(STEPS * gradients, rel=0.01)  # 2 (n-1)/n of them, for n = 2
        assert rank.memory_bytes >= 3 * gradients  # with the gradients and the momentum


def test_named_data_and_data_of_one_s_own_travel(cluster):
    images, labels = digits(500)
    for data in ("mnist", (images, labels)):
        split = cluster.run(replace(LENET, data=data), DataParallel(), steps=2, progress=False)
        assert difference(run(replace(LENET, data=data), steps=2).model, split.model) < 1e-5


def test_models_and_callbacks_of_a_notebook_travel_and_rows_have_their_columns(cluster):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(784, 10)

        def forward(self, x):
            return self.layer(x.flatten(1))

    def weight(now):
        return {"largest": now.model.layer.weight.abs().max(), "rank": now.shard.rank}

    experiment = Experiment(Net, digits(500), CrossEntropy(), row_every=5)
    split = cluster.run(experiment, DataParallel(), steps=10, callbacks=[weight], progress=False)
    assert split.history["rank"] == [0, 0]
    assert split.history["largest"][-1] == pytest.approx(split.model.layer.weight.abs().max().item())


def test_a_run_tells_how_far_it_is_while_it_goes_on(cluster):
    reports = []
    slow = replace(LENET, model=slow_net(0.03))
    cluster.run(slow, DataParallel(), steps=50, progress=False, on_progress=reports.append)
    steps = [report["step"] for report in reports]
    assert len(set(steps)) >= 2
    assert steps == sorted(set(steps))
    assert {report["total"] for report in reports} == {50}
    assert all(report["loss"] > 0 and report["rate"] > 0 for report in reports)


def test_layers_of_a_stack_are_trained_on_the_cluster(cluster):
    layers = layer_experiments((784, 40, 30), RBM, Experiment(RBM, digits(300)[0].flatten(1), CD(), epochs=2))
    runs = pretrain(layers, run=partial(cluster.run, strategy=DataParallel()), progress=False)
    for alone, split in zip(pretrain(layers, device="cpu", progress=False), runs, strict=True):
        assert difference(alone.model, split.model) < 1e-4  # the upper layer's inputs differ by rounding, too


def test_an_interrupt_stops_all_after_the_same_step_and_the_next_run_works(cluster):
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    split = cluster.run(replace(LENET, data="mnist", epochs=1000), DataParallel(), progress=False)
    assert time.monotonic() - begun < 20
    assert split.stopped == "interrupted"
    assert split.step > 0
    assert same_bits(cluster.run(LENET, DataParallel(), steps=split.step % 7 + 1, progress=False).model,
                     cluster.run(LENET, DataParallel(), steps=split.step % 7 + 1, progress=False).model)  # fmt: skip


def test_an_emulated_link_slows_messages_down_and_changes_nothing_else(cluster):
    slow = Link(0.05, 1e9, "a slow one")
    fast = cluster.run(LENET, DataParallel(), steps=5, progress=False)
    split = cluster.run(LENET, DataParallel(), steps=5, progress=False, links=slow)
    assert same_bits(fast.model, split.model)
    assert split.seconds > 5 * 2 * 0.05  # each all-reduce goes through twice the latency
    assert "emulated a slow one" in repr(split)
    assert "emulated" not in repr(fast)


def test_a_failure_is_told_in_its_own_words_and_the_cluster_goes_on(cluster):
    def fails_on_one(now):
        if now.shard.rank == 1 and now.step == 2:
            raise KeyError("of rank 1 alone")

    rows = replace(LENET, row_every=1)
    with pytest.raises(KeyError, match="of rank 1 alone"):
        cluster.run(rows, DataParallel(), steps=5, callbacks=[fails_on_one], progress=False)
    with pytest.raises(ValueError, match="CD has no backward pass"):
        cluster.run(EXPERIMENTS["CD"], DataParallel("ddp"), steps=5, progress=False)
    net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))  # noqa: E731
    with pytest.raises(FloatingPointError, match="try a smaller lr"):
        cluster.run(Experiment(net, digits(300), CrossEntropy(), lr=1e38), DataParallel(), steps=5, progress=False)
    assert cluster.run(LENET, DataParallel(), steps=2, progress=False).step == 2


def test_what_cannot_travel_is_refused(cluster):
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot travel to the engines"):
        cluster.run(replace(LENET, model=lambda: (lock, nn.Linear(1, 1))[1]), DataParallel(), steps=1)


def test_a_cluster_that_is_not_started_says_so():
    with pytest.raises(ClusterError, match="the cluster is not started"):
        Cluster(2).run(LENET, DataParallel())


@pytest.mark.parametrize(("signal_sent", "fate"), [(signal.SIGKILL, "has died"), (signal.SIGSTOP, "has been stopped")])
def test_a_run_that_lost_an_engine_goes_on_to_the_same_bits(cluster, tmp_path, signal_sent, fate):
    whole = cluster.run(replace(LENET, model=slow_net(0)), DataParallel(), steps=60, progress=False)
    experiment = replace(LENET, model=slow_net(0.03))
    pids = cluster.call(os.getpid)

    def hit(report):
        if report["step"] >= 10 and psutil.pid_exists(pids[1]):
            os.kill(pids[1], signal_sent)

    settings = {"steps": 60, "checkpoint": tmp_path, "checkpoint_every": 10, "progress": False}
    with pytest.raises(
        ClusterError, match=rf"engine 1 \(host .*, pid {pids[1]}, .*\) {fate}.*goes on from step \d+0\."
    ):
        cluster.run(experiment, DataParallel(), **settings, on_progress=hit)
    resumed = cluster.run(experiment, DataParallel(), **settings, resume=True)
    assert resumed.step == 60
    assert same_bits(whole.model, resumed.model)
    assert cluster.call(os.getpid)[0] == pids[0]


def test_all_tensors_of_a_model_come_back_on_the_cpu(cluster):
    split = cluster.run(LENET, DataParallel(), steps=1, progress=False)
    assert {value.device for value in split.model.state_dict().values()} == {torch.device("cpu")}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
@pytest.mark.parametrize("mode", ["r", "c"])
def test_engines_map_the_file_of_mapped_images_unless_it_holds_something_else(cluster, tmp_path, mode):
    def where_from(run):
        with open("/proc/self/maps") as maps:
            for line in maps:
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                if begin <= run.data.images.data_ptr() < end:
                    return {"from_file": float("mapped.npy" in line)}

    images, labels = digits(40)
    np.save(tmp_path / "mapped.npy", images.numpy())
    mapped = np.load(tmp_path / "mapped.npy", mmap_mode=mode)
    if mode == "c":
        mapped[:20] = 1 - mapped[:20]  # seen in this process alone
    experiment = Experiment(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        (mapped, labels),
        CrossEntropy(),
        batch_size=20,
        epochs=1,
    )
    split = cluster.run(experiment, DataParallel(), callbacks=[where_from], progress=False)
    assert split.history["from_file"] == [float(mode == "r")]
    assert difference(run(experiment, steps=2).model, split.model) < 1e-5


def test_features_with_a_graph_and_bytes_are_given_to_engines_as_they_are_taken_here(cluster, capsys):
    images, labels = digits(40)
    below = RBM(784, 30)
    features = below.hidden_given(images.flatten(1))
    for data, inputs in ((features, 30), ((images * 255).round().byte().flatten(1).numpy(), 784)):
        experiment = Experiment(partial(nn.Linear, inputs, 10), (data, labels), CrossEntropy(), batch_size=20)
        split = cluster.run(experiment, DataParallel(), steps=3, progress=False)
        assert difference(run(experiment, steps=3).model, split.model) < 1e-5
    assert below.W.grad is None
    assert "Data: images uint8 from 0 to 255 were divided by 255." in capsys.readouterr().out


def test_a_late_engine_still_finds_that_a_run_is_to_stop_and_the_data_are_gone(cluster):
    with own_files(cluster._started_engines) as (data, stop):
        data.touch()
        stop.touch()
    assert not data.exists()
    assert stop.exists()
