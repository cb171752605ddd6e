"""A small net around each kind of layer that dlkit knows: of a new kind, one line here is what the tests need."""

from collections.abc import Callable

import torch
from torch import nn

from dlkit.models import (
    ContrastNorm,
    L2Pool,
    LocalContrastNorm,
    LocallyConnected2d,
    RBFOutput,
    SparseConv2d,
    Subsample,
)
from dlkit.models.layer_kinds import KINDS

IMAGE = (1, 12, 12)  # maps, rows, columns
CLASSES = 5


def behind_convolution(layer: nn.Module) -> nn.Sequential:
    """A convolution of 4 maps of 12x12, the layer, and two fully connected layers."""
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    units = nn.Sequential(convolution, layer, nn.Flatten())(torch.zeros(2, *IMAGE)).shape[1]
    return nn.Sequential(
        convolution, layer, nn.Flatten(), nn.Linear(units, 20), nn.Tanh(), nn.Linear(20, CLASSES)
    )  # fmt: skip


def rbf_net() -> nn.Sequential:
    codes = torch.linspace(-1, 1, CLASSES * 8).sin().view(CLASSES, 8)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), RBFOutput(codes))


EXAMPLES: dict[type[nn.Module], Callable[[], nn.Sequential]] = {
    **{kind: lambda kind=kind: behind_convolution(kind()) for kind in KINDS if KINDS[kind].elementwise},
    nn.Threshold: lambda: behind_convolution(nn.Threshold(0.1, 0)),
    nn.Linear: lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 12), nn.ReLU(), nn.Linear(12, CLASSES)),
    nn.Conv2d: lambda: behind_convolution(nn.Conv2d(4, 6, 3, stride=2, padding=1)),
    SparseConv2d: lambda: behind_convolution(SparseConv2d(((0, 1), (1, 2, 3), (0,), (2, 3)), 3)),
    LocallyConnected2d: lambda: behind_convolution(LocallyConnected2d(4, 3, 3, (12, 12))),
    RBFOutput: rbf_net,
    Subsample: lambda: behind_convolution(Subsample(4)),
    nn.MaxPool2d: lambda: behind_convolution(nn.MaxPool2d(3, stride=2)),
    nn.AvgPool2d: lambda: behind_convolution(nn.AvgPool2d(2)),
    L2Pool: lambda: behind_convolution(L2Pool(3, 2)),
    ContrastNorm: lambda: behind_convolution(ContrastNorm()),
    LocalContrastNorm: lambda: behind_convolution(LocalContrastNorm()),
    nn.Flatten: lambda: behind_convolution(nn.Identity()),
    nn.AdaptiveMaxPool2d: lambda: behind_convolution(nn.AdaptiveMaxPool2d(3)),
    nn.AdaptiveAvgPool2d: lambda: behind_convolution(nn.AdaptiveAvgPool2d(3)),
    nn.ZeroPad2d: lambda: behind_convolution(nn.ZeroPad2d(1)),
    nn.Dropout2d: lambda: behind_convolution(nn.Dropout2d()),
    nn.FeatureAlphaDropout: lambda: behind_convolution(nn.FeatureAlphaDropout()),
}
WITHOUT_MAPS = (nn.Linear, RBFOutput)  # the examples that have no convolution
