"""Nets of lazy layers, whose sizes come from the data, are split as they are trained alone."""

import pytest
from ranks import team
from splitting import difference, digits, run
from torch import nn

from dlkit import Experiment
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, Pipeline, SpatialParallel, TensorParallel
from dlkit.training import CrossEntropy


def net():
    maps = nn.Unflatten(1, (1, 28)), nn.LazyConv2d(6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2)
    return nn.Sequential(*maps, nn.Flatten(), nn.LazyLinear(20), nn.Sigmoid(), nn.LazyLinear(10))


EXPERIMENT = Experiment(net, digits(40), CrossEntropy(), batch_size=20, lr=0.1)


@pytest.mark.parametrize(
    "strategy",
    [DataParallel(), ModelAveraging(1), TensorParallel(), SpatialParallel(), Pipeline(2), Hybrid(1, 2)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_lazy_layers_are_split_as_they_are_trained_alone(strategy):
    alone = run(EXPERIMENT, steps=3)
    for split in team(2).call(run, EXPERIMENT, strategy, steps=3):
        assert difference(alone.model, split.model) < 1e-5
