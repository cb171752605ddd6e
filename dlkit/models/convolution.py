"""Convolution with a connection table, and four kinds of sub-sampling."""

from collections.abc import Iterable, Sequence
from operator import index

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dlkit.core.random import drawn

KINDS = ("trainable", "average", "max", "strided")


class SparseConv2d(nn.Module):
    """Convolution with a connection table: output map o sees the input maps `table[o]`, counted from 0.

    `weight` (connections, size, size) holds one kernel for each connection, in the order of the table; `bias` is
    (out_maps,). Both start uniform in ±1/√fan-in, as nn.Conv2d's do. `in_maps`: the number of input maps, by default
    the highest number in the table plus 1. If the table divides the maps into equal groups, a grouped convolution is
    computed. Otherwise, as for LeNet-5's table, it is a dense convolution with zero kernels where there is no
    connection, which takes less time than the connections one by one (`dlkit bench cnn` measures both).
    ValueError for an empty table, an empty row, a row that names a map twice, or a map that does not exist.
    Source: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition, table I.
    """

    def __init__(
        self,
        table: Iterable[Iterable[int]],
        size: int,
        *,
        in_maps: int | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        table = [list(row) for row in table]
        if any(isinstance(i, bool) for row in table for i in row):
            raise ValueError("a table of True and False: give the numbers of the maps that each one sees.")
        self.table = tuple(tuple(index(i) for i in row) for row in table)
        self.size = size
        seen = [i for row in self.table for i in row]
        self.in_maps = in_maps if in_maps is not None else max(seen, default=0) + 1
        check_table(self.table, self.in_maps)
        if size < 1:
            raise ValueError(f"kernels of {size}x{size}: at least 1x1 is needed.")
        counts = torch.tensor([len(row) for row in self.table])
        bound = (counts * size**2) ** -0.5
        shapes = (int(counts.sum()), size, size), counts.shape
        uniform = [2 * drawn(torch.rand, *shape, generator=generator) - 1 for shape in shapes]
        self.weight = nn.Parameter(uniform[0] * bound.repeat_interleave(counts)[:, None, None])
        self.bias = nn.Parameter(uniform[1] * bound)
        self.groups = equal_groups(self.table, self.in_maps)
        positions = [o * self.in_maps + i for o, row in enumerate(self.table) for i in row]
        self.register_buffer("_positions", torch.tensor(positions), persistent=False)

    @property
    def out_maps(self) -> int:
        return len(self.table)

    def extra_repr(self) -> str:
        return f"{self.in_maps}, {self.out_maps}, size={self.size}, connections={len(self.weight)}"

    def dense_weight(self) -> Float[Tensor, "out in size size"]:
        """The kernels in the shape of nn.Conv2d's, 0 where there is no connection."""
        shape = (self.out_maps * self.in_maps, self.size, self.size)
        full = self.weight.new_zeros(shape).index_copy(0, self._positions, self.weight)
        kernels = full.view(self.out_maps, self.in_maps, self.size, self.size)
        return kernels.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "batch in height width"]) -> Float[Tensor, "batch out high wide"]:
        if x.ndim != 4 or x.shape[1] != self.in_maps:
            raise ValueError(
                f"an input of shape {tuple(x.shape)} for {self.in_maps} maps: (batch, {self.in_maps}, height, width)."
            )
        if self.groups is None:
            return F.conv2d(x, self.dense_weight(), self.bias)
        kernels = self.weight.view(self.out_maps, -1, self.size, self.size)
        return F.conv2d(x, kernels, self.bias, groups=self.groups)


def check_table(table: Sequence[Sequence[int]], in_maps: int) -> None:
    """Raise ValueError unless each output map sees at least one input map, none twice, and all of them exist."""
    if not table:
        raise ValueError("an empty connection table: give a row of input maps for each output map.")
    for number, row in enumerate(table):
        if not row:
            raise ValueError(f"output map {number} sees nothing: give its row one input map at least.")
        if len(set(row)) < len(row):
            raise ValueError(f"output map {number} sees a map twice, {list(row)}: name each once.")
        missing = [i for i in row if not 0 <= i < in_maps]
        if missing:
            raise ValueError(
                f"output map {number} sees map {missing[0]}, and there are {in_maps}, 0 to {in_maps - 1}: "
                "maps are counted from 0."
            )


def equal_groups(table: Sequence[Sequence[int]], in_maps: int) -> int | None:
    """The number of equal groups of neighbouring maps in the table (as nn.Conv2d's `groups`); None if it has none."""
    width = len(table[0])
    groups, rest = divmod(in_maps, width)
    if rest or len(table) % groups:
        return None
    outputs = len(table) // groups
    grouped = [tuple(range(o // outputs * width, (o // outputs + 1) * width)) for o in range(len(table))]
    return groups if [tuple(row) for row in table] == grouped else None


class Subsample(nn.Module):
    """Sub-sampling (pooling): maps become `stride` times smaller, each value computed from a window of size x size.

    kind: "trainable", as in LeNet-5: the sum of the window times a weight plus a bias, one of each per map; "average";
    "max"; or "strided", the first value of the window. `stride` is `size` by default; if it is smaller, windows
    overlap, and a window that reaches over the edge uses the pixels that exist. If a map's length is not a multiple of
    the stride, the last rows or columns are dropped.
    Sources: LeCun, Bottou, Bengio, Haffner 1998, §II.B; Scherer, Müller, Behnke 2010, Evaluation of pooling operations
    in convolutional architectures for object recognition, §3.
    """

    def __init__(self, maps: int, size: int = 2, kind: str = "trainable", stride: int | None = None):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f'sub-sampling "{kind}": it is one of {", ".join(KINDS)}.')
        self.maps, self.size, self.kind, self.stride = maps, size, kind, size if stride is None else stride
        if not 1 <= self.stride <= size:
            raise ValueError(
                f"windows of {size}x{size} at steps of {self.stride}: steps are at least 1 and no longer than windows, "
                "or pixels are lost."
            )
        if kind == "trainable":
            self.weight = nn.Parameter(torch.full((maps,), size**-2.0))  # at first the average
            self.bias = nn.Parameter(torch.zeros(maps))

    def extra_repr(self) -> str:
        return f"{self.maps}, size={self.size}, kind={self.kind}, stride={self.stride}"

    def forward(self, x: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps high wide"]:
        if x.ndim != 4 or x.shape[1] != self.maps:
            raise ValueError(
                f"an input of shape {tuple(x.shape)} for {self.maps} maps: (batch, {self.maps}, height, width)."
            )
        if self.kind == "strided":
            high, wide = (length // self.stride * self.stride for length in x.shape[2:])
            return x[:, :, : high : self.stride, : wide : self.stride]
        if self.kind == "max":
            return F.max_pool2d(self._overhang(x, -torch.inf), self.size, self.stride)
        mean = F.avg_pool2d(self._overhang(x, 0.0), self.size, self.stride)
        if self.kind == "average":
            covered = F.avg_pool2d(self._overhang(torch.ones_like(x[:1, :1]), 0.0), self.size, self.stride)
            return mean if self.size == self.stride else mean / covered
        return mean * (self.weight * self.size**2)[:, None, None] + self.bias[:, None, None]

    def _overhang(self, x: Tensor, value: float) -> Tensor:
        """The maps, padded below and to the right for windows that reach over the edge."""
        overhang = self.size - self.stride
        return F.pad(x, (0, overhang, 0, overhang), value=value) if overhang else x
