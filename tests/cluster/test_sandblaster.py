"""Sandblaster on engines: what torch's L-BFGS learns in one process, also when workers die, and ends that are clean."""

import os
import signal
import threading
import time

import pytest
from small_searches import NETS, autoencoder, experiment, largest_difference, net

from dlkit.cluster import Cluster, ClusterError
from dlkit.distributed.links import Link
from dlkit.strategies import Sandblaster
from dlkit.training import CrossEntropy, Reconstruction


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("servers", [1, 2])
def test_engines_learn_what_one_process_does(cluster, name, servers):
    made = experiment(*NETS[name])
    alone = made.run(steps=1, progress=False)
    found = cluster.run(made, Sandblaster(servers=servers), steps=1, progress=False)
    assert largest_difference(found.model, alone.model) < 1e-10
    assert found.history["loss"] == pytest.approx(alone.history["loss"], rel=1e-12)
    assert found.bill["collect"] == found.evaluations == len(found.seconds)
    assert (found.stopped, found.faults) == (None, [])


class Slow(CrossEntropy):
    """Takes a while for each portion, on engines."""

    def fill_grad(self, model, batch, generator):
        if "DLKIT_RANK" in os.environ:
            time.sleep(0.01)
        return super().fill_grad(model, batch, generator)


def kill_when(cluster, rank, rows, made_rows):
    """A callback that kills an engine at some row."""
    killed = []

    def callback(run):
        made_rows.append(run.step)
        if len(made_rows) == rows:
            killed.append(cluster.rows()[rank]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    return callback, killed


def test_a_worker_that_dies_costs_its_portions_and_comes_back(cluster):
    made = experiment(net, Slow(), 4, batch_size=100, row_every=1)
    alone = made.run(steps=8, progress=False)
    rows = []
    kill, killed = kill_when(cluster, 1, 2, rows)
    found = cluster.run(made, Sandblaster(), steps=8, callbacks=[kill], progress=False)
    assert killed
    assert rows == list(range(1, 9))
    assert found.faults[0].endswith("has died, and with it a worker")
    assert str(killed[0]) in found.faults[0]
    assert found.faults[1:] == ["engine 1 has come back"]
    assert largest_difference(found.model, alone.model) < 1e-8
    assert len(cluster.call(os.getpid)) == 2


def test_a_server_that_dies_ends_the_run_in_a_sentence(cluster):
    kill, _ = kill_when(cluster, 0, 2, [])
    with pytest.raises(ClusterError, match=r"engine 0 \(.*\) has died, and with it the vectors of server 0"):
        cluster.run(experiment(net, Slow(), 4, batch_size=100, row_every=1), Sandblaster(), callbacks=[kill],
                    progress=False)  # fmt: skip
    cluster.recover()  # the mend
    assert cluster.run(experiment(iterations=2), Sandblaster(), steps=1, progress=False).stopped is None


@pytest.mark.parametrize("how", ["event", "interrupt"])
def test_a_run_is_stopped_within_two_seconds_and_keeps_what_it_has_learnt(cluster, how):
    stop, asked = threading.Event(), []

    def on_progress(report):
        if report["step"] >= 2 and not asked:
            asked.append(time.monotonic())
            stop.set() if how == "event" else os.kill(os.getpid(), signal.SIGINT)

    made = experiment(net, Slow(), 4, batch_size=100, row_every=1)
    found = cluster.run(made, Sandblaster(), steps=1000, stop=stop, on_progress=on_progress, progress=False)
    assert time.monotonic() - asked[0] < 4  # 2 on a quiet machine
    assert found.stopped == ("stopped" if how == "event" else "interrupted")
    assert 2 <= len(found.history) < 1000
    assert largest_difference(found.model, made.initial_model()) > 1e-3
    assert len(cluster.call(os.getpid)) == 2


class Fails(Reconstruction):
    def loss(self, output, batch):
        if "DLKIT_RANK" in os.environ and len(output) < 48:
            raise ZeroDivisionError("of the reader's")
        return super().loss(output, batch)


def test_what_the_reader_s_code_raises_is_raised(cluster):
    with pytest.raises(ZeroDivisionError, match="of the reader's"):
        cluster.run(experiment(autoencoder, Fails(), 4), Sandblaster(), steps=1, progress=False)
    assert len(cluster.call(os.getpid)) == 2


def test_what_is_wrong_is_said_before_anything_begins(cluster):
    with pytest.raises(ValueError, match=r"Sandblaster\(servers=3.*on 2 engines: take fewer servers"):
        cluster.run(experiment(), Sandblaster(servers=3), progress=False)
    with pytest.raises(TypeError, match="links= cannot be had with Sandblaster"):
        cluster.run(experiment(), Sandblaster(), links=Link(1e-3, 1e9), progress=False)


def test_more_engines_than_servers_all_compute():
    Cluster.stop_all()
    made = experiment(net, Slow(), 1)
    with Cluster(3) as three:
        found = three.run(made, Sandblaster(servers=1), steps=1, progress=False)
    assert largest_difference(found.model, made.run(steps=1, progress=False).model) < 1e-10
