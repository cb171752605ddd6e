"""Convolutional autoencoders split: maps go in and come back, as in one process."""

import pytest
import torch
from oracles import seeded
from ranks import team
from splitting import difference, run
from torch import nn

from dlkit import Experiment
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, Pipeline, SpatialParallel, TensorParallel
from dlkit.training import Reconstruction

PICTURES = torch.rand(24, 8, 8, generator=seeded())


def transposed():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh()),
        *(nn.ConvTranspose2d(4, 1, 2, stride=2), nn.Sigmoid()),
    )


def same_size():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid())


@pytest.mark.parametrize(
    ("net", "strategy"),
    [
        (transposed, DataParallel()),
        (transposed, DataParallel(reduce="ddp")),
        (transposed, TensorParallel()),
        (transposed, Hybrid(1, 2)),
        (transposed, Pipeline(2)),
        (transposed, ModelAveraging(1)),
        (same_size, SpatialParallel()),
        (same_size, TensorParallel()),
        (same_size, Pipeline(2, schedule="gpipe")),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("images", [PICTURES, PICTURES[:, None]], ids=["height and width", "one map"])
def test_a_convolutional_autoencoder_learns_split_what_it_learns_alone(net, strategy, images):
    experiment = Experiment(net, images, Reconstruction(corruption=0.2), batch_size=8, lr=0.02)
    alone = run(experiment, steps=6)
    for split in team(2).call(run, experiment, strategy, steps=6):
        assert difference(alone.model, split.model) < 1e-5
