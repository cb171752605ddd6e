"""Draws of nets that are split by neurons: a rank has its part of what one process draws, whatever draws it."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ranks import team
from splitting import difference, run
from torch import nn

from dlkit import Experiment
from dlkit.strategies import Hybrid, OneWeirdTrick, TensorParallel
from dlkit.training import CrossEntropy

sys.path.insert(0, str(Path(__file__).parent))
from small_nets import Forward, conv

GENERATOR = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(22, 2, 6, 6, generator=GENERATOR), torch.randint(0, 4, (22,), generator=GENERATOR)


def by_functions(net, x):
    """Of units and maps, some of them split, some whole, some in other places than one process has them."""
    y = F.dropout2d(net.a(x), 0.2, net.training)
    y = torch.cat([y, F.dropout(net.b(x), 0.3, net.training)], 1)
    y = F.dropout(y, 0.2, net.training)  # of maps that do not lie in one piece
    y = F.dropout(net.c(y), 0.2, net.training) + torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype)
    units = net.d(F.dropout(y.flatten(1), 0.1, net.training))
    return net.e(units + 0.1 * torch.randn_like(units)) * F.dropout(torch.ones_like(units[:, :1]), 0.2, net.training)


def functions():
    return Forward(by_functions, a=conv(2, 5), b=conv(2, 4), c=conv(9, 3), d=nn.Linear(108, 8), e=nn.Linear(8, 4))


def attention(weights):
    def forward(net, x):
        x = net.first(x.flatten(2)).tanh()
        for layer in net.layers:
            x = net.drop(layer(x, x, x, need_weights=weights)[0]) + x
        return net.last(x.mean(1))

    return lambda: Forward(
        forward, first=nn.Linear(36, 12), last=nn.Linear(12, 4), drop=nn.Dropout(0.2),
        layers=nn.ModuleList(nn.MultiheadAttention(12, 4, 0.3, batch_first=first) for first in (True, True)),
    )  # fmt: skip


class SometimesOff(nn.Module):
    """A branch that is left out for some images, as stochastic depth does, and its layers in a module of their own."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(conv(6, 6), nn.GroupNorm(3, 6), nn.ReLU(), conv(6, 6))

    def forward(self, x):
        kept = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype).bernoulli_(0.7)
        return F.dropout(x + self.branch(x) * kept / 0.7, 0.1, self.training)


def depth():
    return nn.Sequential(
        conv(2, 6), SometimesOff(), nn.RReLU(), SometimesOff(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(216, 4)
    )


def encoder():
    layer = nn.TransformerEncoderLayer(12, 4, 16, dropout=0.2, batch_first=True)
    return Forward(
        lambda net, x: net.last(net.encoder(net.first(x.flatten(2))).mean(1)),
        first=nn.Linear(36, 12), last=nn.Linear(12, 4),
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    )  # fmt: skip


NETS = {
    "functions": functions,
    "attention, weights": attention(True),
    "attention": attention(False),
    "depth": depth,
    "encoder": encoder,
}


@pytest.mark.parametrize(
    ("strategy", "ranks"), [(TensorParallel(), 2), (TensorParallel(), 3), (Hybrid(2, 2), 4)], ids=str
)
def test_what_is_drawn_is_what_one_process_draws(strategy, ranks):
    def experiment(name):
        return Experiment(
            NETS[name], (IMAGES, LABELS), CrossEntropy(), batch_size=8, lr=0.1, momentum=0.0, dtype=torch.float64
        )

    def models(names):
        return {name: run(experiment(name), strategy, steps=4).model for name in names}

    split = team(ranks).call(models, list(NETS))[0]
    for name, model in split.items():
        alone = run(experiment(name), steps=4)
        assert difference(alone.model, model) < 1e-11, name


def test_convolutions_by_images_draw_what_one_process_draws():
    made = Experiment(
        functions, (IMAGES, LABELS), CrossEntropy(), batch_size=8, lr=0.1, momentum=0.0, dtype=torch.float64
    )
    split = team(2).call(run, made, OneWeirdTrick(), steps=4)[0]
    assert difference(run(made, steps=4).model, split.model) < 1e-11
