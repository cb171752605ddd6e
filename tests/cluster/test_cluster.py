"""Engines: where they sit, that they answer in order, listen on loopback alone, and leave nothing behind."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import psutil
import pytest

from dlkit.cluster import Cluster, ClusterError, Placement, placements
from dlkit.cluster import cluster as cluster_module
from dlkit.cluster.placement import KEEPS_MEMORY, backend, remarks

SCRIPT = """
import os, signal, time
from dlkit.cluster import Cluster
cluster = Cluster(2).start()
os.kill(cluster.call(os.getpid)[1], signal.SIGKILL)
cluster.recover()  # at once: for a moment, the process still looks alive
engines = cluster._engines
print(engines.folder, *cluster.call(os.getpid), engines.launcher.controllers[0].pid, flush=True)
time.sleep(600)
"""


def total():
    import torch
    import torch.distributed as dist

    value = torch.tensor([float(1 + dist.get_rank())])
    dist.all_reduce(value)
    return value.item()


def test_cores_are_dealt_out_in_equal_parts_and_each_rank_computes_with_as_many_threads():
    plan = placements(3, gpus=[], cores=[0, 1, 2, 3, 8, 9, 10])
    assert [placement.cores for placement in plan] == [(0, 1), (2, 3), (8, 9, 10)]
    assert [placement.threads for placement in plan] == [2, 2, 3]
    assert [placement.device for placement in plan] == ["cpu"] * 3
    assert remarks(plan) == []
    assert plan[2].environment() == KEEPS_MEMORY | {
        "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "", "DLKIT_CORES": "8,9,10"
    }  # fmt: skip


def test_more_ranks_than_cores_share_them_and_it_is_said():
    plan = placements(5, gpus=[], cores=[4, 6])
    assert [placement.cores for placement in plan] == [(4,), (6,), (4,), (6,), (4,)]
    assert [placement.cores for placement in placements(4, gpus=[], cores=[4, 6])] == [(4,), (6,)] * 2
    assert remarks(plan) == ["5 engines share 2 cores: more engines than cores save no time."]


def test_gpus_are_given_in_turn_and_shared_ones_talk_over_gloo(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    plan = placements(4, gpus=["0", "1"], cores=range(8))
    assert [placement.device for placement in plan] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [placement.environment()["CUDA_VISIBLE_DEVICES"] for placement in plan] == ["0", "1", "0", "1"]
    assert remarks(plan) == ["4 engines share 2 GPUs: NCCL takes one rank a GPU, so gloo is used."]
    alone, none = placements(2, gpus=["0", "1"]), placements(1, gpus=[])
    assert [backend(plan), backend(alone), backend(none)] == ["gloo", "cpu:gloo,cuda:nccl", "gloo"]
    assert isinstance(plan[0], Placement)


def test_no_engines_are_refused():
    with pytest.raises(ValueError, match="a cluster of 0 engines: at least 1"):
        Cluster(0)


def test_a_cluster_that_is_not_started_says_so():
    with pytest.raises(ClusterError, match=r"the cluster is not started: `cluster.start\(\)`"):
        Cluster(2).call(os.getpid)
    assert "not started" in repr(Cluster(2))


def by_value(function):
    """A function of this module, as one that was defined in a notebook: engines cannot import this module."""
    return types.FunctionType(function.__code__, {"__name__": "__main__"})


def family(cluster):
    """The processes of the cluster: its controller, engines, and what these have started."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "ipyparallel" in " ".join(child.cmdline())]


def test_answers_come_in_the_order_of_ranks_from_the_places_planned(cluster):
    def here(offset):
        import torch
        import torch.distributed as dist

        cores = tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
        return dist.get_rank() + offset, cores, torch.get_num_threads(), os.environ["CUDA_VISIBLE_DEVICES"]

    answers = cluster.call(here, 10)
    expected = [
        (10 + placement.rank, placement.cores, placement.threads, placement.environment()["CUDA_VISIBLE_DEVICES"])
        for placement in cluster.plan
    ]
    assert answers == expected


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
def test_a_thread_that_wakes_does_not_keep_from_its_core_the_one_that_holds_what_it_waits_for(cluster):
    def policies():
        import torch.distributed as dist

        dist.barrier()
        policy_of = {}
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/comm") as file:
                policy_of[file.read().strip()] = os.sched_getscheduler(int(thread))
        return {name: policy for name, policy in policy_of.items() if "gloo" in name}

    for policy_of in cluster.call(policies):
        assert "gloo_tcp_loop" in policy_of
        assert set(policy_of.values()) == {os.SCHED_BATCH}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_an_engine_keeps_the_memory_that_a_step_lets_go_of(cluster):
    def pages_asked_for():
        import resource

        import torch

        before = 0
        for _ in range(30):  # of which the first few grow the heap
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            _ = [torch.zeros(5_000_000) for _ in range(5)]  # 100 MB in all
            del _
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert all(asked < 10 for asked in cluster.call(pages_asked_for))


