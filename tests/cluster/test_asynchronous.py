"""Servers and replicas on engines: what they learn can be had again, and nothing that is killed ends a run."""

import os
import random
import signal
import threading
import time
from functools import partial

import psutil
import pytest
import torch
from asynchronous_runs import check_ledger, experiment, parameters
from splitting import digits
from torch import nn

from dlkit import Experiment
from dlkit.cluster import Cluster
from dlkit.distributed.links import Link
from dlkit.models import RBM
from dlkit.strategies.asynchronous.downpour import BackupWorkers, Downpour, ElasticAveraging
from dlkit.strategies.asynchronous.record import Kind
from dlkit.training import PCD, CrossEntropy


def slow_net():
    """A net whose batches take some milliseconds on engines."""

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(784, 10)

        def forward(self, x):
            if "DLKIT_RANK" in os.environ:
                time.sleep(0.01)
            return self.layer(x.flatten(1))

    return Slow()


def slow(**settings):
    return Experiment(slow_net, digits(400), CrossEntropy(), batch_size=20, lr=0.01, **settings)


def same_bits(first, second):
    return torch.equal(parameters(first.model), parameters(second.model))


@pytest.mark.parametrize(
    "strategy",
    [
        Downpour(share=True),
        Downpour(),
        Downpour(servers=2, share=True, push=2, fetch=3, adagrad=False),
        Downpour(share=True, overlap=False, staleness=4),
        ElasticAveraging(share=True, every=2),
        BackupWorkers(n=1, b=1, share=True),
    ],
    ids=repr,
)
def test_a_run_on_engines_can_be_had_again(cluster, strategy):
    run = cluster.run(experiment(), strategy, steps=80, progress=False)
    assert run.step >= 80
    assert run.stopped is None
    assert not run.faults
    again = run.replay(progress=False)
    assert same_bits(run, again)
    assert run.staleness == again.staleness
    for rows in run.record.servers:
        if strategy.needed == 1:
            check_ledger(rows)


def test_one_replica_that_waits_learns_what_one_process_does(cluster):
    alone = experiment().run(steps=40, progress=False)
    run = cluster.run(experiment(), Downpour(adagrad=False, overlap=False), steps=40, progress=False)
    torch.testing.assert_close(parameters(run.model), parameters(alone.model), rtol=1e-12, atol=1e-14)
    assert run.staleness == {0: 40}


def test_callbacks_see_the_servers_values_in_this_process(cluster):
    mine = os.getpid()
    seen = []

    def note(run):
        seen.append(run.step)
        assert os.getpid() == mine
        return {"norm": parameters(run.model).norm().item()}

    run = cluster.run(experiment(row_every=20), Downpour(share=True), steps=80, callbacks=[note], progress=False)
    assert seen == run.history["step"]
    assert len(seen) == 4
    assert all(norm > 0 for norm in run.history["norm"])


def kill_when(cluster, rank, steps):
    """An `on_progress` that kills an engine once so many batches are done."""
    killed = []

    def on_progress(report):
        if report["step"] >= steps and not killed:
            killed.append(cluster.rows()[rank]["pid"])
            os.kill(killed[0], signal.SIGKILL)

    return on_progress, killed


@pytest.mark.parametrize("rank", [0, 1], ids=["server", "replica"])
def test_a_killed_engine_comes_back_and_the_run_goes_on(cluster, rank):
    strategy = Downpour()
    kill, killed = kill_when(cluster, rank, 60)
    run = cluster.run(slow(), strategy, steps=400, on_progress=kill, checkpoint_every=20, progress=False)
    assert killed
    assert (run.step, run.stopped) == (400, None)
    held = "server 0" if rank == 0 else "a replica of part 0"
    assert f"pid {killed[0]}" in run.faults[0]
    assert run.faults[0].endswith(f"and with it {held}")
    assert run.faults[1] == f"engine {rank} has come back"
    check_ledger(run.record.servers[0])
    assert sum(row.kind == Kind.BEGIN for row in run.record.servers[0]) == (2 if rank == 0 else 1)
    assert same_bits(run, run.replay(progress=False))
    assert len(cluster.call(os.getpid)) == 2  # it can be used as before


def test_a_replica_that_is_not_to_come_back_leaves_the_others_to_go_on():
    Cluster.stop_all()
    with Cluster(3) as three:
        kill, killed = kill_when(three, 2, 40)
        run = three.run(slow(), Downpour(revive=False), steps=300, on_progress=kill, progress=False)
        assert killed
        assert run.step == 300
        assert len(run.faults) == 1
        assert same_bits(run, run.replay(progress=False))
        assert len(three.recover().call(os.getpid)) == 3


def test_a_split_replica_can_be_had_again_on_as_many_engines_to_the_bit():
    Cluster.stop_all()
    chains = experiment(partial(RBM, 64, 9), PCD())
    with Cluster(5) as five:
        for made in (experiment(), chains):
            run = five.run(made, Downpour(partitions=2), steps=20, progress=False)
            assert run.replicas == 2
            alone = run.replay(progress=False)
            torch.testing.assert_close(parameters(run.model), parameters(alone.model), rtol=1e-5, atol=1e-7)
        kill, killed = kill_when(five, 2, 30)
        disturbed = five.run(slow(), Downpour(partitions=2), steps=300, on_progress=kill, progress=False)
        assert killed
        assert disturbed.step == 300
        assert "engine 2 has come back" in disturbed.faults
    with Cluster(2) as two:
        for each in (run, disturbed):
            assert same_bits(each, each.replay(call=two.call))


