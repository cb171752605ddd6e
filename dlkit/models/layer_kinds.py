"""What splitting, counting and costs must know of a kind of layer: one table, `KINDS`.

A new kind of layer is one entry here, and one example of it in tests/models/layer_examples.py, about which the tests
ask every strategy and the counts. A class that is not in the table still works everywhere: what is split is gathered
for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from dlkit.models.convnet import RBFOutput, ScaledTanh
from dlkit.models.convolution import SparseConv2d, Subsample, equal_groups
from dlkit.models.locally_connected import L2Pool, LocallyConnected2d

Shape = tuple[int, ...]  # of what a layer gives for one image


def _nothing(*_: Any) -> Any:
    return None


@dataclass(frozen=True)
class LayerKind:
    """What is known of a kind of layer. By default nothing: each output may depend on all inputs.

    `elementwise`: an output value depends on the input value at the same index alone.
    `by_maps`: a map of the output depends on the same map of the input alone; `narrow` tells the layer which it has.
    `flattens(module)`: whether it makes a row of units of maps, those of a map next to each other.
    `weights`: "shared" if all windows have the same, "own" if each has its own, one row of them a row of windows.
    `outputs(module)`: the number of output maps or units that it can be split by; 0 if it cannot. `output_dim`: the
    dimension of its output that counts them, 1 for maps, -1 for units.
    `rows(module, parameter name)`: how many rows of the parameter each output has; None if each has one.
    `narrow(module, start, stop)`: make it a layer of outputs start to stop alone, whose parameters have been cut
    already. `connections(module, output shape)`: multiplications (additions, comparisons) for one image, biases
    included; None for a layer that has no sums, such as an activation.
    """

    elementwise: bool = False
    by_maps: bool = False
    flattens: Callable[[Any], bool] = _nothing
    weights: str | None = None
    outputs: Callable[[Any], int] = lambda module: 0
    output_dim: int = 1
    rows: Callable[[Any, str], list[int] | None] = _nothing
    narrow: Callable[[Any, int, int], None] = _nothing
    connections: Callable[[Any, Shape], int] | None = None


def kind_of(module: nn.Module) -> LayerKind:
    """What is known of exactly this class: a subclass may compute something else."""
    return KINDS.get(type(module), UNKNOWN)


def base_kind_of(module: nn.Module) -> LayerKind:
    """What is known of the class, or of the nearest class that it inherits from: for counting, not for splitting."""
    return next((KINDS[base] for base in type(module).__mro__ if base in KINDS), UNKNOWN)


def is_convolutional(net: nn.Module) -> bool:
    """Is there a convolution in it, or another layer that goes over maps in windows and has weights?"""
    return any(base_kind_of(module).weights for module in net.modules())


# Entries that need more than a line.


def _high(value: Any) -> int:
    return value[0] if isinstance(value, tuple) else value


def _wide(value: Any) -> int:
    return value[-1] if isinstance(value, tuple) else value


def _subsample_connections(pool: Subsample, output: Shape) -> int:
    per_unit = {"strided": 1, "trainable": pool.size**2 + 1}.get(pool.kind, pool.size**2)
    return prod(output) * per_unit


def _sparse_connections(conv: SparseConv2d, output: Shape) -> int:
    return len(conv.weight) * conv.size**2 * prod(output[1:]) + prod(output)


def _pool_connections(pool: Any, output: Shape) -> int:
    return prod(output) * _high(pool.kernel_size) * _wide(pool.kernel_size)


def _sum_connections(layer: nn.Conv2d | nn.Linear, output: Shape) -> int:
    return prod(output) * (layer.weight[0].numel() + (layer.bias is not None))


def _narrow_linear(linear: nn.Linear, start: int, stop: int) -> None:
    linear.out_features = stop - start


def _narrow_conv(conv: nn.Conv2d, start: int, stop: int) -> None:
    conv.out_channels = stop - start


def _narrow_sparse(conv: Any, start: int, stop: int) -> None:
    first = sum(map(len, conv.table[:start]))
    conv.table = conv.table[start:stop]
    conv.groups = equal_groups(conv.table, conv.in_maps)
    conv._positions = conv._positions[first : first + sum(map(len, conv.table))] - start * conv.in_maps


def _narrow_subsample(pool: Subsample, start: int, stop: int) -> None:
    pool.maps = stop - start


UNKNOWN = LayerKind()
ELEMENTWISE = LayerKind(elementwise=True)
BY_MAPS = LayerKind(by_maps=True)

KINDS: dict[type[nn.Module], LayerKind] = {
    nn.Linear: LayerKind(
        outputs=lambda linear: linear.out_features,
        output_dim=-1,
        narrow=_narrow_linear,
        connections=_sum_connections,
    ),
    nn.Conv2d: LayerKind(
        weights="shared",
        outputs=lambda conv: conv.out_channels if conv.groups == 1 else 0,
        narrow=_narrow_conv,
        connections=_sum_connections,
    ),
    SparseConv2d: LayerKind(
        weights="shared",
        outputs=lambda conv: conv.out_maps,
        rows=lambda conv, name: [len(row) for row in conv.table] if name == "weight" else None,
        narrow=_narrow_sparse,
        connections=_sparse_connections,
    ),
    LocallyConnected2d: LayerKind(
        weights="own",
        connections=lambda layer, output: prod(output) * (layer.weight.shape[-1] + 1),
    ),
    RBFOutput: LayerKind(connections=lambda layer, output: prod(output) * layer.codes.shape[1]),
    Subsample: LayerKind(by_maps=True, narrow=_narrow_subsample, connections=_subsample_connections),
    nn.MaxPool2d: LayerKind(by_maps=True, connections=_pool_connections),
    nn.AvgPool2d: LayerKind(by_maps=True, connections=_pool_connections),
    L2Pool: LayerKind(
        by_maps=True,
        connections=lambda pool, output: prod(output) * pool.size**2,
    ),
    nn.Flatten: LayerKind(flattens=lambda flatten: (flatten.start_dim, flatten.end_dim) == (1, -1)),
    **dict.fromkeys((nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d), BY_MAPS),
    **dict.fromkeys(
        (ScaledTanh, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
        ELEMENTWISE,
    ),
    **dict.fromkeys((nn.Softplus, nn.Softsign, nn.Tanh, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid), ELEMENTWISE),
    **dict.fromkeys((nn.Hardswish, nn.Hardsigmoid, nn.Hardshrink, nn.Softshrink), ELEMENTWISE),
    **dict.fromkeys((nn.Tanhshrink, nn.Threshold), ELEMENTWISE),
    # A rank draws its part of what one process draws (core/draws.py).
    **dict.fromkeys((nn.Dropout, nn.AlphaDropout, nn.RReLU), ELEMENTWISE),
    **dict.fromkeys((nn.Dropout2d, nn.FeatureAlphaDropout), BY_MAPS),
}
