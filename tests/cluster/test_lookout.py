"""Ranks that wait for each other are told from ranks that wait for a core, on a machine that has too much to do."""

import os
import subprocess
import sys
import time

import pytest

from dlkit.cluster import lookout
from dlkit.cluster.lookout import Lookout, Still, Use, turns_of


class Time:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(lookout.time, "monotonic", lambda: self.now)


@pytest.fixture
def still(monkeypatch):
    """Two ranks that have used something, and the time."""
    clock = Time(monkeypatch)
    still = Still(5.0)
    assert not still.for_long({0: Use(1.0, 100), 1: Use(2.0, 200)}, True)
    return still, clock


def test_ranks_that_use_no_core_are_still_after_a_while(still):
    still, clock = still
    clock.now = 4.9
    assert not still.for_long({0: Use(1.1, 103), 1: Use(2.0, 200)}, False)
    clock.now = 5.1
    assert still.for_long({0: Use(1.1, 103), 1: Use(2.1, 201)}, False)


@pytest.mark.parametrize(
    "goes_on",
    [
        {0: Use(1.4, 101), 1: Use(2.0, 200)},  # it computes
        {0: Use(1.0, 100), 1: Use(2.1, 230)},  # it has a core for a moment now and then
        {0: Use(1.0, 100, wants=True), 1: Use(2.0, 200)},  # it waits for one
    ],
)
def test_one_that_goes_on_begins_the_count_anew(still, goes_on):
    still, clock = still
    clock.now = 100.0
    assert not still.for_long(goes_on, False)
    after = {rank: use._replace(wants=False) for rank, use in goes_on.items()}
    clock.now = 104.9
    assert not still.for_long(after, False)
    clock.now = 105.1
    assert still.for_long(after, False)


WAITS = """import sys, threading, time
print("ready", flush=True)
if sys.argv[1] == "waits":
    threading.Event().wait()
elif sys.argv[1] == "computes":
    while True:
        pass
while True:
    time.sleep(0.001)
"""


@pytest.mark.parametrize(("does", "goes_on"), [("waits", False), ("computes", True), ("turns", True)])
def test_what_a_process_does_is_seen(does, goes_on):
    if not os.path.exists("/proc/self/status"):
        pytest.skip("this system does not say how often a thread has been on a core")
    with subprocess.Popen([sys.executable, "-c", WAITS, does], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            time.sleep(0.2)
            before, _ = turns_of(process.pid)
            end = time.monotonic() + (1 if does == "waits" else 20)
            while True:
                turns, wants = turns_of(process.pid)
                moved = turns - before > lookout.TURNS or (wants and does == "computes")
                if moved or time.monotonic() > end:
                    break
                time.sleep(0.05)
        finally:
            process.kill()
    assert moved is goes_on
    assert turns_of(2**22 + 1) == (0, False)  # there is none of this number


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
