"""What a call leaves behind costs no later call anything, and ranks that wait for each other for good are named."""

import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from splitting import digits, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.cluster import ClusterError, lookout
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, Pipeline, TensorParallel
from dlkit.training import CrossEntropy


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))


EXPERIMENT = Experiment(net, digits(300), CrossEntropy(), epochs=1, batch_size=50, lr=0.1)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lookout, "PATIENCE", 1.0)
    monkeypatch.setattr(lookout, "SPIN_PATIENCE", 2.0)


def right():
    """A ring of two: rank 0's 1 and rank 1's 2, added on both."""
    import torch
    import torch.distributed as dist

    rank = dist.get_rank()
    theirs = torch.empty(4)
    work = dist.isend(torch.full((4,), 1.0 + rank), 1 - rank)
    dist.recv(theirs, 1 - rank)
    work.wait()
    total = torch.ones(3)
    dist.all_reduce(total)
    return float(theirs[0]) + 1 + rank, float(total[0])


def sends_and_fails():
    import torch
    import torch.distributed as dist

    dist.isend(torch.full((4,), 777.0), 1 - dist.get_rank())
    raise NameError("thiers")


def sends_and_forgets():
    import torch
    import torch.distributed as dist

    for _ in range(3):
        dist.isend(torch.full((4,), 777.0), 1 - dist.get_rank())


def sums_alone():
    import torch
    import torch.distributed as dist

    if dist.get_rank() == 0:
        dist.all_reduce(torch.full((2964,), 777.0), async_op=True)


def asks_alone_and_fails():
    import torch
    import torch.distributed as dist

    if dist.get_rank() == 1:
        dist.irecv(torch.empty(7), 0)
    raise ValueError("out of step")


@pytest.mark.parametrize("wrong", [sends_and_fails, sends_and_forgets, sums_alone, asks_alone_and_fails])
def test_a_message_left_over_reaches_no_later_call(cluster, wrong):
    pids = cluster.call(os.getpid)
    try:
        cluster.call(wrong)
    except (NameError, ValueError):
        assert wrong in (sends_and_fails, asks_alone_and_fails)
    assert cluster.call(right) == [(3.0, 2.0)] * 2
    assert cluster.call(os.getpid) == pids


def test_nor_a_run(cluster):
    alone = cluster.run(EXPERIMENT, DataParallel(), progress=False)
    cluster.call(sends_and_forgets)
    cluster.call(sums_alone)
    assert same_bits(cluster.run(EXPERIMENT, DataParallel(), progress=False).model, alone.model)


@pytest.mark.parametrize(
    "strategy", [DataParallel(), DataParallel(reduce="ddp"), TensorParallel(), Pipeline(2), Hybrid(2, 1)]
)
def test_nor_the_run_in_which_it_was_sent(cluster, strategy):
    def sends(now):
        import torch
        import torch.distributed as dist

        if now.step == 2 and now.shard.rank == 0:
            dist.isend(torch.full((4,), 777.0), 1)
            for value in now.model.parameters():  # the sizes of the run's own
                dist.isend(torch.full_like(value, 777.0), 1)
                dist.all_reduce(torch.full_like(value, 777.0), async_op=True)

    rows = replace(EXPERIMENT, row_every=1)
    alone = cluster.run(rows, strategy, progress=False)
    assert same_bits(cluster.run(rows, strategy, callbacks=[sends], progress=False).model, alone.model)


def test_one_left_over_by_px_reaches_no_call_either(cluster):
    cluster.client[:].apply_sync(sends_and_forgets)
    assert cluster.call(right) == [(3.0, 2.0)] * 2


def test_where_nothing_was_sent_the_group_stays(cluster):
    cluster.call(right)
    cluster.call(os.getpid)
    groups = cluster._engines.groups
    cluster.call(os.getpid)
    assert cluster._engines.groups == groups


def both_receive():
    import torch
    import torch.distributed as dist

    dist.recv(torch.ones(1), 1 - dist.get_rank())


def waits_for_its_own_work():
    import torch
    import torch.distributed as dist

    if dist.get_rank() == 0:
        work = dist.irecv(torch.ones(1), 1)
        work.wait()


def sums_on_one_and_receives_on_the_other():
    import torch
    import torch.distributed as dist

    dist.all_reduce(torch.ones(1)) if dist.get_rank() == 0 else dist.recv(torch.ones(1), 0)


ENGINE = r"engine {} \(.*\)"
E0, E1 = ENGINE.format(0), ENGINE.format(1)
STUCK = {
    both_receive: rf"{E0} waits in recv \(line 5 of `both_receive`.*\) and {E1} waits in recv \(line 5 .*none of them",
    waits_for_its_own_work: rf"{E0} waits in wait \(line 7 of `waits_for_its_own_work`.*\) for {E1}, which has ended",
    sums_on_one_and_receives_on_the_other: rf"{E0} waits in all_reduce \(.*\) and {E1} waits in recv \(.*none of them",
}


@pytest.mark.parametrize("wrong", STUCK)
def test_ranks_that_wait_for_each_other_are_named_and_freed(cluster, impatient, wrong):
    pids = cluster.call(os.getpid)
    expected = STUCK[wrong].replace("line 5", r"line \d+").replace("line 7", r"line \d+")
    with pytest.raises(ClusterError, match=expected + r".*: all ranks must make the same exchanges, in the same order"):
        cluster.call(wrong)
    assert cluster.call(right) == [(3.0, 2.0)] * 2
    assert cluster.call(os.getpid) == pids


