"""Two convolutional networks: that of the survey's Fig. 2.3, and LeNet-5 as published."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.lenet_codes import digit_codes

# Counted from 0; the survey's text counts maps from 1: 1, 3, 4 and 6 see one S1-map, 2 and 5 see two.
SURVEY_TABLE = ((0,), (0, 1), (1,), (2,), (2, 3), (3,))
LENET_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3), which maps 1 to 1 and -1 to -1.

    Source: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, appendix A.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1.7159 * (x * (2 / 3)).tanh_()  # in place: writing large maps to memory takes longer than computing them


ACTIVATIONS = {"scaled tanh": ScaledTanh, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}


class InputPad(nn.Module):
    """Adds `margin` zero pixels on each side of images (batch, height, width) or (batch, maps, height, width).

    `scaled`: values in [0, 1] are mapped to [-0.1, 1.175], so that the pixels of digits have mean about 0 and variance
    about 1. `shape` is (maps, height, width) of an image. ValueError for images of another shape.
    """

    def __init__(self, shape: tuple[int, int, int], margin: int = 0, *, scaled: bool = False):
        super().__init__()
        self.shape, self.margin, self.scaled = shape, margin, scaled

    def extra_repr(self) -> str:
        return f"{'x'.join(map(str, self.shape))}, margin={self.margin}, scaled={self.scaled}"

    def forward(self, images: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch maps height width"]:
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}: give numbers from 0 to 1, such as images.float() / 255.")
        maps, *size = self.shape
        x = images[:, None] if images.ndim == 3 and maps == 1 else images
        if tuple(x.shape[1:]) != self.shape:
            mend = f"give (batch, {maps}, {size[0]}, {size[1]})" + (f" or (batch, {size[0]}, {size[1]})" * (maps == 1))
            raise ValueError(
                f"images of shape {tuple(images.shape)} for a net that takes {'x'.join(map(str, self.shape))}: {mend}."
            )
        x = F.pad(x, [self.margin] * 4) if self.margin else x
        return 1.275 * x - 0.1 if self.scaled else x


class NamedSequential(nn.Sequential):
    """Base of networks whose layers have names. A slice, `net[1:3]`, is a plain nn.Sequential.

    (nn.Sequential would build the slice by calling the class with modules, which subclasses do not take.)
    """

    def __getitem__(self, idx: int | slice) -> Any:
        return nn.Sequential(OrderedDict(self.named_children()))[idx]


class ConvNet(NamedSequential):
    """The network of the survey's Fig. 2.3; gives logits (batch, classes).

    4 maps C1, sub-sampled by 2 to S1; 6 maps C2, sub-sampled by 2 to S2; a fully connected output. Two of the C2 maps
    see two S1 maps each, the other four see one. `c1`, `s1`, `c2`, `s2` give maps (batch, maps, height, width).
    `shape` is the shape of an image, (height, width) or (maps, height, width). `sub_sampling` is the kind of
    `Subsample`, with windows of `window` x `window` at stride 2. `activation`, one of ACTIVATIONS, follows each
    convolution and each trainable sub-sampling. `size` is the side of the kernels. ValueError if images are too small.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (28, 28),
        classes: int = 10,
        *,
        sub_sampling: str = "average",
        window: int = 2,
        activation: str = "tanh",
        size: int = 5,
    ):
        if not isinstance(shape, Sequence) or len(shape) not in (2, 3):
            raise ValueError(f"shape={shape}: give that of an image, (height, width) or (maps, height, width).")
        maps, height, width = shape if len(shape) == 3 else (1, *shape)
        high, wide = (((length - size + 1) // 2 - size + 1) // 2 for length in (height, width))
        if min(high, wide) < 1:
            least = 3 * size + 1  # 2 (2 + size - 1) + size - 1
            raise ValueError(
                f"images of {height}x{width} are too small for two convolutions of {size}x{size} and "
                f"two halvings: at least {least}x{least}."
            )
        make_activation = activation_of(activation)
        features = len(SURVEY_TABLE) * high * wide
        super().__init__()
        self.pad = InputPad((maps, height, width))
        self.c1 = nn.Sequential(nn.Conv2d(maps, 4, size), make_activation())
        self.s1 = subsample_by_2(4, sub_sampling, window, make_activation)
        self.c2 = nn.Sequential(SparseConv2d(SURVEY_TABLE, size), make_activation())
        self.s2 = subsample_by_2(6, sub_sampling, window, make_activation)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(features, classes)
        channels_last(self)


class LeNet5(NamedSequential):
    """LeNet-5 on images of 28x28: 60,000 trainable parameters, as published; gives logits (batch, 10).

    `c1`, `s2`, `c3`, `s4`, `c5` give maps (batch, maps, height, width), `f6` gives (batch, 84). `output`: "rbf", minus
    the squared distance of F6 to each of ten fixed codes, digits drawn on 7x12 pixels, so that cross-entropy is the
    paper's equation 9; or "softmax", a linear layer. The other arguments are as for ConvNet.
    Source: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, §II.B.
    """

    def __init__(
        self,
        *,
        sub_sampling: str = "trainable",
        window: int = 2,
        activation: str = "scaled tanh",
        output: str = "rbf",
    ):
        if output not in ("rbf", "softmax"):
            raise ValueError(f'output="{output}": "rbf", as published, or "softmax".')
        make_activation = activation_of(activation)
        super().__init__()
        self.pad = InputPad((1, 28, 28), margin=2, scaled=True)
        self.c1 = nn.Sequential(nn.Conv2d(1, 6, 5), make_activation())
        self.s2 = subsample_by_2(6, sub_sampling, window, make_activation)
        self.c3 = nn.Sequential(SparseConv2d(LENET_TABLE, 5), make_activation())
        self.s4 = subsample_by_2(16, sub_sampling, window, make_activation)
        self.c5 = nn.Sequential(nn.Conv2d(16, 120, 5), make_activation())
        self.flatten = nn.Flatten()
        self.f6 = nn.Sequential(nn.Linear(120, 84), make_activation())
        self.output = RBFOutput(digit_codes()) if output == "rbf" else nn.Linear(84, 10)
        channels_last(self)


class RBFOutput(nn.Module):
    """Logits from radial basis functions: minus the squared Euclidean distance to each fixed code (classes, units)."""

    def __init__(self, codes: Float[Tensor, "classes units"]):
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, x: Float[Tensor, "batch units"]) -> Float[Tensor, "batch classes"]:
        return -((x[:, None] - self.codes) ** 2).sum(2)


def channels_last(net: nn.Module) -> None:
    """Store the net's kernels in torch's channels-last layout, in which convolutions on a CPU are fastest."""
    net.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]


def activation_of(name: str) -> type[nn.Module]:
    """The activation class of this name. ValueError if there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f'activation "{name}": it is one of {", ".join(ACTIVATIONS)}.')
    return ACTIVATIONS[name]


def subsample_by_2(maps: int, kind: str, window: int, make_activation: type[nn.Module]) -> nn.Sequential:
    """Sub-sampling at stride 2; a trainable one is followed by an activation."""
    return nn.Sequential(Subsample(maps, window, kind, stride=2), *([make_activation()] if kind == "trainable" else []))
