"""Matrix products by oneDNN where it is faster than MKL, torch's default on a CPU."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

SMALL = 128**3  # multiplications; for smaller products the call to oneDNN costs more than it saves


def matmul(x: Float[Tensor, "m k"], y: Float[Tensor, "k n"]) -> Float[Tensor, "m n"]:
    """x @ y, equal to torch's up to float32 rounding.

    On a CPU torch computes float32 products with MKL, which has half of oneDNN's speed on processors that are not
    Intel's (benchmarks/README.md). torch has no public way to choose oneDNN, so this calls the operator that
    torch.compile uses. That operator has no gradient: products that need one are computed by torch.
    """
    if _one_dnn is not None and _fits_one_dnn(x, y):
        return _one_dnn(x, y.T, None, "none", [], "")
    return x @ y


_one_dnn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _fits_one_dnn(x: Tensor, y: Tensor) -> bool:
    """Whether oneDNN can compute x @ y, and is worth the call."""
    return (
        x.device.type == y.device.type == "cpu"
        and x.dtype == y.dtype == torch.float32
        and x.shape[0] * y.shape[0] * y.shape[1] >= SMALL
        and not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()  # torch.func, and forward-mode derivatives
        and forward_ad._current_level < 0
        and bool(torch.backends.mkldnn.enabled)
    )


def bfloat16_products() -> bool:
    """Whether the processor has instructions for bfloat16 products; without them torch emulates them, slowly."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


def fast_linear(net: nn.Module, rows: int) -> AbstractContextManager[object]:
    """`FastLinear()` if it saves time: if an nn.Linear on the CPU is large enough for a batch of `rows` rows."""
    layers = (layer for layer in net.modules() if isinstance(layer, nn.Linear) and _on_cpu(layer))
    large = any(rows * layer.in_features * layer.out_features >= SMALL for layer in layers)
    return FastLinear() if large else nullcontext()


def _on_cpu(layer: nn.Linear) -> bool:
    """Not by its weight: one that is computed from others, as by spectral_norm, would be computed once more."""
    return any(parameter.device.type == "cpu" for parameter in layer.parameters())


class FastLinear(TorchFunctionMode):
    """Context in which every nn.Linear computes its products, forward and backward, by `matmul`."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        for kind in types:  # of tensors with functions of their own, which may compute products of plain ones
            if "__torch_function__" in vars(kind):
                with self:
                    return kind.__torch_function__(func, types, args, kwargs or {})
        if not kwargs and len(args) == 3 and args[2] is not None:
            x, weight, bias = args
            with torch.no_grad():
                fits = x.ndim == 2 and _one_dnn is not None and _fits_one_dnn(x, weight.T)
            if fits:
                return _Linear.apply(x, weight, bias)
        return func(*args, **(kwargs or {}))


class _Linear(torch.autograd.Function):
    """x @ weight.T + bias and its gradients, with products by `matmul`; torch's own where theirs are wanted in turn."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.T) + bias

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyrefly: ignore[bad-override]
        (grad,) = grad_outputs
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            matmul(grad, weight) if needs_x else None,
            matmul(grad.T, x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )
