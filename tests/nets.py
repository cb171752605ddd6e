"""The nets that the splits are held to: torchvision's, and those of `written_nets`, as data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vision import torchvision_models
from written_nets import (
    VAE,
    Attention,
    BatchNormDropout,
    ConvAutoencoder,
    Encoder,
    EvidenceBound,
    LSTMClassifier,
    Mixer,
    NormedWeights,
    PatchTransformer,
    SeveralOutputs,
    SmallResNet,
    TwoInputs,
    UNet,
    UnusedLayer,
)

from dlkit import Experiment
from dlkit.training import CrossEntropy, Learner, Reconstruction

COUNT = 37  # images: the last batch of an epoch has five, which two ranks have unequal parts of
RGB, RGB64, GREY = (3, 32, 32), (3, 64, 64), (1, 28, 28)

# Traits: what a net has that a split must know of.
BATCH_NORM, SPECTRAL_NORM, DRAWS = "BatchNorm", "spectral norm", "draws random numbers"
MAPS = "maps"  # convolutions or pooling, whose rows can be shared out
NOTHING_TO_CUT, MIXES = "no layer can be cut by neurons", "its images mix"


@dataclass(frozen=True)
class Net:
    """`image`: the shape of an image. `torchvision`: is the net from there?"""

    make: Callable[[], nn.Module]
    image: tuple[int, ...]
    traits: frozenset[str] = frozenset()
    learner: Learner = field(default_factory=CrossEntropy)
    lr: float = 0.01
    batch_size: int = 8
    torchvision: bool = False


def make_torchvision(name: str, *args: Any, **settings: Any) -> nn.Module:
    """A net of torchvision's for 10 classes."""
    return getattr(torchvision_models(), name)(*args, num_classes=10, **settings)


def make_vit() -> nn.Module:
    """torchvision starts the head at zero: nothing behind it would then have a gradient in the first step."""
    net = make_torchvision(
        "VisionTransformer", image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64
    )
    nn.init.normal_(net.heads.head.weight, std=0.05)
    return net


def theirs(make: Any, *traits: str, image: tuple[int, ...] = RGB, **settings: Any) -> Net:
    """A net of torchvision's, by its name or by a function."""
    made = partial(make_torchvision, make) if isinstance(make, str) else make
    return Net(made, image, frozenset(traits), torchvision=True, **settings)


def own(make: Callable[[], nn.Module], *traits: str, **settings: Any) -> Net:
    return Net(make, GREY, frozenset(traits), **settings)


def shufflenet_with_group_norm() -> nn.Module:
    """With BatchNorm it is chaotic: even in float64 the order of a batch's images decides what it has learned."""
    return with_group_norm(make_torchvision("shufflenet_v2_x0_5"))


NETS = {
    "resnet18": theirs("resnet18", BATCH_NORM, MAPS, lr=1e-3),
    "mobilenet_v3_small": theirs("mobilenet_v3_small", BATCH_NORM, MAPS, DRAWS, image=RGB64, lr=1e-3),
    "densenet": theirs(partial(make_torchvision, "DenseNet", 8, (2, 2, 2), 16), BATCH_NORM, MAPS),
    "shufflenet, GroupNorm": theirs(shufflenet_with_group_norm, MAPS),
    "googlenet, training": theirs(
        partial(make_torchvision, "googlenet", aux_logits=True, init_weights=False),
        BATCH_NORM, MAPS, DRAWS, image=RGB64, learner=SeveralOutputs(), lr=1e-3,
    ),
    "efficientnet_b0": theirs("efficientnet_b0", BATCH_NORM, MAPS, DRAWS, image=RGB64, lr=1e-3),
    "convnext_tiny": theirs("convnext_tiny", MAPS, DRAWS),
    "vision transformer": theirs(make_vit, MAPS),
    "Swin transformer": theirs(
        partial(
            make_torchvision, "SwinTransformer", patch_size=[2, 2], embed_dim=24, depths=[1, 1], num_heads=[2, 4],
            window_size=[4, 4], stochastic_depth_prob=0.1,
        ),
        MAPS, DRAWS,
    ),
    "U-Net": own(UNet, BATCH_NORM, MAPS),
    "LSTM, two layers": own(partial(LSTMClassifier, 2, 0.1), NOTHING_TO_CUT, DRAWS),
    "LSTM": own(LSTMClassifier, NOTHING_TO_CUT),
    "LSTM along the batch": own(partial(LSTMClassifier, batch_first=False), NOTHING_TO_CUT, MIXES),
    "MLP-Mixer": own(Mixer, MAPS),
    "convolutional autoencoder": own(ConvAutoencoder, MAPS, learner=Reconstruction(cost="squared"), lr=1e-3),
    "VAE": own(VAE, DRAWS, learner=EvidenceBound(), lr=1e-4),
    "weight and spectral norm": own(NormedWeights, NOTHING_TO_CUT, SPECTRAL_NORM, MAPS),
    "MultiheadAttention": own(Attention),
    "TransformerEncoder": own(Encoder, DRAWS),
    "two inputs": own(TwoInputs, MAPS),
    "ResNet, GroupNorm": own(SmallResNet, MAPS),
    "CNN, BatchNorm and Dropout": own(BatchNormDropout, BATCH_NORM, MAPS, DRAWS),
    "transformer of patches": own(PatchTransformer),
    "MLP, a layer unused": own(UnusedLayer),
}  # fmt: skip


def with_group_norm(net: nn.Module) -> nn.Module:
    """The net with GroupNorm in the place of each BatchNorm: under it a part of a batch is a batch."""
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            groups = next(groups for groups in (8, 4, 2, 1) if module.num_features % groups == 0)
            net.set_submodule(name, nn.GroupNorm(groups, module.num_features))
    return net


def without_draws(net: nn.Module) -> nn.Module:
    """The net with draws that change nothing."""
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention | nn.LSTM):
            module.dropout = 0.0
        if isinstance(module, VAE):
            module.noise = 0.0
    return net


def make(name: str, *changes: Callable[[nn.Module], nn.Module]) -> nn.Module:
    net = NETS[name].make()
    for change in changes:
        net = change(net)
    return net


def data_for(name: str) -> tuple[Tensor, Tensor]:
    """Images with values in [0, 1], and their labels: noise, which a net cannot guess and so goes on learning."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(COUNT, *NETS[name].image, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 10, (COUNT,), generator=generator)


def experiment(name: str, *changes: Callable[[nn.Module], nn.Module], **settings: Any) -> Experiment:
    """In float64, where what is left of a difference is no rounding."""
    net = NETS[name]
    given = {"batch_size": net.batch_size, "lr": net.lr, "momentum": 0.9, "dtype": torch.float64} | settings
    return Experiment(partial(make, name, *changes), data_for(name), given.pop("learner", net.learner), **given)
