"""The same bits twice on a GPU: deterministic algorithms, and float32 with all of its bits; or speed in their place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch

# TF32 has 10 bits of float32's 23; it is torch's default for convolutions on a GPU. Precision is set by torch's older
# names, which sets the newer ones too: a reader's net, compiled or not, may ask for either, and torch refuses to answer
# where they differ. Source: torch's notes on CUDA semantics, TensorFloat-32.
NEWER_NAMES = ("cuda.matmul", "mkldnn.matmul", "cudnn.conv", "cudnn.rnn")  # in torch.backends


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Context in which a GPU computes in full float32, and gives the same bits each time; nothing changes on a CPU.

    torch's settings are afterwards as they were. RuntimeError, with the mend, for an operation that has no such
    algorithm. Source: torch's notes on reproducibility.
    """
    if device.type != "cuda":
        yield
        return
    put_back = _settings()
    try:
        _choose(tf32=False, benchmark=False)
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
        put_back()


@contextmanager
def quick(device: torch.device, *, alone: bool = True) -> Iterator[None]:
    """Context in which a GPU computes products and convolutions in TF32, and tries which algorithms are the fastest.

    alone: is this process's run not split? Ranks that each compute the same take no part in such trials, as these may
    end otherwise on each. Nothing changes on a CPU; torch's settings are afterwards as they were.
    """
    if device.type != "cuda":
        yield
        return
    put_back = _settings()
    try:
        _choose(tf32=True, benchmark=alone)
        torch.use_deterministic_algorithms(False)
        yield
    finally:
        put_back()


def _choose(*, tf32: bool, benchmark: bool) -> None:
    backends: Any = torch.backends
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    backends.cudnn.allow_tf32, backends.cudnn.benchmark = tf32, benchmark
    for place in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):  # whatever the reader's default is
        place.fp32_precision = "tf32" if tf32 else "ieee"
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # of tensors that are filled anyway


def _settings() -> Callable[[], None]:
    """Gives a function that puts torch's settings back to what they are now."""
    backends: Any = torch.backends
    sets: list[Callable[[], object]] = []
    with suppress(RuntimeError):  # the reader has set the newer name alone: the older one cannot be read
        sets.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    with suppress(RuntimeError):
        sets.append(partial(setattr, backends.cudnn, "allow_tf32", backends.cudnn.allow_tf32))
    for name in NEWER_NAMES:
        family, operation = name.split(".")
        place = getattr(getattr(backends, family), operation)
        sets.append(partial(setattr, place, "fp32_precision", place.fp32_precision))
    for place, name in ((backends.cudnn, "benchmark"), (torch.utils.deterministic, "fill_uninitialized_memory")):
        sets.append(partial(setattr, place, name, getattr(place, name)))
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    sets.append(partial(torch.use_deterministic_algorithms, deterministic, warn_only=warns))

    def put_back() -> None:
        for one in sets:
            one()

    return put_back