def test_the_group_adds_up(cluster):
    assert cluster.call(by_value(total)) == [3.0] * 2


def test_the_table_has_a_row_a_rank(cluster):
    pids = cluster.call(os.getpid)
    assert [row["pid"] for row in cluster.rows()] == pids
    assert {row["state"] for row in cluster.rows()} == {"ready"}
    for shown in (repr(cluster), cluster._repr_html_()):
        assert all(str(pid) in shown for pid in pids)
        assert cluster.backend in shown


def test_a_cell_that_is_run_again_takes_up_the_engines_that_are_there(cluster):
    again = Cluster(2).start()
    assert again.call(os.getpid) == cluster.call(os.getpid)
    with pytest.raises(
        ClusterError, match=r"a cluster of 2 engines is up: `Cluster.stop_all\(\)` ends it, and then 3 can"
    ):
        Cluster(3).start()


def test_nothing_listens_beyond_loopback(cluster):
    listening = [
        connection.laddr.ip
        for process in family(cluster)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_what_fails_on_an_engine_fails_here_with_its_traceback(cluster):
    class Wrong(Exception):
        pass

    def work():
        import torch.distributed as dist

        if dist.get_rank() == 1:
            try:
                [][3]
            except IndexError as error:
                raise Wrong("too far") from error

    with pytest.raises(Wrong, match="too far") as failed:
        cluster.call(work)
    (note,) = failed.value.__notes__
    assert note.startswith(f"on engine 1 (host {cluster.rows()[1]['host']}, pid {cluster.rows()[1]['pid']}, ")
    assert "[][3]" in note
    assert "IndexError: list index out of range" in note  # its cause
    assert "worker.py" not in note


def test_of_several_that_fail_the_lowest_rank_is_heard(cluster):
    def work():
        import time

        import torch.distributed as dist

        time.sleep(0.3 * (1 - dist.get_rank()))
        raise ValueError(f"rank {dist.get_rank()}")

    with pytest.raises(ValueError, match="rank 0"):
        cluster.call(work)


def test_an_error_that_would_not_arrive_is_told_in_words(cluster):
    def odd():
        class Odd(Exception):
            def __init__(self, one, other):
                super().__init__(f"{one} is not {other}")

        raise Odd(1, 2)

    with pytest.raises(RuntimeError, match="Odd: 1 is not 2"):
        cluster.call(odd)
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        cluster.call(sys.exit, 3)


def test_what_cannot_travel_is_refused(cluster, tmp_path):
    lock = threading.Lock()

    def locked():
        return lock

    def gives_one():
        import threading

        return threading.Lock()

    remedy = "make that inside the function"
    with pytest.raises(TypeError, match=rf"`locked`.* cannot travel to the engines \(.*_thread.lock.*\): {remedy}"):
        cluster.call(locked)
    with pytest.raises(TypeError, match=rf"`<lambda>`.* cannot travel to the engines \(.*generator.*\): {remedy}"):
        cluster.call(lambda x: x, (i for i in range(3)))
    with (
        (tmp_path / "open").open("w") as file,
        pytest.raises(TypeError, match=rf"cannot travel to the engines \(.*file.*\): {remedy}"),
    ):
        cluster.call(lambda x: x, x=file)
    with pytest.raises(TypeError, match=r"what `gives_one` gives cannot travel back \(.*_thread.lock"):
        cluster.call(gives_one)


def test_those_that_wait_for_one_that_failed_are_freed_and_the_cause_is_told(cluster):
    def work():
        import torch
        import torch.distributed as dist

        if dist.get_rank() == 1:
            [][3]
        dist.all_reduce(torch.ones(1))

    with pytest.raises(IndexError) as failed:  # and not that the connection was closed, on rank 0
        cluster.call(work)
    assert "on engine 1" in failed.value.__notes__[0]
    assert cluster.call(by_value(total)) == [3.0] * 2


def test_a_group_made_anew_leaves_no_files(cluster):
    for _ in range(3):
        cluster.regroup()
        assert cluster.call(by_value(total)) == [3.0] * 2
    assert len(list(Path(cluster._engines.folder).glob("group-*"))) <= 1


def test_an_interrupt_reaches_the_one_who_waits_and_not_the_engines(cluster):
    assert all(os.getsid(process.pid) != os.getsid(0) for process in family(cluster))
    assert all(os.getpgid(process.pid) != os.getpgid(0) for process in family(cluster))

    def work():
        import builtins
        import time

        time.sleep(1.5)
        builtins.done = True

    def done():
        import builtins

        return builtins.__dict__.pop("done", False)

    threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.call(work)
    assert cluster.call(done) == [True, True]


def test_a_call_after_one_that_was_interrupted_is_not_mixed_up_with_it(cluster):
    def half():
        import torch
        import torch.distributed as dist

        if dist.get_rank() == 0:
            dist.all_reduce(torch.ones(1))  # alone: rank 1 has ended

    threading.Timer(1.0, signal.raise_signal, (signal.SIGINT,)).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.call(half)
    assert cluster.call(by_value(total)) == [3.0] * 2


def test_where_no_engine_is_lost_nothing_is_done(cluster):
    pids, groups = cluster.call(os.getpid), cluster._engines.groups
    assert cluster.recover() is cluster
    assert (cluster.call(os.getpid), cluster._engines.groups) == (pids, groups)


def keep(value):
    import builtins

    builtins.kept = value


def kept():
    import builtins

    return getattr(builtins, "kept", None)


@pytest.mark.parametrize(
    ("signal_sent", "state", "fate"),
    [(signal.SIGKILL, "gone", "died"), (signal.SIGSTOP, "stopped", r"been stopped \(SIGSTOP\)")],
)
def test_an_engine_that_is_lost_is_named_and_recovered_and_the_other_keeps_what_it_holds(
    cluster, signal_sent, state, fate
):
    cluster.call(by_value(keep), fate)
    pids = cluster.call(os.getpid)

    def work():
        import time

        import torch
        import torch.distributed as dist

        time.sleep(600 * dist.get_rank())
        dist.all_reduce(torch.ones(1))

    threading.Timer(1.0, os.kill, (pids[1], signal_sent)).start()
    lost = (
        rf"^engine 1 \(host .*, pid {pids[1]}, .*\) has {fate}: `cluster.recover\(\)` starts it afresh in its place\.$"
    )
    with pytest.raises(ClusterError, match=lost):
        cluster.call(work)
    assert [row["state"] for row in cluster.rows()] == ["ready", state]
    with pytest.raises(ClusterError, match=lost):
        cluster.call(os.getpid)
    assert cluster.recover() is cluster
    assert not psutil.pid_exists(pids[1])
    after = cluster.call(os.getpid)
    assert after[0] == pids[0]
    assert after[1] != pids[1]
    assert [(row["pid"], row["state"]) for row in cluster.rows()] == [(pid, "ready") for pid in after]
    assert cluster.call(by_value(kept)) == [fate, None]
    assert cluster.call(by_value(total)) == [3.0] * 2
    if hasattr(os, "sched_getaffinity"):
        assert [tuple(sorted(os.sched_getaffinity(pid))) for pid in after] == [
            placement.cores for placement in cluster.plan
        ]
    environments = [psutil.Process(pid).environ() for pid in after]
    assert all(
        placement.environment().items() <= environment.items()
        for placement, environment in zip(cluster.plan, environments, strict=True)
    )


def test_an_engine_that_stays_busy_is_started_afresh_too_and_it_is_said(cluster, monkeypatch, capsys):
    monkeypatch.setattr(cluster_module, "BUSY_TIMEOUT", 1.0)
    pids = cluster.call(os.getpid)
    threading.Timer(0.5, os.kill, (pids[1], signal.SIGKILL)).start()
    with pytest.raises(ClusterError, match="engine 1"):
        cluster.call(time.sleep, 600)
    cluster.recover()
    assert f"engine 0 (host {cluster.rows()[0]['host']}, pid {pids[0]}, " in capsys.readouterr().out
    assert not set(pids) & set(cluster.call(os.getpid))
    assert cluster.call(by_value(total)) == [3.0] * 2


def test_a_recovered_cluster_stops_as_a_whole_and_can_start_again(cluster):
    pids = cluster.call(os.getpid)
    both = [psutil.Process(pid) for pid in pids]
    for process in both:
        process.kill()
    psutil.wait_procs(both, timeout=10)
    lost = r"engine 0 .* has died and engine 1 .* has died: `cluster.recover\(\)` starts them afresh in their places\.$"
    with pytest.raises(ClusterError, match=lost):
        cluster.call(by_value(total))
    cluster.recover()
    os.kill(cluster.call(os.getpid)[0], signal.SIGSTOP)  # one that would not hear that it is to stop
    members = family(cluster)
    assert len(members) >= 3
    cluster.stop()
    _, left = psutil.wait_procs(members, timeout=10)
    assert not left
    assert not set(cluster.start().call(os.getpid)) & {*pids, *(member.pid for member in members)}


def test_when_all_are_killed_at_once_no_process_and_no_file_is_left():
    owner = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    children = []
    try:
        folder, first, second, controller = owner.stdout.readline().split()
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) >= 3  # a controller and two engines, at the least
        assert Path(folder).is_dir()
        os.kill(int(first), signal.SIGSTOP)  # it cannot see for itself that its owner has gone
        for pid in (owner.pid, int(controller), int(second)):
            os.kill(pid, signal.SIGKILL)
        owner.wait()
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left
        end = time.monotonic() + 5
        while Path(folder).exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert not Path(folder).exists()
    finally:
        owner.kill()
        for child in children:
            if child.is_running():
                child.kill()
