"""The same bits twice on a GPU: deterministic algorithms, and float32 with all of its bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FULL = "ieee"  # float32 as it is on a CPU; torch's default for convolutions on a GPU is TF32, with 10 bits for 23


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Context in which a GPU computes in full float32, and gives the same bits each time; nothing changes on a CPU.

    torch's settings are afterwards as they were. RuntimeError, with the mend, for an operation that has no such
    algorithm. Source: torch's notes on reproducibility, and on TensorFloat-32.
    """
    if device.type != "cuda":
        yield
        return
    settings = _settings()
    before = [(place, name, getattr(place, name)) for place, name, _ in settings]
    deterministic, warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        torch.use_deterministic_algorithms(True)
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        if "CUBLAS_WORKSPACE_CONFIG" in str(error):
            raise RuntimeError(
                "a product on the GPU came before dlkit, and now cuBLAS gives other bits each time: begin anew with "
                "`import dlkit`, set CUBLAS_WORKSPACE_CONFIG=:4096:8, or let it by `fast=True`."
            ) from None
        what = str(error).split(" does not have")[0].split("\n")[0]
        raise RuntimeError(
            f"{what} gives other bits each time on a GPU: `fast=True` lets it, or run on the CPU."
        ) from None
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        for place, name, value in before:
            setattr(place, name, value)


def _settings() -> list[tuple[Any, str, Any]]:
    backends: Any = torch.backends
    return [
        (backends.cuda.matmul, "fp32_precision", FULL),
        (backends.cudnn.conv, "fp32_precision", FULL),
        (backends.cudnn.rnn, "fp32_precision", FULL),
        (backends.cudnn, "benchmark", False),
        (torch.utils.deterministic, "fill_uninitialized_memory", False),  # of tensors that are filled anyway
    ]
