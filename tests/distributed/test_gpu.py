"""What is asked of torch on GPUs, in which order, by stand-ins for its functions: no GPU is here."""

import os
import threading
from datetime import timedelta
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from ranks import team
from splitting import experiments
from torch._C._distributed_c10d import ErrorType

from dlkit.distributed import gpu, process_group
from dlkit.distributed.gpu import abort_nccl, check_exchanged, own_device, wait_for_exchange, wait_for_gpu
from dlkit.distributed.process_group import WITH_NCCL, agree_on_backend, enter_group, join_by_file, leave_group
from dlkit.strategies import DataParallel


@pytest.fixture
def cards(monkeypatch):
    """Two pretended GPUs; what is asked of them, in order, and which is the current one."""
    state = SimpleNamespace(log=[], current=0, initialized=False)

    def set_device(device):
        state.current = device if isinstance(device, int) else device.index
        state.log.append(("set_device", state.current))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: state.initialized)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: state.current)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    card = "A100-SXM4-40GB"
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=card, uuid=f"GPU-{index}")
    )
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    return state


def started_by_torchrun(monkeypatch, rank=1, ranks=2, here=None):
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": here or ranks}
    for name, value in (values | {"TORCHELASTIC_RUN_ID": "a run"}).items():
        monkeypatch.setenv(name, str(value))


class Reached(Exception):
    """The first thing of a run is about to be made on its device."""


@pytest.fixture
def made(monkeypatch, cards):
    """A run ends when its data are to go to the GPU, which is noted."""

    def check_memory(size, what, device):
        cards.log.append(("data", device))
        raise Reached

    monkeypatch.setattr("dlkit.training.prepared_run.check_memory", check_memory)
    return cards.log


def test_a_rank_of_torchrun_takes_its_gpu_and_joins_before_anything_is_made_there(monkeypatch, cards, made):
    started_by_torchrun(monkeypatch)
    monkeypatch.setattr(process_group, "yield_on_wakeup", lambda: None)
    monkeypatch.setattr(process_group, "join_by_file", lambda *args: made.append(("join", cards.current)))
    with pytest.raises(Reached):
        experiments()["CD"].run(strategy=DataParallel(), progress=False)
    assert made == [("set_device", 1), ("join", 1), ("data", torch.device("cuda", 1))]