@pytest.mark.parametrize("at_once", [(1, 2, 3, 2), (3, 2, 2)], ids=["eight", "seven"])
def test_engines_are_killed_fifteen_times_in_two_runs(at_once):
    """One, two or all three at a time, servers with replicas or a replica alone, as soon as all are there again."""
    rng, waiting = random.Random(0), list(at_once)
    Cluster.stop_all()
    with Cluster(3) as three:
        kills, seen = [], []
        stop = threading.Event()

        def kill(report):
            seen.append(report["step"])
            going = len(seen) > 3 and report["step"] > seen[-3] > 0
            if not waiting:
                if going:
                    stop.set()
            elif going and [row["state"] for row in three.rows()] == ["ready"] * 3:
                for rank in rng.sample(range(3), waiting.pop(0)):
                    kills.append(rank)
                    os.kill(three.rows()[rank]["pid"], signal.SIGKILL)

        strategy = Downpour(servers=2, share=True)
        run = three.run(
            slow(), strategy, steps=100_000, on_progress=kill, stop=stop, checkpoint_every=25, progress=False
        )
        assert len(kills) == sum(at_once)
        assert sum("has died" in fault for fault in run.faults) == len(kills)
        for rows in run.record.servers:
            check_ledger(rows)
        assert same_bits(run, run.replay(progress=False))
        assert len(three.call(os.getpid)) == 3


@pytest.mark.parametrize("how", ["event", "interrupt"])
def test_a_run_is_stopped_within_two_seconds(cluster, how):
    stop, asked = threading.Event(), []

    def on_progress(report):
        if report["step"] > 20 and not asked:
            asked.append(time.monotonic())
            stop.set() if how == "event" else os.kill(os.getpid(), signal.SIGINT)

    run = cluster.run(slow(), Downpour(share=True), steps=100_000, on_progress=on_progress, stop=stop, progress=False)
    assert time.monotonic() - asked[0] < 4  # 2 on a quiet machine
    assert run.stopped == ("stopped" if how == "event" else "interrupted")
    assert 20 < run.step < 100_000
    assert same_bits(run, run.replay(progress=False))


def test_after_all_have_died_the_run_goes_on_from_what_all_servers_have(tmp_path):
    strategy = Downpour(servers=2, share=True)
    Cluster.stop_all()
    with Cluster(2) as first:

        def kill_all(report):
            if report["step"] >= 100:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            first.run(
                slow(),
                strategy,
                steps=300,
                checkpoint=tmp_path,
                checkpoint_every=20,
                on_progress=kill_all,
                progress=False,
            )
    with Cluster(2) as second:
        run = second.run(slow(), strategy, steps=300, checkpoint=tmp_path, resume=True, progress=False)
        assert run.step == 300
        for rows in run.record.servers:
            lives = [row for row in rows if row.kind == Kind.BEGIN]
            assert len(lives) == 2
            assert lives[1].b >= 80
            check_ledger(rows)
        assert run.record.servers[0][0] == run.record.servers[1][0]
        assert same_bits(run, run.replay(progress=False))
        with pytest.raises(ValueError, match=r"is of another run \(strategy: Downpour"):
            second.run(slow(), Downpour(share=True), steps=300, checkpoint=tmp_path, resume=True, progress=False)
        with pytest.raises(ValueError, match=r"is of another run \(seed: 0 there, 5 here"):
            second.run(slow(seed=5), strategy, steps=300, checkpoint=tmp_path, resume=True, progress=False)


def test_an_error_of_the_reader_s_is_raised_and_leaves_the_cluster_usable(cluster):
    class Wrong(CrossEntropy):
        def __init__(self):
            self.batches = 0

        def loss(self, output, batch):
            self.batches += 1
            if self.batches > 30:
                raise ZeroDivisionError("of the reader's")
            return super().loss(output, batch)

    with pytest.raises(ZeroDivisionError, match="of the reader's"):
        cluster.run(experiment(learner=Wrong()), Downpour(share=True), steps=200, progress=False)
    assert len(cluster.call(os.getpid)) == 2
    assert cluster.run(experiment(), Downpour(share=True), steps=20, progress=False).step == 20


def test_what_is_wrong_is_said_before_anything_is_trained(cluster):
    with pytest.raises(ValueError, match=r"Downpour\(servers=3\) on 2 engines"):
        cluster.run(experiment(), Downpour(servers=3), progress=False)
    with pytest.raises(TypeError, match="links= cannot be had with Downpour"):
        cluster.run(experiment(), Downpour(share=True), links=Link(1e-3, 1e9), progress=False)
    with pytest.raises(ValueError, match="resume needs checkpoint="):
        cluster.run(experiment(), Downpour(share=True), resume=True, progress=False)


def test_nothing_listens_but_on_loopback_and_nothing_is_left(cluster):
    pids = cluster.call(os.getpid)
    before = {connection.laddr for pid in pids for connection in listening(pid)}
    during = []

    def look(report):
        during.extend(connection for pid in pids for connection in listening(pid))

    cluster.run(slow(), Downpour(share=True), steps=100, on_progress=look, progress=False)
    assert {connection.laddr.ip for connection in during} <= {"127.0.0.1", "::1"}
    assert len({connection.laddr for connection in during} - before) == 1
    assert {connection.laddr for pid in pids for connection in listening(pid)} == before


def listening(pid):
    return [c for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]
