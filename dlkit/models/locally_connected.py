"""Local receptive fields without weight sharing: the layer, and a small network made of it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from dlkit.core.random import drawn
from dlkit.models.convnet import InputPad, NamedSequential


class LocallyConnected2d(nn.Module):
    """Like a convolution, but with separate kernels at each position (y, x) of the output.

    `weight` (high, wide, out_maps, in_maps * size * size) holds one matrix for each position, its columns ordered as in
    an nn.Conv2d kernel, so the units that share a receptive field are one matrix product. `bias` is (high, wide,
    out_maps). Both start uniform in ±1/√fan-in, as nn.Conv2d's do. `input` is the (height, width) of the input maps;
    rows and columns that are left over below and to the right are ignored.
    With only rows a to b of `weight` and `bias`, the layer computes rows a to b of the output, from the
    (b - a - 1) * stride + size input rows that start at a * stride.
    ValueError for kernels larger than the input, or an input whose size does not fit the weights.
    Sources: Le, Ranzato, Monga, Devin, Chen, Corrado, Dean, Ng 2012, Building high-level features using large scale
    unsupervised learning; Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems.
    """

    def __init__(
        self,
        in_maps: int,
        out_maps: int,
        size: int,
        input: tuple[int, int],
        stride: int = 1,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if min(in_maps, out_maps) < 1:
            raise ValueError(f"{in_maps} maps to {out_maps}: at least 1 to 1 is needed.")
        if min(size, stride) < 1:
            raise ValueError(f"kernels of {size}x{size} at steps of {stride}: at least 1x1 and 1 are needed.")
        if not isinstance(input, Sequence) or len(input) != 2:
            raise ValueError(f"input={input}: give the size of the maps that come in, (height, width).")
        if min(input) < size:
            raise ValueError(
                f"kernels of {size}x{size} for maps of {input[0]}x{input[1]}: none fits, make them smaller."
            )
        self.in_maps, self.out_maps, self.size, self.stride = in_maps, out_maps, size, stride
        self.input = (input[0], input[1])
        fan_in = in_maps * size**2
        shape = (*(num_windows(length, size, stride) for length in input), out_maps)
        uniform = [2 * drawn(torch.rand, *dims, generator=generator) - 1 for dims in ((*shape, fan_in), shape)]
        self.weight = nn.Parameter(uniform[0] * fan_in**-0.5)
        self.bias = nn.Parameter(uniform[1] * fan_in**-0.5) if bias else None

    def extra_repr(self) -> str:
        high, wide = self.weight.shape[:2]
        return f"{self.in_maps}, {self.out_maps}, size={self.size}, stride={self.stride}, positions={high}x{wide}"

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out high wide"]:
        high, wide = self.weight.shape[:2]
        positions = tuple(num_windows(length, self.size, self.stride) for length in x.shape[2:])
        if x.ndim != 4 or x.shape[1] != self.in_maps or positions != (high, wide):
            height, width = ((length - 1) * self.stride + self.size for length in (high, wide))
            raise ValueError(
                f"an input of shape {tuple(x.shape)} for {self.in_maps} maps with weights at {high}x{wide} positions: "
                f"(batch, {self.in_maps}, {height}, {width})."
            )
        return locally_connected(x, self.weight, self.bias, self.size, self.stride)

    def transposed(self, code: Float[Tensor, "batch out high wide"]) -> Float[Tensor, "batch in height width"]:
        """Wᵀ code, where W is the matrix of all weights, from input to output: what each unit gives is added up."""
        return locally_connected_transposed(code, self.weight, self.size, self.stride, self.input)


def locally_connected(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "high wide out fan_in"],
    bias: Float[Tensor, "high wide out"] | None,
    size: int,
    stride: int = 1,
) -> Float[Tensor, "batch out high wide"]:
    """What `LocallyConnected2d` computes, as a function, which a tensor split over ranks may take over."""
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if has_torch_function(tensors):
        return handle_torch_function(locally_connected, tensors, x, weight, bias, size, stride)
    high, wide, out_maps, fan_in = weight.shape
    # The batch is the last dimension, so that windows are copied in runs of its length, not of the kernel's width.
    rows = x.permute(2, 3, 1, 0).contiguous().unfold(0, size, stride)
    windows = rows.unfold(1, size, stride).permute(0, 1, 2, 4, 5, 3)
    patches = windows.reshape(high * wide, fan_in, len(x))
    weight = weight.flatten(0, 1)
    output = weight @ patches if bias is None else torch.baddbmm(bias.flatten(0, 1)[:, :, None], weight, patches)
    return output.view(high, wide, out_maps, len(x)).permute(3, 2, 0, 1)


def locally_connected_transposed(
    code: Float[Tensor, "batch out high wide"],
    weight: Float[Tensor, "high wide out fan_in"],
    size: int,
    stride: int,
    input: tuple[int, int],
) -> Float[Tensor, "batch in height width"]:
    """The transpose of `locally_connected` without a bias: each unit adds its value times its weights to its window.

    input: the size (height, width) of what it gives.
    """
    if has_torch_function((code, weight)):
        return handle_torch_function(locally_connected_transposed, (code, weight), code, weight, size, stride, input)
    high, wide, out_maps, _ = weight.shape
    values = code.permute(2, 3, 1, 0).reshape(high * wide, out_maps, len(code))
    patches = weight.flatten(0, 1).transpose(1, 2) @ values  # (places, fan_in, batch)
    seen = (high - 1) * stride + size, (wide - 1) * stride + size
    image = F.fold(patches.permute(2, 1, 0), seen, size, stride=stride)
    below, right = input[0] - seen[0], input[1] - seen[1]
    return F.pad(image, (0, right, 0, below)) if below or right else image


class L2Pool(nn.Module):
    """L2 pooling: √(ε + the sum of squares) of each window of size x size, for each map; windows lie within the map.

    The small ε keeps the gradient finite where all values are 0. Source: Le et al. 2012 (as for LocallyConnected2d),
    pooling layer; their ε is in the cost.
    """

    def __init__(self, size: int = 3, stride: int = 2, epsilon: float = 1e-4):
        super().__init__()
        if min(size, stride) < 1:
            raise ValueError(f"windows of {size}x{size} at steps of {stride}: at least 1x1 and 1 are needed.")
        self.size, self.stride, self.epsilon = size, stride, epsilon

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}"

    def forward(self, x: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps high wide"]:
        if x.ndim != 4 or min(x.shape[2:]) < self.size:
            raise ValueError(
                f"an input of shape {tuple(x.shape)} for windows of {self.size}x{self.size}: (batch, maps, height, "
                f"width), both at least {self.size}."
            )
        return (F.avg_pool2d(x.square(), self.size, self.stride) * self.size**2 + self.epsilon).sqrt()


class ContrastNorm(nn.Module):
    """Local contrast normalisation over the maps, at each pixel: (x - mean) / max(standard deviation, floor).

    Subtractive and divisive.
    Source: Jarrett, Kavukcuoglu, Ranzato, LeCun 2009, What is the best multi-stage architecture for object recognition?
    """

    def __init__(self, floor: float = 0.01):
        super().__init__()
        self.floor = floor

    def extra_repr(self) -> str:
        return f"floor={self.floor}"

    def forward(self, x: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps height width"]:
        centred = x - x.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        return centred * variance.clamp(min=self.floor**2).rsqrt()  # the gradient of √0 would be NaN


class LocalContrastNorm(nn.Module):
    """Local contrast normalisation in Gaussian windows of size x size places, over all maps: v / max(deviation, floor),
    where v is x less its windows' means, and deviation² the windows' means of v².

    Weights of a window sum to 1 over all maps; at the edge those within the image do. sigma: the Gaussian's deviation
    in pixels, by default a quarter of the size. floor: None takes the mean of an image's deviations.
    Sources: Jarrett, Kavukcuoglu, Ranzato, LeCun 2009 (as for ContrastNorm), N-layer; Le et al. 2012 (as for
    LocallyConnected2d), whose floor is 0.01.
    """

    window: Tensor

    def __init__(self, size: int = 5, sigma: float | None = None, floor: float | None = 0.01):
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"windows of {size}x{size}: an odd size, so that each has a middle.")
        self.size, self.sigma, self.floor = size, sigma or size / 4, floor
        places = torch.arange(size) - size // 2
        window = torch.exp(-(places.double() ** 2) / (2 * self.sigma**2))
        self.register_buffer("window", (window / window.sum()).to(torch.get_default_dtype()), persistent=False)

    def extra_repr(self) -> str:
        return f"size={self.size}, sigma={self.sigma}, floor={self.floor}"

    def forward(self, x: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps height width"]:
        kernel = torch.outer(self.window, self.window)[None, None]
        inside = torch.outer(*(_inside(length, self.window) for length in x.shape[2:]))

        def mean(values: Tensor) -> Tensor:
            return F.conv2d(values.mean(1, keepdim=True), kernel, padding=self.size // 2) / inside

        centred = x - mean(x)
        variance = mean(centred.square())
        if self.floor is not None:
            return centred * variance.clamp(min=self.floor**2).rsqrt()  # the gradient of √0 would be NaN
        deviation = (variance + 1e-12).sqrt()
        return centred / torch.maximum(deviation, deviation.mean((2, 3), keepdim=True))


def _inside(length: int, window: Tensor) -> Tensor:
    """How much of the weight of each place's window lies within the image."""
    return F.conv1d(window.new_ones(1, 1, length), window[None, None], padding=len(window) // 2)[0, 0]


class LocalNet(NamedSequential):
    """Locally connected network like DistBelief's; gives logits (batch, classes).

    Each stage has linear filters of size x size that share no weights, L2 pooling in overlapping windows of 3x3 at
    stride 2, and contrast normalisation; a fully connected layer ends it. Stage 1 is `filter1`, `pool1`, `norm1`, each
    with output (batch, maps[0], height, width), and so on. `shape` is the shape of an image, (height, width) or (maps,
    height, width). ValueError if images are too small.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (28, 28),
        classes: int = 10,
        *,
        maps: tuple[int, ...] = (4, 8),
        size: int = 4,
    ):
        if not isinstance(shape, Sequence) or len(shape) not in (2, 3):
            raise ValueError(f"shape={shape}: give that of an image, (height, width) or (maps, height, width).")
        below, height, width = shape if len(shape) == 3 else (1, *shape)
        least = 1
        for _ in maps:
            least = 2 * (least - 1) + 3 + size - 1
        if min(height, width) < least:
            raise ValueError(
                f"images of {height}x{width} are too small for {len(maps)} stages of {size}x{size} filters and "
                f"pooling: at least {least}x{least}."
            )
        super().__init__()
        self.pad = InputPad((below, height, width))
        for stage, count in enumerate(maps, 1):
            self.add_module(f"filter{stage}", LocallyConnected2d(below, count, size, (height, width)))
            self.add_module(f"pool{stage}", L2Pool(3, 2))
            self.add_module(f"norm{stage}", ContrastNorm())
            below, (height, width) = count, (num_windows(length - size + 1, 3, 2) for length in (height, width))
        self.flatten = nn.Flatten()
        self.output = nn.Linear(below * height * width, classes)


def num_windows(length: int, size: int, stride: int) -> int:
    """Number of windows of `size` pixels, at stride `stride`, within `length` pixels."""
    return max((length - size) // stride + 1, 0)
