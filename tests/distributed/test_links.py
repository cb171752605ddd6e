"""Emulated links: formulas against worked figures, and exchanges that take as long as they should."""

import pytest
import torch
from ranks import team

from dlkit.distributed.group import Group
from dlkit.distributed.links import FDR_INFINIBAND, GIGABIT, NVLINK, TEN_GIGABIT, Link
from dlkit.distributed.recorder import Recorder

PCIE = Link(0.0, 16e9, "PCIe")


def test_an_all_reduce_of_four_gpus_takes_the_published_15_milliseconds():
    """Zhang et al., Dive into deep learning, §13.7: 160 MB over 16 GB/s links, a quarter of it on each GPU."""
    assert PCIE.seconds("all-reduce", 160_000_000, 4) == pytest.approx(15e-3)


def test_the_times_of_a_megabyte_among_five_ranks():
    """At 1 MB/s and 1/8 s a message: rings of 4 hops, each of a fifth of the megabyte."""
    link = Link(0.125, 1e6)
    assert link.seconds("all-reduce", 1_000_000, 5) == pytest.approx(8 * (0.2 + 0.125))
    assert link.seconds("all-gather", 1_000_000, 5) == pytest.approx(4 * (0.2 + 0.125))
    assert link.seconds("reduce-scatter", 1_000_000, 5) == pytest.approx(4 * (0.2 + 0.125))
    assert link.seconds("broadcast", 1_000_000, 5) == pytest.approx(1 + 4 * 0.125)
    assert link.seconds("halo", 1_000_000, 5) == pytest.approx(1 + 0.125)


@pytest.mark.parametrize("name", ["all-reduce", "all-gather", "broadcast", "exchange"])
def test_one_rank_alone_waits_for_nobody(name):
    assert GIGABIT.seconds(name, 1_000_000, 1) == 0


def test_a_ring_of_sends_takes_what_the_formula_of_an_all_reduce_says():
    ranks, size = 4, 4_000_000
    sends = 2 * (ranks - 1) * TEN_GIGABIT.seconds("ring: add", size // ranks, ranks)
    assert sends == pytest.approx(TEN_GIGABIT.seconds("all-reduce", size, ranks))


def test_named_links_are_what_was_published():
    assert FDR_INFINIBAND.bandwidth == pytest.approx(4 * 14.0625e9 * 64 / 66 / 8, rel=0.005)
    assert (GIGABIT.bandwidth, TEN_GIGABIT.bandwidth, NVLINK.bandwidth) == (1e9 / 8, 10e9 / 8, 900e9 / 2)
    latencies = [link.latency for link in (FDR_INFINIBAND, NVLINK, TEN_GIGABIT, GIGABIT)]
    assert latencies == sorted(latencies)


def test_a_link_says_that_it_is_emulated():
    assert str(GIGABIT) == "emulated gigabit Ethernet: 0.125 GB/s, 50 µs"


@pytest.mark.parametrize("latency", [-1e-6, float("inf"), float("nan")])
def test_a_latency_that_cannot_be_is_refused(latency):
    with pytest.raises(ValueError, match="of slow: give seconds, 0 or more"):
        Link(latency, 1e9, "slow")


@pytest.mark.parametrize("bandwidth", [0.0, -1e9, float("inf"), float("nan")])
def test_a_bandwidth_that_cannot_be_is_refused(bandwidth):
    with pytest.raises(ValueError, match="of slow: give bytes a second"):
        Link(0.0, bandwidth, "slow")


def exchanges(link):
    """What each rank has after one exchange of each kind, and how long each took."""
    recorder = Recorder()
    group = Group(recorder=recorder, link=link)
    summed, sent = (torch.arange(250.0) + factor * group.rank for factor in (1, 2))
    group.all_reduce(summed)
    gathered = group.all_gather(torch.full((125 + group.rank,), group.rank + 1.0), [125, 126])
    group.broadcast(sent, source=1)
    neighbour = torch.empty(250)
    group.exchange({1 - group.rank: torch.full((250,), 1.0 * group.rank)}, {1 - group.rank: neighbour})
    wait = group.start_all_reduce(sent)
    wait()
    return [summed, gathered, sent, neighbour], [span.end - span.begin for span in recorder.spans]


def test_who_is_alone_sends_nothing():
    def sent():
        recorder = Recorder()
        group, tensor = Group(recorder=recorder), torch.ones(250)
        group.all_reduce(tensor)
        group.broadcast(tensor)
        assert torch.equal(group.all_gather(tensor, [250]), torch.ones(250))
        return recorder.bytes_sent, len(recorder.spans)

    assert team(1).call(sent) == [(0, 3)]


def test_exchanges_on_a_slow_link_take_their_time_and_give_the_same():
    link = Link(0.02, 10_000.0, "slow")  # 1,000 bytes take 0.1 s, a message 0.02
    quick, slow = team(2).call(exchanges, None), team(2).call(exchanges, link)
    least = [0.1 + 0.04, 0.0504 + 0.02, 0.1 + 0.02, 0.1 + 0.02, 0.1 + 0.04]
    for (expected, _), (tensors, seconds) in zip(quick, slow, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(expected, tensors, strict=True))
        assert [took >= wanted for took, wanted in zip(seconds, least, strict=True)] == [True] * 5
