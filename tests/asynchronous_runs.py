"""Small experiments for asynchronous strategies, and faults for them in simulated time."""

import random
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dlkit import Experiment
from dlkit.models import Autoassociator
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.strategies.asynchronous.downpour import BackupWorkers, Downpour, ElasticAveraging
from dlkit.strategies.asynchronous.record import Record
from dlkit.strategies.asynchronous.virtual import Simulation, durations
from dlkit.training import CD, CrossEntropy

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(120, 8, 8, generator=GENERATOR), torch.randint(0, 4, (120,), generator=GENERATOR)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.2), nn.Tanh(), nn.Linear(12, 4))


def experiment(make=net, learner=None, **settings):
    labelled = learner is None or isinstance(learner, CrossEntropy)
    flat = isinstance(learner, CD) or (isinstance(make, partial) and make.func is Autoassociator)
    images = IMAGES.flatten(1) if flat or not labelled else IMAGES
    settings = {"batch_size": 10, "lr": 0.1, "dtype": torch.float64} | settings
    return Experiment(make, (images, LABELS) if labelled else images, learner or CrossEntropy(), **settings)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def check_ledger(rows):
    """Each replica's pushes, from the first on, without a gap, each once."""
    by_replica: dict[int, list[int]] = {}
    for replica, sequence in Record([rows]).applied[0]:
        by_replica.setdefault(replica, []).append(sequence)
    for replica, sequences in by_replica.items():
        assert sequences == list(range(1, len(sequences) + 1)), f"replica {replica}: {sequences}"


def faulty_strategy(seed):
    """One of all kinds, and how many replicas."""
    rng = random.Random(seed)
    kind = rng.random()
    if kind < 0.15:
        return ElasticAveraging(servers=rng.choice([1, 2]), every=rng.choice([1, 3])), rng.choice([2, 3])
    if kind < 0.3:
        return BackupWorkers(n=2, b=2, servers=rng.choice([1, 2])), 4
    return Downpour(
        servers=rng.choice([1, 2, 3]),
        overlap=rng.random() < 0.5,
        push=rng.choice([1, 1, 2]),
        fetch=rng.choice([1, 1, 3]),
        adagrad=rng.random() < 0.5,
        staleness=rng.choice([0, 0, 3]),
    ), rng.choice([2, 3, 5])


def run_with_faults(made: Experiment, seed: int, folder: Path, batches: int = 60) -> tuple[Simulation, AsynchronousRun]:
    """A run in which replicas and servers are killed at times that follow from the seed; most come back."""
    rng = random.Random(1000 + seed)
    strategy, replicas = faulty_strategy(seed)
    simulation = Simulation(
        made,
        strategy,
        replicas,
        batches=batches,
        duration=durations(seed),
        latency=rng.choice([0.0, 0.05, 0.5]),
        folder=folder,
        checkpoint_every=rng.choice([3, 10, 25]),
    )
    comes_back = 1.0 if isinstance(strategy, BackupWorkers) else 0.7

    def kill():
        alive = [number for number, server in enumerate(simulation.servers) if server is not None]
        if rng.random() < 0.5 and alive:
            simulation.kill_server(rng.choice(alive), simulation.now + rng.uniform(0.5, 10))
        elif len(simulation.replicas) > 1:
            number = rng.choice(list(simulation.replicas))
            part = simulation.replicas[number].replica.member.part
            simulation.kill_replica(number)
            if rng.random() < comes_back:
                simulation.at(simulation.now + rng.uniform(0.5, 10), lambda: simulation.join(part))

    for _ in range(rng.choice([1, 2, 4])):
        simulation.at(rng.uniform(0, batches / replicas), kill)
    if rng.random() < 0.3:
        simulation.at(rng.uniform(0, batches / replicas), lambda: simulation.join(rng.randrange(replicas)))
    return simulation, simulation.train()
