"""Replicas and servers are killed at any time: runs end, no gradient is lost or counted twice, all can be had again."""

import pytest
import torch
from asynchronous_runs import IMAGES, LABELS, check_ledger, experiment, parameters, run_with_faults
from torch import nn

from dlkit.strategies.asynchronous.downpour import BackupWorkers, Downpour
from dlkit.strategies.asynchronous.record import Record
from dlkit.strategies.asynchronous.server import Server
from dlkit.strategies.asynchronous.virtual import Simulation, durations

TIMES, TOGETHER = 300, 20  # how many runs, and how many of them a test
BATCHES = 25


def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


@pytest.mark.parametrize("first", range(0, TIMES, TOGETHER))
def test_runs_with_faults_end_with_whole_ledgers_and_can_be_replayed(first, tmp_path, unchecked):
    for seed in range(first, first + TOGETHER):
        folder = tmp_path / str(seed)
        folder.mkdir()
        simulation, found = run_with_faults(experiment(small), seed, folder, BATCHES)
        assert found.stopped is None
        for server in simulation.servers:
            assert server is not None
            assert server.shard.batches >= BATCHES, seed
            if simulation.strategy.needed == 1:
                check_ledger(server.record.rows)
        assert Record.load(folder, simulation.strategy.servers) == found.record
        again = found.replay(progress=False)
        assert torch.equal(parameters(found.model), parameters(again.model)), seed
        assert found.staleness == again.staleness


def test_what_is_learnt_with_faults_is_as_good(tmp_path):
    """The loss of runs with faults lies among that of runs without any, which differ by their order."""

    def loss(run):
        return nn.functional.cross_entropy(run.model(IMAGES.double()), LABELS).item()

    made, strategy = experiment(small, lr=0.02), Downpour()
    undisturbed = [loss(Simulation(made, strategy, 3, batches=120, duration=durations(n)).train()) for n in range(8)]
    for seed in range(4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        simulation = Simulation(
            made, strategy, 3, batches=120, duration=durations(seed), folder=folder, checkpoint_every=10
        )
        simulation.at(7.0 + seed, lambda simulation=simulation: simulation.kill_server(0, simulation.now + 5))
        simulation.at(20.0 + seed, lambda simulation=simulation: simulation.kill_replica(1))
        simulation.at(24.0 + seed, lambda simulation=simulation: simulation.join(1))
        disturbed = loss(simulation.train())
        spread = max(undisturbed) - min(undisturbed)
        assert min(undisturbed) - spread < disturbed < max(undisturbed) + spread


@pytest.mark.parametrize("strategy", [Downpour(staleness=7), BackupWorkers(n=2, b=1)], ids=repr)
def test_a_checkpoint_is_written_once_for_each_time_it_is_due(strategy, tmp_path, monkeypatch):
    """While pushes are held back, or gathered, the version stays where it is."""
    written, write = [], Server.write_checkpoint

    def noted(server):
        written.append(server.shard.version)
        write(server)

    monkeypatch.setattr(Server, "write_checkpoint", noted)
    Simulation(experiment(small), strategy, 3, batches=40, folder=tmp_path, checkpoint_every=5).train()
    assert written == sorted(set(written))
    assert len(written) >= 4