@pytest.mark.parametrize("ranks", [2, 4])
def test_on_several_machines_ranks_join_with_the_gpus_that_they_have_taken(monkeypatch, cards, made, ranks):
    started_by_torchrun(monkeypatch, ranks=ranks, here=2 if ranks == 4 else 1)
    store = dist.HashStore()
    for rank in range(ranks):
        store.set(f"gpu of rank {rank}", f"GPU {rank}")
    monkeypatch.setattr(process_group, "yield_on_wakeup", lambda: None)
    monkeypatch.setattr(dist, "rendezvous", lambda url, rank, size: iter([(store, rank, size)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **kwargs: made.append((*args, kwargs["device_id"])))
    with pytest.raises(Reached):
        experiments()["CD"].run(strategy=DataParallel(), progress=False)
    own = torch.device("cuda", 1)
    assert made == [("set_device", 1), (WITH_NCCL, own), ("data", own)]


@pytest.mark.parametrize(
    ("bound", "initialized", "expected"),
    [
        (torch.device("cuda", 1), False, [("set_device", 1), ("data", torch.device("cuda", 1))]),
        (None, False, [("set_device", 1), ("data", torch.device("cuda", 1))]),
        (None, True, [("data", torch.device("cuda", 0))]),  # the script has chosen
    ],
)
def test_a_rank_whose_script_has_joined_trains_on_the_gpu_of_its_group(
    monkeypatch, cards, made, bound, initialized, expected
):
    monkeypatch.setenv("LOCAL_RANK", "1")
    cards.initialized = initialized
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    joined = SimpleNamespace(bound_device_id=bound)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_group", lambda: joined)
    with pytest.raises(Reached):
        experiments()["CD"].run(strategy=DataParallel(), progress=False)
    assert made == expected


def test_a_gpu_has_its_index_and_one_that_is_not_there_or_another_rank_s_is_refused(cards):
    cards.current = 1
    assert own_device(torch.device("cpu"), as_rank=True) == torch.device("cpu")
    assert own_device(torch.device("cuda", 0), as_rank=False) == torch.device("cuda", 0)
    with pytest.raises(
        ValueError, match=r'^device="cuda:2", but the last GPU that torch finds is cuda:1: give "cuda"\.$'
    ):
        own_device(torch.device("cuda", 2), as_rank=False)
    with pytest.raises(
        ValueError, match=r'^device="cuda:0", but the GPU of this rank is cuda:1: give "cuda", and each'
    ):
        own_device(torch.device("cuda", 0), as_rank=True)
    for as_rank in (False, True):  # the mend of both
        assert own_device(torch.device("cuda"), as_rank=as_rank) == torch.device("cuda", 1)


GIVEN = {
    "a GPU each": (["GPU-1"], WITH_NCCL, ""),
    "one between them": (["GPU-0"], "gloo", "2 ranks have no GPU each: NCCL takes one rank a GPU, so gloo is used.\n"),
    "none on the other": ([""], "gloo", "2 ranks have no GPU each: NCCL takes one rank a GPU, so gloo is used.\n"),
    "a part of one": (["a part of a GPU"], "gloo", "2 ranks have no GPU each: NCCL takes one rank a GPU, so gloo is"),
    "three of four": (["GPU-1", "GPU-2", "GPU-1"], "gloo", "4 ranks have no GPU each: NCCL takes one rank a GPU"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_nccl_is_for_ranks_with_a_gpu_each_and_where_it_is_not_it_is_said(cards, capsys, case):
    others, expected, said = GIVEN[case]
    store = dist.HashStore()
    for rank, uuid in enumerate(others, 1):
        store.set(f"gpu of rank {rank}", uuid)
    assert agree_on_backend(store, 0, 1 + len(others)) == expected
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert bool(told) == bool(said)


def test_without_gpus_or_without_nccl_it_is_gloo_and_of_parts_of_a_gpu_too(cards, monkeypatch, capsys):
    name = "A100-SXM4-40GB MIG 1g.5gb"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=name, uuid="GPU-0"))
    assert agree_on_backend(dist.HashStore(), 0, 1) == "gloo"
    assert "gloo is used" in capsys.readouterr().err
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert agree_on_backend(dist.HashStore(), 0, 1) == "gloo"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert agree_on_backend(dist.HashStore(), 0, 1) == "gloo"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("backend", "device"), [(WITH_NCCL, torch.device("cuda", 1)), ("gloo", None)])
def test_a_group_by_nccl_connects_as_it_is_joined_on_the_current_gpu(cards, monkeypatch, tmp_path, backend, device):
    given = {}
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **kwargs: given.update(kwargs, backend=args[0]))
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "eth0")
    cards.current = 1
    join_by_file(str(tmp_path / "group"), 0, 1, backend, timedelta(seconds=7))
    assert (given["backend"], given["device_id"], given["timeout"]) == (backend, device, timedelta(seconds=7))
    assert os.environ["NCCL_SOCKET_IFNAME"] == os.environ["GLOO_SOCKET_IFNAME"] != "eth0"


def test_torch_s_own_words_for_a_backend_say_whether_it_takes_what_is_on_a_gpu():
    for backend, takes in ((WITH_NCCL, True), ("nccl", True), ("gloo", False), ("cpu:gloo,cuda:gloo", False)):
        config = str(dist.distributed_c10d.BackendConfig(dist.Backend(backend)))
        with mock.patch.object(dist, "get_backend_config", return_value=config):
            assert gpu.takes_cuda() == takes


