"""Matrix products, by the faster of the two libraries that torch brings for a CPU."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SMALL = 128**3  # multiplications; below this the call costs more than it saves


def matmul(x: Float[Tensor, "m k"], y: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """x @ y, float32 to rounding.

    On a CPU torch gives float32 products to MKL, which reaches half of oneDNN's speed on processors that are not
    Intel's (benchmarks/README.md). torch has no public way to ask for oneDNN, so this calls the operator that its
    compiler uses; the operator has no gradient, so products that autograd follows stay with torch.
    """
    if _one_dnn is not None and _fits_one_dnn(x, y):
        return _one_dnn(x, y.T, None, "none", [], "")
    return x @ y


_one_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _fits_one_dnn(x: Tensor, y: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == y.dtype == torch.float32
        and x.shape[0] * y.shape[0] * y.shape[1] >= SMALL
        and not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and bool(torch.backends.mkldnn.enabled)
    )


def bfloat16_products() -> bool:
    """Whether the processor multiplies bfloat16 matrices itself; torch can emulate it elsewhere, slowly."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


def fast_linear(net: nn.Module, rows: int) -> AbstractContextManager[object]:
    """`FastLinear()` if `net` has an nn.Linear large enough for it with so many rows; else it would only cost time."""
    layers = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    pays = any(rows * layer.in_features * layer.out_features >= SMALL for layer in layers)
    return FastLinear() if pays else nullcontext()


class FastLinear(TorchFunctionMode):
    """`with FastLinear(): ...` makes the products of any nn.Linear, forward and backward, as `matmul` does."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.linear and not kwargs and len(args) == 3 and args[2] is not None:
            x, weight, bias = args
            with torch.no_grad():
                fits = x.ndim == 2 and _one_dnn is not None and _fits_one_dnn(x, weight.T)
            if fits:
                return _Linear.apply(x, weight, bias)
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.T) + bias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        wanted_x, wanted_weight, wanted_bias = ctx.needs_input_grad
        return (
            matmul(grad, weight) if wanted_x else None,
            matmul(grad.T, x) if wanted_weight else None,
            grad.sum(0) if wanted_bias else None,
        )
