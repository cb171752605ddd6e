"""Engines: where they sit, that they answer in order, listen on loopback alone, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from dlkit.cluster import Cluster, ClusterError, Place, places
from dlkit.cluster.places import backend, remarks

SCRIPT = """
import time
from dlkit.cluster import Cluster
cluster = Cluster(2).start()
print(cluster._running.folder, flush=True)
time.sleep(600)
"""


def test_cores_are_dealt_out_in_equal_parts_and_each_rank_computes_with_as_many_threads():
    plan = places(3, gpus=0, cores=[0, 1, 2, 3, 8, 9, 10])
    assert [place.cores for place in plan] == [(0, 1), (2, 3), (8, 9, 10)]
    assert [place.threads for place in plan] == [2, 2, 3]
    assert [place.device for place in plan] == ["cpu"] * 3
    assert remarks(plan, 0) == []
    assert plan[2].environment() == {
        "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "", "DLKIT_CORES": "8,9,10"
    }  # fmt: skip


def test_more_ranks_than_cores_share_them_and_it_is_said():
    plan = places(5, gpus=0, cores=[4, 6])
    assert all(len(place.cores) == 1 for place in plan)
    assert {core for place in plan for core in place.cores} == {4, 6}
    assert remarks(plan, 0) == ["5 engines share 2 cores: more engines than cores save no time."]


def test_gpus_are_given_in_turn_and_shared_ones_talk_over_gloo():
    plan = places(4, gpus=2, cores=range(8))
    assert [place.device for place in plan] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert [place.environment()["CUDA_VISIBLE_DEVICES"] for place in plan] == ["0", "1", "0", "1"]
    assert remarks(plan, 2) == ["4 engines share 2 GPUs: NCCL takes one rank a GPU, so gloo is used."]
    assert [backend(4, 2), backend(2, 2), backend(1, 0)] == ["gloo", "nccl", "gloo"]
    assert isinstance(plan[0], Place)


def test_no_engines_are_refused():
    with pytest.raises(ValueError, match="a cluster of 0 engines: at least 1"):
        Cluster(0)


def test_a_cluster_that_is_not_started_says_so():
    with pytest.raises(ClusterError, match=r"the cluster is not started: `cluster.start\(\)`"):
        Cluster(2).call(os.getpid)
    assert "not started" in repr(Cluster(2))


@pytest.fixture(scope="module")
def cluster():
    with Cluster(2) as started:
        yield started


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

    found = cluster.call(here, 10)
    expected = [
        (10 + place.rank, place.cores, place.threads, place.environment()["CUDA_VISIBLE_DEVICES"])
        for place in cluster.plan
    ]
    assert found == expected


def test_the_group_adds_up(cluster):
    def total():
        import torch
        import torch.distributed as dist

        value = torch.tensor([float(1 + dist.get_rank())])
        dist.all_reduce(value)
        return value.item(), dist.get_world_size()

    assert cluster.call(total) == [(3.0, 2)] * 2


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


def test_a_notebook_runs_cells_on_all_engines_and_sends_its_own_functions_there(tmp_path):
    cells = [
        "from dlkit.cluster import Cluster\ncluster = Cluster(2).start()",
        "%%px\nimport torch.distributed as dist\nprint('rank', dist.get_rank(), 'of', dist.get_world_size())",
        "def doubled(x):\n    return 2 * x\n\ncluster.call(doubled, 21)",
        "cluster.stop()\ncluster.running()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    px, call, stop = ("".join(str(output) for output in cell.outputs) for cell in notebook.cells[1:])
    assert "rank 0 of 2" in px
    assert "rank 1 of 2" in px
    assert "[42, 42]" in call
    assert "False" in stop


def test_an_engine_that_is_killed_is_named_and_all_start_afresh():
    with Cluster(2) as cluster:
        pids = cluster.call(os.getpid)
        begun = time.monotonic()

        def work():
            import time

            import torch.distributed as dist

            time.sleep(60 * dist.get_rank())

        threading.Timer(1.0, os.kill, (pids[1], signal.SIGKILL)).start()
        died = rf"engine 1 \(host .*, pid {pids[1]}, .*\) has died: `cluster.stop\(\)`"
        with pytest.raises(ClusterError, match=died):
            cluster.call(work)
        assert time.monotonic() - begun < 30  # and not the minute of rank 1
        assert [row["state"] for row in cluster.rows()] == ["ready", "gone"]
        with pytest.raises(ClusterError, match=died):
            cluster.call(os.getpid)
        cluster.stop()
        assert len(set(cluster.start().call(os.getpid)) - set(pids)) == 2


def test_when_its_owner_is_killed_no_process_and_no_file_is_left():
    owner = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    children = []
    try:
        folder = Path(owner.stdout.readline().strip())
        children = psutil.Process(owner.pid).children(recursive=True)
        assert len(children) >= 3  # a controller and two engines, at the least
        assert folder.is_dir()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left
        end = time.monotonic() + 5
        while folder.exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert not folder.exists()
    finally:
        owner.kill()
        for child in children:
            if child.is_running():
                child.kill()
