"""Every strategy in two processes on a pretended device: by NCCL, and by gloo as where two ranks share a GPU."""

from typing import NamedTuple

import pytest
import ranks
import torch
from rehearsed import strategies
from splitting import difference

import dlkit.strategies

STEPS = 3
CASES = [(name, which) for name, cases in strategies.CASES.items() for which in cases]
BY_GLOO = [(name, which) for name, which in CASES if strategies.CASES[name][which].by_gloo]


class Seen(NamedTuple):
    """Of a run: its model and history, where weights were during it, and for what the second step has waited."""

    model: torch.nn.Module
    rows: list
    during: set = frozenset()
    waits: list = ()


@pytest.fixture(scope="module")
def team():
    """Two ranks that pretend, and are of no use to others."""
    import pretended_ranks

    ranks.stop_all()
    team = ranks.team(2)
    team.call(pretended_ranks.start)
    yield team
    ranks.stop_all()


def alone(name, which, steps=STEPS, device="cpu", **arguments):
    arguments |= {"steps": steps, "device": device, "progress": False}
    run = strategies.CASES[name][which].experiment.run(**arguments)
    return Seen(run.model, run.history.rows)


def train(name, which, nccl, steps=STEPS, device="gpu", **arguments):
    """On a rank: its part of the run."""
    import pretended_ranks
    from rehearsed.training import Steps

    case, during = strategies.CASES[name][which], set()

    def look(run):
        during.update(p.device.type for p in run.shard.model.parameters())

    arguments |= {"steps": steps, "device": device, "progress": False, "callbacks": [look]}
    with pretended_ranks.exchanging(nccl), Steps() as seen:
        run = case.experiment.run(strategy=case.strategy, **arguments)
    return Seen(run.model, run.history.rows, during, seen.waits[-2])


def both(name, which):
    """On a rank: by NCCL, and on rank 0 also alone there, with the device's random numbers."""
    split = train(name, which, True)
    return split, alone(name, which, device="gpu") if torch.distributed.get_rank() == 0 else None


def same(expected, seen):
    """Each rank has the whole model on the CPU, trained there to what was expected."""
    for one in seen:
        assert one.during == {"gpu"}
        assert {value.device.type for value in one.model.state_dict().values()} == {"cpu"}
        assert difference(expected.model, one.model) < 1e-5
        for row, other in zip(expected.rows, one.rows, strict=True):
            for column in ("loss", "error"):
                assert row.get(column, 0.0) == pytest.approx(other.get(column, 0.0), rel=1e-4, abs=1e-5)


def test_every_strategy_is_rehearsed_or_takes_no_tensors():
    """A new one needs a case in tests/rehearsed/strategies.py, or a reason there why it needs none."""
    assert set(strategies.CASES) | set(strategies.NO_TENSORS) == set(dir(dlkit.strategies))
    assert not set(strategies.CASES) & set(strategies.NO_TENSORS)
    assert set(strategies.CASES) == {name for name, _ in BY_GLOO}


@pytest.mark.parametrize(("name", "which"), CASES, ids=lambda part: part)
def test_by_nccl_it_learns_what_it_learns_alone(team, name, which):
    (first, expected), (second, _) = team.call(both, name, which)
    same(expected, (first, second))
    most, _ = strategies.WAITS.get((name, which), (0, ""))
    for one in (first, second):
        assert len(one.waits) <= most + len(strategies.ALWAYS), one.waits
        assert most or one.waits == strategies.ALWAYS
    assert not most or len(first.waits) > len(strategies.ALWAYS), "it waits no longer: take it out of WAITS"


@pytest.mark.parametrize(("name", "which"), BY_GLOO, ids=lambda part: part)
def test_by_gloo_it_learns_what_the_cpu_learns_and_the_cpu_goes_on(team, name, which, tmp_path):
    kept = {"checkpoint": tmp_path, "rng_device": "cpu"}
    same(alone(name, which), team.call(train, name, which, False, **kept))
    on = {"steps": STEPS + 1, "device": "cpu", "resume": True} | kept
    if name == "ModelAveraging":  # two models, with which no run alone goes on
        on, _ = team.call(train, name, which, False, **on)
    else:
        on = alone(name, which, **on)
    assert difference(alone(name, which, STEPS + 1).model, on.model) < 1e-5


def test_dtensors_are_refused_where_ranks_share_a_gpu(team):
    with pytest.raises(ValueError, match="torch's DTensors on GPUs need NCCL"):  # its mends: test_on_gpus.py
        team.call(train, "TensorParallel", "dtensor", False)


def refused(nccl):
    """On a rank: what it says to exchanges of tensors on the CPU, there, and on both."""
    import pretended_ranks
    from pretended import TwoDevices

    dist, here, there = torch.distributed, torch.ones(1), torch.ones(1, device="gpu")

    def send(*tensors):
        dist.batch_isend_irecv([dist.P2POp(dist.isend, tensor, group_peer=1 - dist.get_rank()) for tensor in tensors])

    exchanges = {
        "here": lambda: dist.all_reduce(here),
        "there": lambda: dist.all_reduce(there),
        "both": lambda: dist.all_gather([torch.ones(1), torch.ones(1)], there),
        "sent from both": lambda: send(here, there),
    }
    told = set()
    with pretended_ranks.exchanging(nccl):
        for name, exchange in exchanges.items():
            try:
                exchange()
            except TwoDevices:
                told.add(name)
    return told


def test_the_pretended_exchanges_refuse_what_those_on_a_gpu_would(team):
    assert team.call(refused, True) == [{"both", "sent from both"}] * 2
    assert team.call(refused, False) == [{"there", "both", "sent from both"}] * 2
