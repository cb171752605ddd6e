"""Which layers take values that have gone past others, in costs and in the splitter's picture."""

import pytest
from torch import nn

from dlkit.models import LeNet5
from dlkit.strategies import DataParallel, Pipeline, SpatialParallel, TensorParallel, cost
from dlkit.ui.draw.split_diagram import split_diagram
from dlkit.ui.draw.split_skips import MOST


class Skips(nn.Module):
    """`count` blocks of one convolution, each with a skip around it, and the images once more at the end."""

    def __init__(self, count=2):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(count))
        self.last = nn.Linear(4, 10)

    def forward(self, images):
        x = self.stem(images[:, None])
        for block in self.blocks:
            x = x + block(x).relu()
        return self.last(x.mean((2, 3)) + images.mean((1, 2))[:, None])


@pytest.mark.parametrize("strategy", [DataParallel(), TensorParallel(), SpatialParallel(), Pipeline()])
def test_a_skip_is_from_whoever_gives_to_whoever_takes_past_others(strategy):
    table = cost(Skips(), (12, 12), 20, 2, strategy)
    assert [layer.name for layer in table.layers[0]] == ["stem", "blocks.0", "blocks.1", "last"]
    assert table.skips == [(0, 2), (-1, 3), (0, 3), (1, 3)]
    assert cost(LeNet5(), (28, 28), 20, 2, strategy).skips == []


def test_the_picture_has_an_arc_for_each_and_says_them_in_words():
    table = cost(Skips(), (12, 12), 20, 2, TensorParallel())
    picture = split_diagram(table, "neurons")
    assert "Past other layers: stem to blocks.1, the images to last, stem to last, blocks to last." in picture
    arcs = picture.count(" C")
    assert arcs == 4 > split_diagram(cost(LeNet5(), (28, 28), 20, 2, TensorParallel()), "neurons").count(" C") == 0


def test_more_than_can_be_told_apart_are_counted():
    table = cost(Skips(6), (12, 12), 20, 2, TensorParallel())
    assert len(table.skips) > MOST
    assert f"{len(table.skips)} values go past other layers, and are not drawn." in split_diagram(table, "neurons")


def test_costs_follow_a_net_that_has_been_changed():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    before = cost(net, (4, 4), 20, 2, TensorParallel())
    net[3] = nn.Linear(8, 12)
    after = cost(net, (4, 4), 20, 2, TensorParallel())
    assert after.layers[0][-1].output_shape == (12,)
    assert before.total(0, "parameters") < after.total(0, "parameters")
    net[1].weight.requires_grad_(False)
    assert cost(net, (4, 4), 20, 2, TensorParallel()).total(0, "gradients") < after.total(0, "gradients")