def test_groups_within_a_group_take_cpu_tensors_and_have_its_time_out():
    def timeouts():
        everyone = dist.distributed_c10d._get_default_group()
        groups = process_group.new_group(), process_group.new_group([0, 1])
        return {group._get_backend(torch.device("cpu")).options._timeout for group in (everyone, *groups)}

    assert [len(found) for found in team(2).call(timeouts)] == [1, 1]
    options = SimpleNamespace(options=SimpleNamespace(_timeout=timedelta(seconds=9)))
    everyone = SimpleNamespace(_get_backend=lambda device: options if device.type == "cuda" else None)
    with (
        mock.patch.object(dist.distributed_c10d, "_get_default_group", return_value=everyone),
        mock.patch.object(dist, "get_backend_config", return_value="cuda:nccl"),  # a script's own
        mock.patch.object(dist, "new_group") as made,
    ):
        process_group.new_group([0, 1])
    made.assert_called_once_with([0, 1], timeout=timedelta(seconds=9), backend=WITH_NCCL)


# What is exchanged, and when.


def spans_on_a_pretended_gpu():
    """Of each exchange, when it began and ended, and since when it was waited for, where computing takes 3 seconds and
    an exchange 2, and neither keeps the program."""
    from dlkit.distributed import group as module
    from dlkit.distributed.group import Group

    clock, pending = [0.0], {"computing": 0.0, "exchange": 0.0}

    def pass_time(kind):
        def wait(device):
            clock[0] += pending[kind]
            pending[kind] = 0.0

        return wait

    def computes(seconds=3.0):
        pending["computing"] += seconds
        pending["exchange"] = 2.0

    spans = {}
    with (
        mock.patch.object(module, "wait_for_gpu", pass_time("computing")),
        mock.patch.object(module, "wait_for_exchange", pass_time("exchange")),
        mock.patch.object(module, "now", side_effect=lambda: clock[0]),
    ):
        group = Group()
        other, x = 1 - group.rank, torch.ones(2)

        def overlapped():
            wait = group.start_all_reduce(x)
            pending["computing"] += 1.0  # beside it
            wait()

        exchanges = {
            "all_reduce": lambda: group.all_reduce(x),
            "start_all_reduce": overlapped,
            "all_gather": lambda: group.all_gather(x, [2, 2]),
            "broadcast": lambda: group.broadcast(x),
            "exchange": lambda: group.exchange({other: x}, {other: torch.empty(2)}),
        }
        for name, exchange in exchanges.items():
            clock[0] = 0.0
            computes()
            exchange()
            spans[name] = tuple(group.recorder.spans[-1])[2:4], group.recorder.spans[-1].wait_begin
    return spans


def test_an_exchange_begins_when_its_tensor_is_computed_and_ends_when_the_gpu_has_what_it_gives():
    for spans in team(2).call(spans_on_a_pretended_gpu):
        waits_since = {"all_reduce": 3.0, "start_all_reduce": 4.0}
        assert spans.pop("start_all_reduce") == ((3.0, 6.0), waits_since["start_all_reduce"])
        assert spans == {name: ((3.0, 5.0), waits_since.get(name)) for name in spans}


def staged_tensors():
    from dlkit.distributed.group import Group

    class Pretended(torch.Tensor):
        device = torch.device("cuda", 0)

        def cpu(self):
            return "on the CPU"

    tensor, on_cpu, group = torch.ones(2).as_subclass(Pretended), torch.ones(2), Group()
    by_gloo = group.staged(tensor)
    group.takes_cuda = True
    return by_gloo, group.staged(tensor) is tensor, group.staged(on_cpu) is on_cpu


def test_tensors_on_gpus_go_through_the_cpu_by_gloo_and_as_they_are_by_nccl():
    assert team(2).call(staged_tensors) == [("on the CPU", True, True)] * 2


def test_the_cpu_is_not_waited_for_and_a_gpu_by_its_stream_and_then_without_the_core(monkeypatch):
    log = []

    class Event:
        def __init__(self, **settings):
            log.append(settings)

        def record(self, stream):
            log.append(("record", stream.device))
            self.done = False

        def query(self):
            return self.done

        def synchronize(self):
            log.append("synchronize the event")
            self.done = True

    class Stream:
        def __init__(self, device):
            self.device = device

        def synchronize(self):
            log.append(("synchronize", self.device))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    for wait in (wait_for_gpu, wait_for_exchange):
        wait(torch.device("cpu"))
    assert log == []
    device = torch.device("cuda", 1)
    wait_for_gpu(device)
    wait_for_exchange(device)
    assert log == [("synchronize", device), {"blocking": True}, ("record", device), "synchronize the event"]


