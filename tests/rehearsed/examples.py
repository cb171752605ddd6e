"""Small models and images for the cases: made anew by each call, the same each time."""

import torch
from torch import nn

from dlkit.models import (
    DBN,
    RBM,
    Autoassociator,
    CodeRBM,
    ConvNet,
    GaussianRBM,
    LabelledRBM,
    RICAStage,
    SparseCoding,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int = 20, pixels: int = 12) -> torch.Tensor:
    """Images (count, pixels) of 0 and 1."""
    return (torch.rand(count, pixels, generator=seeded()) < 0.5).float()


def images(count: int = 6, side: int = 16) -> torch.Tensor:
    """Images (count, side, side) of grey pixels."""
    return torch.rand(count, side, side, generator=seeded())


def labels(count: int = 6, classes: int = 3) -> torch.Tensor:
    return torch.arange(count) % classes


def rbm() -> RBM:
    return RBM(12, 6, std=0.5, generator=seeded())


def gaussian() -> GaussianRBM:
    return GaussianRBM(12, 6, std=0.5, generator=seeded())


def labelled() -> LabelledRBM:
    return LabelledRBM(12, 6, labels=3, std=0.5, generator=seeded())


def code() -> CodeRBM:
    return CodeRBM(12, 6, std=0.5, generator=seeded())


def dbn(untied: bool = False, labels: int | None = 3) -> DBN:
    """Of 12 pixels."""
    return DBN.of([12, 8, 6], labels=labels, untied=untied, std=0.5, generator=seeded())


def coding() -> SparseCoding:
    return SparseCoding(12, 18, penalty=0.2, steps=5, generator=seeded())


def rica() -> RICAStage:
    """For images of 12x12."""
    return RICAStage(1, 3, 4, (12, 12), generator=seeded())


def net() -> ConvNet:
    """From images (batch, 16, 16) to 3 classes."""
    torch.manual_seed(0)
    return ConvNet((16, 16), 3)


def dense() -> nn.Sequential:
    """From images (batch, 16, 16) to 3 classes, drawing in training."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3))


def autoassociator() -> Autoassociator:
    return Autoassociator(12, 6, generator=seeded())


def autoencoder(code: int = 2) -> nn.Sequential:
    """Sequential(encoder, decoder) of 12 pixels."""
    torch.manual_seed(0)
    return DBN.of([12, 8, code], std=0.5, generator=seeded()).autoencoder()
