"""Importing large packages without looking for garbage meanwhile: a fifth of their time, in which none is found."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Context in which Python does not look for garbage; afterwards it does if it did before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_what_optimizers_need() -> None:
    """Import torch._dynamo, as torch's optimizers do when the first is made: more than a second."""
    if "torch._dynamo" not in sys.modules:
        with no_garbage_collection():
            import torch._dynamo  # noqa: F401
