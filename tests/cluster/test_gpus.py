"""Engines on GPUs: which one each gets, what the table says, how they are freed; by stand-ins, as no GPU is here."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from dlkit.cluster import Cluster, ClusterError, lookout, placements
from dlkit.cluster import cluster as cluster_module
from dlkit.cluster.gpus import gpu_facts, used_by_others
from dlkit.cluster.placement import OUTLIVES_EXCHANGES, backend, gpus_here, remarks
from dlkit.distributed.process_group import WITH_NCCL

A, B = "GPU-7d0a3e3c-0001", "GPU-7d0a3e3c-0002"
VISIBLE = {
    None: (2, ["0", "1"]),
    "2,3": (2, ["2", "3"]),
    " 3 , 1,9": (2, ["3", "1"]),  # there is no tenth: CUDA stops there
    f"{B},{A}": (2, [B, A]),
    "MIG-1,MIG-2": (1, ["MIG-1", "MIG-2"]),  # a process can use one
    "MIG-1,MIG-2,0": (1, ["MIG-1", "MIG-2"]),
    "": (0, []),
    "-1": (0, []),
    "MIG-1": (0, []),  # there is none of that name
}


@pytest.mark.parametrize("listed", VISIBLE)
def test_engines_get_those_gpus_that_the_notebook_may_use(monkeypatch, listed):
    count, expected = VISIBLE[listed]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert gpus_here() == expected
    plan = placements(3, cores=range(6))
    own = [(placement.device, placement.environment()["CUDA_VISIBLE_DEVICES"]) for placement in plan]
    turns = [index % len(expected) for index in range(3)] if expected else []
    assert own == ([(f"cuda:{turn}", expected[turn]) for turn in turns] or [("cpu", "")] * 3)


def test_nccl_is_for_engines_with_a_whole_gpu_each_and_where_it_is_not_it_is_said(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    each, shared, parts, one = (
        placements(n, gpus, range(4)) for n, gpus in ((2, [A, B]), (3, [A, B]), (2, ["MIG-1", "MIG-2"]), (1, ["MIG-1"]))
    )
    assert [backend(plan) for plan in (each, shared, parts, one)] == [WITH_NCCL, "gloo", "gloo", "gloo"]
    assert remarks(each) == remarks(one) == []
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert backend(each) == "gloo"
    assert remarks(shared) == ["3 engines share 2 GPUs: NCCL takes one rank a GPU, so gloo is used."]
    assert remarks(parts) == ["2 engines have parts of GPUs (MIG): NCCL takes one rank a GPU, so gloo is used."]


def test_an_engine_on_a_gpu_outlives_an_exchange_that_fails():
    on_gpu, on_cpu = placements(1, [A], [0])[0].environment(), placements(1, [], [0])[0].environment()
    assert OUTLIVES_EXCHANGES.items() <= on_gpu.items()
    assert not OUTLIVES_EXCHANGES.keys() & on_cpu.keys()
    clean_up_only = 2  # enum ErrorHandlingMode, in torch's ProcessGroupNCCL.hpp
    assert OUTLIVES_EXCHANGES["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == str(clean_up_only)


def test_the_table_shows_what_an_engine_s_gpu_is_called_and_has_free_and_who_else_uses_it(monkeypatch):
    name = "A100-SXM4-40GB MIG 1g.5gb"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=name, uuid="7d0a3e3c-0001")
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int(3e9), int(5e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: int(1e9))
    facts = gpu_facts()
    assert facts["gpu"] == "A100-SXM4-40GB MIG 1g.5gb, 3 GB of 5 GB free, 7d0a3e3c-0001"

    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    cluster = Cluster(2)
    at = {"host": "lab", "pid": 1}
    free, used = (facts | at | {"used_bytes": size, "bytes": int(40e9)} for size in (int(2e9), int(33e9)))
    cluster._engines = SimpleNamespace(facts={0: free, 1: used}, client=None, state=lambda rank: "ready")
    assert cluster.remarks == [
        "cuda:1 is used by other programs too, this notebook's own perhaps: they hold about 30 GB of its 40 GB; "
        "start Jupyter with CUDA_VISIBLE_DEVICES set to other GPUs if there are free ones."
    ]
    cluster._engines.client = "there"
    for shown in (repr(cluster), cluster._repr_html_()):
        assert f"cuda:0 {facts['gpu']}" in shown
        assert "30 GB of its 40 GB" in shown
        assert WITH_NCCL in shown


def test_what_engines_hold_themselves_is_not_others():
    plan = placements(2, [A], [0, 1])
    facts = {rank: {"used_bytes": int(9e9), "own_bytes": int(3e9), "bytes": int(40e9)} for rank in (0, 1)}
    assert used_by_others(plan, facts) == []  # 3 GB each, and what CUDA takes
    assert used_by_others(plan, {}) == []
    assert used_by_others(placements(2, [], [0]), {0: {"gpu": ""}}) == []


# Faults. An engine's group has a pretended part by NCCL: what waits for it does so in C until it is aborted.


def waits_on_a_gpu(then):
    """Rank 0 waits in an exchange on a pretended GPU until it is aborted, and rank 1 does something else."""
    import builtins
    import threading
    from types import SimpleNamespace
    from unittest import mock

    import torch
    import torch.distributed as dist

    from dlkit.distributed.group import Group

    if dist.get_rank() == 1:
        return then()
    builtins.kept = "what rank 0 holds"
    exchanges = threading.Lock()
    exchanges.acquire()
    backend = SimpleNamespace(abort=lambda: exchanges.locked() and exchanges.release())

    class Joined:
        def _get_backend(self, device):
            return backend

    group = Group()
    group.process_group, group.takes_cuda = Joined(), True
    dist.distributed_c10d._pg_backend_config[group.process_group] = "cpu:gloo,cuda:nccl"
    in_torch = {"__name__": "torch.cuda.streams", "exchanges": exchanges}
    exec("def synchronize(self):\n    exchanges.acquire()\n    self.query = lambda: True", in_torch)
    event = SimpleNamespace(record=lambda stream: None, query=lambda: False)
    event.synchronize = in_torch["synchronize"].__get__(event)
    pretended = SimpleNamespace(
        device=torch.device("cuda", 0), is_cuda=True, nbytes=4, copy_=lambda other: None, cpu=lambda: torch.ones(1)
    )
    with (
        mock.patch.object(torch.cuda, "Event", return_value=event),
        mock.patch.object(torch.cuda, "current_stream", mock.MagicMock()),
        mock.patch.object(dist, "all_reduce", mock.MagicMock()),  # by NCCL it returns at once
    ):
        group.all_reduce(pretended)
    builtins.kept = "what was not exchanged"


def kept():
    import builtins

    return getattr(builtins, "kept", None)


def total():
    import torch
    import torch.distributed as dist

    value = torch.tensor([float(1 + dist.get_rank())])
    dist.all_reduce(value)
    return value.item()


def test_an_error_on_one_rank_frees_the_other_from_its_gpu_and_the_group_is_made_anew(cluster):
    pids = cluster.call(os.getpid)
    with pytest.raises(IndexError):
        cluster.call(waits_on_a_gpu, lambda: [][3])
    assert cluster.call(os.getpid) == pids
    assert cluster.call(kept)[0] == "what rank 0 holds"
    assert cluster.call(total) == [3.0, 3.0]


def test_a_rank_that_waits_on_its_gpu_for_one_that_has_ended_is_named_and_freed(cluster, monkeypatch):
    monkeypatch.setattr(lookout, "PATIENCE", 1.0)
    waits = r"engine 0 \(.*\) waits in all_reduce \(line \d+ of `waits_on_a_gpu`.*\) for engine 1 .*, which has ended"
    with pytest.raises(ClusterError, match=waits):
        cluster.call(waits_on_a_gpu, int)
    assert cluster.call(total) == [3.0, 3.0]


def test_a_rank_that_sleeps_is_waited_for(cluster, monkeypatch):
    monkeypatch.setattr(lookout, "PATIENCE", 1.0)

    def sleeps():
        import time

        time.sleep(4)
        raise KeyError("late")

    with pytest.raises(KeyError, match="late"):
        cluster.call(waits_on_a_gpu, sleeps)
    assert cluster.call(total) == [3.0, 3.0]


def test_when_an_engine_is_killed_the_other_is_freed_from_its_gpu_and_keeps_what_it_holds(cluster, capsys, monkeypatch):
    monkeypatch.setattr(cluster_module, "BUSY_TIMEOUT", 30.0)  # this machine may be slow
    pids = cluster.call(os.getpid)

    def sleeps():
        import time

        time.sleep(600)

    threading.Timer(1.0, os.kill, (pids[1], signal.SIGKILL)).start()
    with pytest.raises(ClusterError, match=r"engine 1 .* has died"):
        cluster.call(waits_on_a_gpu, sleeps)
    cluster.recover()
    assert cluster.call(os.getpid)[0] == pids[0]
    assert cluster.call(kept) == ["what rank 0 holds", None]
    assert cluster.call(total) == [3.0, 3.0]
