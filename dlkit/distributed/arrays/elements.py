"""Functions over arrays that give a value of values at the same place alone, or of all places: sums and means."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.arrays.bill import summed as summed_bill
from dlkit.distributed.arrays.core import Call, DistributedArray, found, rule
from dlkit.distributed.autograd import reduce_from_ranks

NAMES = """
    abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan
    atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max clamp_min clip clone
    contiguous copysign cos cosh deg2rad detach div divide double elu eq erf erfc erfinv exp exp2 expm1 fix
    float floor floor_divide fmod frac ge gelu greater greater_equal gt half hardshrink hardsigmoid hardswish
    hardtanh hypot isfinite isinf isnan le leaky_relu lerp less less_equal lgamma log log10 log1p log2 logaddexp
    logical_and logical_not logical_or logical_xor logit logsigmoid lt masked_fill maximum minimum mish mul
    multiply nan_to_num ne neg negative not_equal ones_like positive pow rad2deg reciprocal relu relu6 remainder
    round rsqrt rsub selu sigmoid sign sgn silu sin sinc sinh softplus softshrink softsign sqrt square sub
    subtract tan tanh tanhshrink threshold to true_divide trunc type_as where xlogy zeros_like full_like
    bfloat16 int long bool
"""
OPERATORS = """
    truediv floordiv mod invert and or xor radd rmul rpow rtruediv rfloordiv rmod iadd isub imul itruediv ipow
"""


@rule(*NAMES.split(), *OPERATORS.split(), quick=True)
def elementwise(call: Call) -> Any:
    """Values at the same index of several tensors, some of which may have one row or column for all, or none."""
    shapes = [tuple(value.shape) for value in found(Tensor, (call.args, call.kwargs))]
    shape = broadcast(shapes)
    first = max(call.arrays, key=lambda array: (array.ndim, array.numel()))
    more = len(shape) - first.ndim
    if any(shape[dim + more] != first.shape[dim] for dim in first.split_dims):
        return NotImplemented

    def part(value: Any) -> Any:
        if isinstance(value, DistributedArray):
            own = value.alike(first) if value.tiles is not None and not value.of_parameters else None
            return call.copied(value.whole()) if own is None else own
        return first.part_of(call.copied(value), value.ndim - first.ndim)

    result = call.on(part)
    if not isinstance(result, Tensor):
        return NotImplemented
    if result is first.local:
        return first
    return first.moved(result, lambda dim: dim + more)


def broadcast(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape of what is computed of tensors of these, as torch.broadcast_shapes, which takes ten times as long."""
    if all(shape == shapes[0] for shape in shapes):
        return tuple(shapes[0])
    longest = max(map(len, shapes))
    padded = [(1,) * (longest - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(next((length for length in lengths if length != 1), 1) for lengths in zip(*padded, strict=True))


@rule("requires_grad")
def requires_grad(call: Call) -> Any:
    if call.func.__name__ == "__get__":
        return call.array.local.requires_grad
    call.array.local.requires_grad_(*call.args[1:])
    return call.array


@rule("is_leaf", "grad_fn", "is_contiguous", "stride", "data_ptr", "retain_grad")
def of_the_tile(call: Call) -> Any:
    return call.on(lambda value: value.local if isinstance(value, DistributedArray) else value)


@rule("sum", "mean")
def summed(call: Call) -> Any:
    x, dims = call.array, call.argument(1, "dim")
    keepdim, dtype = bool(call.argument(2, "keepdim", False)), call.kwargs.get("dtype")
    if len(call.arrays) > 1 or call.kwargs.get("out") is not None:
        return NotImplemented
    dims = list(range(x.ndim)) if dims is None or dims == () else [dims] if isinstance(dims, int) else list(dims)
    dims = sorted({dim % x.ndim for dim in dims})
    inside = [dim for dim in x.split_dims if dim in dims]
    if not inside:
        return without(call, dims)
    if len(inside) < len(x.split_dims):
        return NotImplemented
    own = x.local.sum(dims, keepdim=keepdim, dtype=dtype)
    x.grid.note(summed_bill, own, x.grid.group.world_size)
    total = reduce_from_ranks(own, x.grid.group)
    return total / prod(x.shape[dim] for dim in dims) if call.name == "mean" else total


def without(call: Call, dims: Sequence[int]) -> Any:
    """The function of dimensions that are not split, which may be gone then."""
    x = call.array
    result = call.on(lambda value: x.local if value is x else call.copied(value))
    if not isinstance(result, Tensor):
        return NotImplemented
    gone = () if result.ndim == x.ndim else dims
    return x.moved(result, lambda dim: None if dim in gone else dim - sum(other < dim for other in gone))


@rule("stack")
def stacked(call: Call) -> Any:
    """Along a new dimension."""
    values, dim = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    return torch.cat([value.unsqueeze(dim) for value in values], dim)


@rule("cat", "concat", "concatenate")
def joined(call: Call) -> Any:
    values, dim = call.argument(0, "tensors"), call.argument(1, "dim", 0)
    first = call.array
    dim %= first.ndim
    if dim in first.split_dims or any(value.ndim != first.ndim for value in values):
        return NotImplemented
    if any(value.shape[each] != first.shape[each] for value in values for each in first.split_dims):
        return NotImplemented  # torch says what does not fit
    parts = []
    for value in values:
        own = value.alike(first) if isinstance(value, DistributedArray) else first.part_of(call.copied(value))
        if own is None:
            return NotImplemented
        parts.append(own)
    return first.moved(torch.cat(parts, dim), lambda each: each)
