"""Matrix products, by the faster of the two libraries that torch brings for a CPU."""

import torch
from jaxtyping import Float
from torch import Tensor

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
