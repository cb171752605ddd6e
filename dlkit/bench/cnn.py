"""LeNet-5's training against a bare torch loop, and its sparse convolution against dense ones."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit import data
from dlkit.bench.dbn import BARE, bare_loop
from dlkit.bench.timing import interleaved, speed_row
from dlkit.core.reports import BenchRow
from dlkit.models import LeNet5
from dlkit.models.convnet import LENET_TABLE, SURVEY_TABLE, channels_last
from dlkit.models.convolution import SparseConv2d
from dlkit.training import CrossEntropy, Experiment

IMAGES, BATCHES, LR = 20_000, (20, 100, 1000), 0.001
TITLE = "LeNet-5: an epoch against a bare loop and a dense C3; sparse convolutions against masked dense ones"
BLOCKS = tuple(tuple(range(8 * (o // 8), 8 * (o // 8) + 8)) for o in range(64))


def measure() -> list[BenchRow]:
    """Rows in images a second: of training LeNet-5, then forward and backward through one sparse convolution."""
    digits = data.load("mnist").full_train[:IMAGES]
    rows = [row for batch in BATCHES for row in training(digits, batch)]
    return rows + [sparse(name, table, side) for name, table, side in LAYERS]


LAYERS = (
    ("LeNet-5's C3, 60 of 96 connections", LENET_TABLE, 14),
    ("the survey's C2, 8 of 24", SURVEY_TABLE, 12),
    ("64 maps in 8 groups, 512 of 4,096", BLOCKS, 14),
)


def training(digits: data.Split, batch: int) -> list[BenchRow]:
    """An epoch of LeNet-5 by `Experiment.run`, beside a bare loop, one with a dense C3, and the same channels first."""
    channels_first = dense_lenet().to(memory_format=torch.contiguous_format)  # pyrefly: ignore[no-matching-overload]
    experiment = Experiment(LeNet5, digits, CrossEntropy(), batch_size=batch, epochs=1, lr=LR, momentum=0.9)
    tasks: dict[str, Callable[[], object]] = {
        "run": partial(experiment.run, progress=False, device="cpu"),
        "bare": partial(bare_loop, LeNet5(), digits, batch, LR),
        "dense": partial(bare_loop, dense_lenet(), digits, batch, LR),
        "channels first": partial(bare_loop, channels_first, digits, batch, LR),
    }
    seconds = interleaved(tasks)
    references = {
        "bare": ("a bare torch loop over the same net", BARE),
        "dense": ("a bare loop, C3 a dense Conv2d", ""),
        "channels first": ("the same, channels first", ""),
    }
    name = f"LeNet-5, an epoch, batch {batch}"
    return [
        speed_row(name, seconds, "run", reference, what, len(digits), goal)
        for reference, (what, goal) in references.items()
    ]


def dense_lenet() -> LeNet5:
    """LeNet-5 in which each C3 map sees all S2 maps, as in most re-implementations."""
    net = LeNet5()
    net.c3 = nn.Sequential(nn.Conv2d(6, 16, 5), net.c3[1])
    channels_last(net)
    return net


def sparse(name: str, table: tuple[tuple[int, ...], ...], side: int) -> BenchRow:
    """100 images forward and backward through `SparseConv2d`, beside a dense convolution with a masked kernel."""
    layer = SparseConv2d(table, 5)
    maps = torch.randn(100, layer.in_maps, side, side)
    x = maps.contiguous(memory_format=torch.channels_last).requires_grad_()  # as inside a net
    full = layer.dense_weight().detach().requires_grad_()
    mask = (full != 0).float()

    def forward_backward(convolve: Callable[[], Tensor]) -> None:
        for _ in range(20):
            convolve().square().mean().backward()

    tasks = {
        "sparse": partial(forward_backward, lambda: layer(x)),
        "masked": partial(forward_backward, lambda: F.conv2d(x, full * mask, layer.bias)),
    }
    seconds = interleaved(tasks)
    what = "a masked dense convolution"
    return speed_row(f"{name}, forward and back", seconds, "sparse", "masked", what, 2_000)
