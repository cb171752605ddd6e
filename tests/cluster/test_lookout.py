"""Ranks that wait for each other are told from ranks that wait for a core, on a machine that has too much to do."""

import os
import threading
import time

import pytest

from dlkit.cluster import lookout
from dlkit.cluster.lookout import Clock, Lookout, Still, core_and_queue


def test_ranks_that_use_no_core_are_still_after_a_while():
    still = Still(5.0)
    assert not still.for_long({0: 1.0, 1: 2.0}, True, 1.0)
    assert not still.for_long({0: 1.1, 1: 2.0}, False, 4.9)
    assert still.for_long({0: 1.1, 1: 2.1}, False, 0.2)


@pytest.mark.parametrize("changed", [{0: 1.4, 1: 2.0}, {0: 1.0, 1: 2.5}])
def test_one_that_computes_begins_the_count_anew(changed):
    still = Still(5.0)
    still.for_long({0: 1.0, 1: 2.0}, True, 0.0)
    assert not still.for_long(changed, False, 100.0)
    assert not still.for_long(changed, False, 4.9)
    assert still.for_long(changed, False, 0.2)


class Machine:
    """What each process has computed, and how long it has waited for a core; and the time."""

    def __init__(self, monkeypatch):
        self.now, self.spent = 0.0, {}
        monkeypatch.setattr(lookout.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(lookout, "core_and_queue", lambda pid: self.spent[pid])

    def passes(self, seconds, **spent):
        self.now += seconds
        self.spent = {int(pid[1:]): both for pid, both in spent.items()}


def test_the_clock_goes_slower_where_ranks_wait_for_a_core(monkeypatch):
    machine = Machine(monkeypatch)
    clock = Clock()
    machine.passes(1, p7=(3.0, 9.0), p8=(0.0, 0.0))
    assert clock.tick({0: 7, 1: 8}) == 1  # nothing is known yet
    machine.passes(10, p7=(3.5, 13.5), p8=(1.0, 0.0))
    assert clock.tick({0: 7, 1: 8}) == pytest.approx(1.0)  # rank 0 had a core for a tenth of the time it wanted one
    machine.passes(10, p7=(3.5, 13.5), p8=(1.0, 0.0))
    assert clock.tick({0: 7, 1: 8}) == 10  # neither wanted one
    machine.passes(10, p7=(2.5, 14.5), p8=(1.0, 0.0))
    assert clock.tick({0: 7, 1: 8}) == 10  # a thread has ended, and its seconds are no longer counted


def test_a_process_that_computes_or_waits_for_a_core_is_seen():
    if not os.path.exists("/proc/self/schedstat"):
        pytest.skip("this system does not say how long a process has waited for a core")
    stop = threading.Event()
    threads = [threading.Thread(target=lambda: [None for _ in iter(stop.is_set, True)]) for _ in range(2)]
    before = core_and_queue(os.getpid())
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while sum(core_and_queue(os.getpid())) - sum(before) < 0.2:
        assert time.monotonic() < end
    stop.set()
    for thread in threads:
        thread.join()
    assert core_and_queue(2**22 + 1) == (0, 0)  # there is none of this number


def test_ranks_that_went_on_after_all_have_given_their_results(cluster, monkeypatch):
    looked = []
    monkeypatch.setattr(Lookout, "look", lambda self, pending: None if looked else looked.append(1) or "rank 0 waits")
    assert cluster.call(time.sleep, 1.0) == [None, None]
    assert looked
    assert cluster.call(rank_and_sum) == [(0, 3.0), (1, 3.0)]


def rank_and_sum():
    import torch
    import torch.distributed as dist

    total = torch.ones(()) + dist.get_rank()
    dist.all_reduce(total)
    return dist.get_rank(), float(total)
