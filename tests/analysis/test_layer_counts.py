"""Layer counts beside torch's own counter, on layers that the kit's table does not know."""

import pytest
import torch
from oracles import seeded
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.analysis import counts

IMAGES = torch.rand(2, 12, 12, generator=seeded())


class Wrapped(nn.Module):
    """A layer, what makes one tensor of its output, and a Linear."""

    def __init__(self, layer, forward, units):
        super().__init__()
        self.layer, self.through, self.out = layer, forward, nn.Linear(units, 4)

    def forward(self, x):
        return self.out(self.through(self.layer, x).flatten(1))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(12, 5, generator=seeded()))
        self.lent = nn.Linear(5, 7)  # never called

    def forward(self, x):
        return nn.functional.linear((x @ x.transpose(1, 2)) @ self.w, self.lent.weight, self.lent.bias)


def tied():
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 144), nn.Tanh(), nn.Linear(144, 144))
    net[3].weight = net[1].weight
    return net


MAPS = nn.Unflatten(1, (1, 12))
NETS = {
    "LSTM": lambda: Wrapped(nn.LSTM(12, 8, batch_first=True), lambda layer, x: layer(x)[0], 96),
    "MultiheadAttention": lambda: Wrapped(
        nn.MultiheadAttention(12, 2, batch_first=True), lambda layer, x: layer(x, x, x)[0], 144
    ),
    "TransformerEncoderLayer": lambda: nn.Sequential(nn.TransformerEncoderLayer(12, 2, 20, batch_first=True)),
    "ConvTranspose2d": lambda: nn.Sequential(MAPS, nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 8, 3)),
    "Conv1d": lambda: nn.Sequential(nn.Conv1d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(160, 4)),
    "norms": lambda: nn.Sequential(MAPS, nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.GroupNorm(2, 4)),
    "Bilinear": lambda: Wrapped(nn.Bilinear(12, 12, 3), lambda layer, x: layer(x, x), 36),
    "Embedding": lambda: Wrapped(nn.Embedding(9, 3), lambda layer, x: layer((8 * x).long()), 432),
    "spectral norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(144, 4)), nn.Linear(4, 3)
    ),
    "functional": Functional,
    "tied": tied,
    "Linear alone": lambda: nn.Linear(12, 5),
}


@pytest.mark.parametrize("name", NETS)
def test_parameters_add_up_to_the_nets_and_multiplications_to_torchs(name):
    net = NETS[name]().eval()
    rows = counts(net, IMAGES)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter:
        net(IMAGES[:1])
    biases = sum(torch.Size(row.output).numel() for row in rows if row.connections is not None)  # all of these have one
    in_layers = sum(row.connections or 0 for row in rows) - biases
    assert in_layers + rows.elsewhere == counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "remark"),
    [
        ("LSTM", "Not counted: the connections of layer (LSTM)."),
        (
            "MultiheadAttention",
            "Not counted: the connections of layer (MultiheadAttention), layer.out_proj "
            "(NonDynamicallyQuantizableLinear); 10,368 multiplications outside of the layers counted.",
        ),
        (
            "functional",
            "Not counted: the connections of Functional, lent (Linear); 2,868 multiplications outside of the layers "
            "counted.",
        ),
        ("norms", "Not counted: the connections of 2 (BatchNorm2d), 3 (PReLU), 4 (GroupNorm)."),
        ("tied", ""),
    ],
)
def test_the_table_says_what_it_does_not_count(name, remark):
    rows = counts(NETS[name](), IMAGES)
    assert rows.remark == remark
    assert remark.removesuffix(".") in repr(rows)
    assert remark in rows._repr_html_()
    assert ("not counted" in rows._repr_html_()) == bool(remark)