# How exchanges end that have no end of their own.


class Joined:
    """A process group as abort_nccl sees it, of a backend whose abort waits for that of another one."""

    def __init__(self, barrier):
        self.barrier, self.aborted = barrier, []

    def _get_backend(self, device):
        return SimpleNamespace(abort=lambda: self.abort(device), get_error=lambda: ErrorType.SUCCESS)

    def abort(self, device):
        self.barrier.wait(timeout=10)
        self.aborted.append(device)
        raise RuntimeError("it had been aborted before")


def test_all_exchanges_by_nccl_are_aborted_at_once_and_those_by_gloo_go_on(monkeypatch):
    barrier = threading.Barrier(2)
    groups = {Joined(barrier): config for config in (WITH_NCCL, "cuda:nccl", "cpu:gloo,cuda:gloo")}
    monkeypatch.setattr(dist.distributed_c10d, "_pg_backend_config", groups)
    for thread in abort_nccl():
        thread.join(timeout=10)
    assert [group.aborted for group in groups] == [[torch.device("cuda")], [torch.device("cuda")], []]
    for group, config in groups.items():
        if "nccl" in config:
            with pytest.raises(RuntimeError, match=r"^this rank was freed from an exchange, as another one has failed"):
                check_exchanged(group)
        else:
            check_exchanged(group)


def test_an_exchange_that_torch_itself_has_ended_has_no_result_either():
    def group_whose_error_is(error):
        backend = SimpleNamespace(get_error=lambda: error)
        return mock.MagicMock(_get_backend=lambda device: backend)

    check_exchanged(group_whose_error_is(ErrorType.SUCCESS))
    for error in (ErrorType.COMM_ERROR, ErrorType.TIMEOUT):
        with pytest.raises(RuntimeError, match="this rank was freed from an exchange"):
            check_exchanged(group_whose_error_is(error))


def exchanges_that_were_ended():
    from dlkit.distributed import group as module
    from dlkit.distributed.group import Group

    class Pretended(torch.Tensor):
        device = torch.device("cuda", 0)

    told = {}
    with (
        mock.patch.object(module, "wait_for_gpu"),
        mock.patch.object(module, "wait_for_exchange"),
        mock.patch.object(module, "check_exchanged", side_effect=RuntimeError("freed")),
    ):
        group = Group()
        other, x = 1 - group.rank, torch.ones(2).as_subclass(Pretended)
        group.takes_cuda = True
        exchanges = {
            "all_reduce": lambda: group.all_reduce(x),
            "start_all_reduce": lambda: group.start_all_reduce(x)(),
            "broadcast": lambda: group.broadcast(x),
            "exchange": lambda: group.exchange({other: x}, {other: torch.empty(2).as_subclass(Pretended)}),
        }
        for name, exchange in exchanges.items():
            try:
                exchange()
            except RuntimeError as error:
                told[name] = str(error)
    return told


def test_whichever_exchange_was_ended_is_told():
    names = ("all_reduce", "start_all_reduce", "broadcast", "exchange")
    assert team(2).call(exchanges_that_were_ended) == [dict.fromkeys(names, "freed")] * 2


def test_a_group_is_left_once_its_exchanges_are_aborted(monkeypatch):
    log = []
    ends = threading.Thread(target=lambda: log.append("aborted"))

    def abort():
        ends.start()
        return [ends]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(gpu, "abort_nccl", abort)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: log.append("left"))
    leave_group()
    assert log == ["aborted", "left"]


def test_a_group_was_used_if_either_of_its_parts_was(monkeypatch):
    for counts, used in (((0, 0), False), ((0, 3), True), ((3, 0), True)):
        parts = {
            device: SimpleNamespace(_get_sequence_number_for_group=lambda count=count: count)
            for device, count in zip(("cpu", "cuda"), counts, strict=True)
        }
        group = mock.MagicMock(_device_types=list(parts), _get_backend=parts.get)
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist.distributed_c10d, "_get_default_group", lambda group=group: group)
        assert process_group.group_is_used() == used


def test_without_ranks_a_strategy_still_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match=r"a strategy needs a process for each rank: `cluster.run\("):
        enter_group()
