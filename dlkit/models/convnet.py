"""Two convolutional networks: the survey's figure, and LeNet-5 as it was published."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.models.convolution import SparseConv2d, Subsample
from dlkit.models.lenet_codes import drawings

# Counted from 0; the survey's text counts maps from 1: 1, 3, 4 and 6 see one S1-map, 2 and 5 see two.
SURVEY_TABLE = ((0,), (0, 1), (1,), (2,), (2, 3), (3,))
LENET_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2x/3): 1 at 1 and -1 at -1, where its slope changes most.

    Source: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, appendix A.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return 1.7159 * (x * (2 / 3)).tanh_()  # in place: large maps cost more to store than to compute


ACTIVATIONS = {"scaled tanh": ScaledTanh, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}


class InputPad(nn.Module):
    """Images (batch, height, width) or (batch, maps, height, width) with `margin` empty pixels around.

    `scaled`: values in [0, 1] become -0.1 to 1.175, so that a digit's pixels have a mean near 0 and a variance near 1.
    ValueError for images of another size.
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
    """A Sequential that is made from other arguments than its modules: a part of it, `net[1:3]`, is a plain one."""

    def __getitem__(self, idx: int | slice) -> Any:
        return nn.Sequential(OrderedDict(self.named_children()))[idx]


class ConvNet(NamedSequential):
    """The survey's Fig. 2.3: 4 maps C1, halved to S1; 6 maps C2, halved to S2; a fully connected output.

    Of the C2-maps two see two S1-maps, and four see one. `c1`, `s1`, `c2`, `s2` give maps (batch, maps, height, width),
    the whole logits (batch, classes). `shape` is that of an image, (height, width) or (maps, height, width).
    `sub_sampling` is a kind of `Subsample`, in windows of `window` x `window` at steps of 2; `activation`, one of
    ACTIVATIONS, follows each convolution, and trainable sub-sampling. ValueError for images too small for it.
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
        squash = activation_of(activation)
        features = len(SURVEY_TABLE) * high * wide
        super().__init__()
        self.frame = InputPad((maps, height, width))
        self.c1 = nn.Sequential(nn.Conv2d(maps, 4, size), squash())
        self.s1 = sub_sampled(4, sub_sampling, window, squash)
        self.c2 = nn.Sequential(SparseConv2d(SURVEY_TABLE, size), squash())
        self.s2 = sub_sampled(6, sub_sampling, window, squash)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(features, classes)
        channels_last(self)


class LeNet5(NamedSequential):
    """LeNet-5 on images of 28x28: 60,000 trainable parameters, as published.

    `c1`, `s2`, `c3`, `s4`, `c5` give maps, `f6` 84 units, the whole logits (batch, 10). `output`: "rbf", less the
    squared distances of F6 to ten fixed drawings of 7x12 pixels, so that cross-entropy is the paper's equation 9; or
    "softmax", a linear layer. The other arguments are as for ConvNet.
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
        squash = activation_of(activation)
        super().__init__()
        self.frame = InputPad((1, 28, 28), margin=2, scaled=True)
        self.c1 = nn.Sequential(nn.Conv2d(1, 6, 5), squash())
        self.s2 = sub_sampled(6, sub_sampling, window, squash)
        self.c3 = nn.Sequential(SparseConv2d(LENET_TABLE, 5), squash())
        self.s4 = sub_sampled(16, sub_sampling, window, squash)
        self.c5 = nn.Sequential(nn.Conv2d(16, 120, 5), squash())
        self.flatten = nn.Flatten()
        self.f6 = nn.Sequential(nn.Linear(120, 84), squash())
        self.output = RBFOutput(drawings()) if output == "rbf" else nn.Linear(84, 10)
        channels_last(self)


class RBFOutput(nn.Module):
    """Less the squared Euclidean distance to each of some fixed codes (classes, units): the nearest is the largest."""

    def __init__(self, codes: Float[Tensor, "classes units"]):
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, x: Float[Tensor, "batch units"]) -> Float[Tensor, "batch classes"]:
        return -((x[:, None] - self.codes) ** 2).sum(2)


def channels_last(net: nn.Module) -> None:
    """Keep the net's kernels, and so its maps, in the order that convolutions on a CPU are fastest in."""
    net.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]


def activation_of(name: str) -> type[nn.Module]:
    """ValueError if there is none of that name."""
    if name not in ACTIVATIONS:
        raise ValueError(f'activation "{name}": it is one of {", ".join(ACTIVATIONS)}.')
    return ACTIVATIONS[name]


def sub_sampled(maps: int, kind: str, window: int, squash: type[nn.Module]) -> nn.Sequential:
    """Maps halved; squashed again if the halving has weights."""
    return nn.Sequential(Subsample(maps, window, kind, stride=2), *([squash()] if kind == "trainable" else []))