def test_a_thread_that_turns_beside_does_not_hide_that_ranks_wait(cluster, impatient):
    def waits_beside_a_thread_that_turns():
        import threading
        import time

        import torch

        def turns():
            end = time.monotonic() + 30
            while waiting.is_set():
                torch.ones(300, 300) @ torch.ones(300, 300)
                if time.monotonic() > end:
                    os._exit(1)

        waiting = threading.Event()
        waiting.set()
        threading.Thread(target=turns).start()
        try:
            both_receive()
        finally:
            waiting.clear()

    with pytest.raises(ClusterError, match=f"{E0} waits in recv .* and {E1} waits in recv .* none of them can go on"):
        cluster.call(waits_beside_a_thread_that_turns)
    assert cluster.call(right) == [(3.0, 2.0)] * 2


def test_one_who_takes_long_is_waited_for(cluster, impatient):
    def slow():
        import time

        import torch
        import torch.distributed as dist

        if dist.get_rank() == 1:
            time.sleep(4)
        total = torch.ones(1)
        dist.all_reduce(total)
        return total.item()

    assert cluster.call(slow) == [2.0, 2.0]


def test_an_interrupt_frees_ranks_that_wait_for_each_other(cluster):
    pids = cluster.call(os.getpid)
    threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.call(both_receive)
    assert cluster.call(right) == [(3.0, 2.0)] * 2
    assert cluster.call(os.getpid) == pids


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel(), Pipeline(2), ModelAveraging(3)])
def test_one_rank_may_stop_a_run_and_all_end_with_its_row(cluster, strategy):
    def stops(now):
        if now.shard.rank == 1 and now.step == 4:
            now.stop("enough")

    rows = replace(EXPERIMENT, epochs=100, row_every=2)
    ended = cluster.run(rows, strategy, callbacks=[stops], progress=False)
    assert (ended.step, ended.stopped) == (4, "enough")
    assert cluster.run(EXPERIMENT, strategy, progress=False).step == 6


def test_a_run_stops_split_where_it_stops_alone(cluster):
    def stops(now):
        if now.step == 4:
            now.stop("enough")

    rows = replace(EXPERIMENT, epochs=100, row_every=2)
    assert run(rows, callbacks=[stops], steps=None).step == 4
    assert cluster.run(rows, DataParallel(), callbacks=[stops], progress=False).step == 4


def test_runs_from_threads_have_their_own_data_and_say_that_they_wait(cluster, capsys):
    experiments = [replace(EXPERIMENT, data=digits(200 + 50 * i), epochs=8, seed=i) for i in range(3)]
    runs: dict = {}

    def train(i):
        runs[i] = cluster.run(experiments[i], DataParallel(), progress=False)

    threads = [threading.Thread(target=train, args=(i,)) for i in range(3)]
    with cluster._engines.turn():
        for thread in threads:
            thread.start()
        threads[0].join(0.5)
    for thread in threads:
        thread.join()
    for i, experiment in enumerate(experiments):
        assert same_bits(runs[i].model, cluster.run(experiment, DataParallel(), progress=False).model)
    assert "this one waits for its turn" in capsys.readouterr().out
    assert not list(Path(cluster._engines.folder).glob("*.safetensors"))


def test_stop_ends_the_run_that_it_is_for(cluster):
    stop, begun, ended = threading.Event(), threading.Event(), []
    endless = replace(EXPERIMENT, epochs=10**5)

    def train(event, **settings):
        try:
            ended.append(cluster.run(endless, DataParallel(), stop=event, progress=False, **settings).stopped)
        except ClusterError as error:
            ended.append(str(error))

    first = threading.Thread(target=train, args=(stop,), kwargs={"on_progress": lambda _: begun.set()})
    first.start()
    begun.wait()
    waiting = threading.Event()
    waiting.set()
    train(waiting)  # its Stop is pressed while it waits: the other goes on
    assert ended == ["the run was stopped while it waited for its turn, before its first step."]
    assert first.is_alive()
    stop.set()
    first.join()
    assert ended[1:] == ["stopped"]


def test_a_folder_that_was_emptied_is_made_again(cluster):
    folder = Path(cluster._engines.folder)
    shutil.rmtree(folder)
    assert cluster.run(EXPERIMENT, DataParallel(), progress=False).step == 6
    shutil.rmtree(folder)
    os.kill(cluster.call(os.getpid)[1], signal.SIGKILL)
    cluster.recover()
    assert cluster.call(right) == [(3.0, 2.0)] * 2


def test_a_folder_that_goes_in_a_run_is_told_and_the_next_run_works(cluster):
    def removes(now):
        if now.shard.rank == 0 and now.step == 2:
            shutil.rmtree(os.environ["DLKIT_FOLDER"])

    with pytest.raises(RuntimeError, match=r"the file by which ranks agree is gone at step \d.*: run again"):
        cluster.run(replace(EXPERIMENT, row_every=1), DataParallel(), callbacks=[removes], progress=False)
    assert cluster.run(EXPERIMENT, DataParallel(), progress=False).step == 6


def test_a_full_disk_is_told_and_the_cluster_goes_on_with_room(cluster, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("dlkit.cluster.split_run.save_file", no_space)
        with pytest.raises(ClusterError, match=r"the data, 943 kB, cannot be written for the engines: .*No space left"):
            cluster.run(EXPERIMENT, DataParallel(), progress=False)
    cluster.call(right)
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", no_space)
        with pytest.raises(ClusterError, match=r"the engines cannot meet .*No space left.*; make room there"):
            cluster.call(right)
    assert cluster.call(right) == [(3.0, 2.0)] * 2
