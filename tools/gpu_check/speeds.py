"""How fast: as ratios to products and copies that are measured in the same run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
from gpu_check.experiments import experiments, train
from gpu_check.setting import Parts, Setting, needs_gpu

from dlkit import Experiment
from dlkit.bench.rbm import five_products
from dlkit.models import RBM
from dlkit.training import CD

STEPS, ROUNDS = 300, 3


def parts(setting: Setting) -> Parts:
    for name in ("float32", "TF32", "bfloat16"):
        yield f"products, {name}", partial(product, setting, name)
    yield "copies", partial(copies, setting)
    for batch in (100, 1000):
        yield f"CD-1, batch {batch}", partial(contrastive, setting, batch)
    for name in ("LeNet-5", "up-down", "CD"):
        yield f"{name}, replayed", partial(replays, setting, name)


def timed(setting: Setting, call: Callable[[], object]) -> float:
    """Seconds, the median of some, after one that is not counted."""
    found = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        call()
        if setting.is_gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return median(found[1:])


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Context in which products of float32 are made so, "ieee" or "tf32"."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = name
    try:
        yield
    finally:
        matmul.fp32_precision = before


def product(setting: Setting, name: str) -> str:
    """A square product, in 10¹² floating-point operations a second."""
    size, times = (8192, 10) if setting.is_gpu else (512, 2)
    x = torch.rand(size, size, device=setting.device, dtype=torch.bfloat16 if name == "bfloat16" else torch.float32)
    with precision("tf32" if name == "TF32" else "ieee"):
        seconds = timed(setting, lambda: [x @ x for _ in range(times)])
    return f"{2e-12 * size**3 * times / seconds:.3g} Tflop/s"


def copies(setting: Setting) -> str:
    """256 MB from the host's memory, pageable and pinned, back, and on the GPU."""
    needs_gpu(setting)
    here, there = torch.rand(1 << 26), torch.rand(1 << 26, device=setting.device)
    pinned, other = here.pin_memory(), torch.empty_like(there)
    ways = {
        "to it": lambda: there.copy_(here),
        "to it, pinned": lambda: there.copy_(pinned),
        "from it, pinned": lambda: pinned.copy_(there),
        "on it": lambda: other.copy_(there),
    }
    return ", ".join(f"{name} {here.nbytes * 1e-9 / timed(setting, way):.1f} GB/s" for name, way in ways.items())


def seconds_a_step(setting: Setting, experiment: Experiment, **settings: Any) -> tuple[float, Any]:
    """The median of some runs, and the last of them."""
    steps = STEPS if setting.is_gpu else 6
    runs = [train(experiment, setting.device, steps=steps, **settings) for _ in range(ROUNDS)]
    return median(run.seconds for run in runs) / steps, runs[-1]


def contrastive(setting: Setting, batch: int) -> str:
    """Of a step, the part that its five products take alone; each way beside its own products."""
    rows = torch.rand(20 * batch, 784, generator=torch.Generator().manual_seed(0)).round()
    experiment = Experiment(partial(RBM, 784, 500), rows, CD(), batch_size=batch, momentum=0.5)
    low = replace(experiment, learner=CD(products="bfloat16"))
    ways: dict[str, tuple[Experiment, dict[str, Any], str, torch.dtype]] = {
        "float32": (experiment, {}, "ieee", torch.float32),
        "float32, not replayed": (experiment, {"capture": False}, "ieee", torch.float32),
        "fast": (experiment, {"fast": True}, "tf32", torch.float32),
        "bfloat16": (low, {}, "ieee", torch.bfloat16),
    }
    times, texts = 100 if setting.is_gpu else 2, []
    for name, (one, settings, made, dtype) in ways.items():
        with precision(made), torch.device(setting.device):
            floor = timed(setting, five_products(batch, times, dtype, torch.mm)) / times
        found, run = seconds_a_step(setting, one, **settings)
        why = f" ({run.why_not_captured})" if run.why_not_captured and "capture" not in settings else ""
        texts.append(f"{name} {batch / found:,.0f} images/s, {floor / found:.2f} of its products'{why}")
    return "; ".join(texts)


def replays(setting: Setting, name: str) -> str:
    experiment = experiments()[name]
    (replayed, run), (passed, _) = (seconds_a_step(setting, experiment, capture=value) for value in (True, False))
    return f"{passed / replayed:.2f} times as fast as not replayed {run.why_not_captured}".strip()
