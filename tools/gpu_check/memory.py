"""What a run holds is what it says; and where memory is out, the sentence names a batch that fits."""

import gc
import re
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gpu_check.experiments import train
from gpu_check.setting import Parts, Setting, needs_gpu
from torch import nn

from dlkit import Experiment
from dlkit.core.text_table import format_bytes
from dlkit.training import CrossEntropy

ROOM = 1.5e9  # bytes for a run that needs more


def parts(setting: Setting) -> Parts:
    yield "held", partial(held, setting)
    yield "out of memory", partial(out_of_memory, setting)


def net(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.Tanh(), nn.Linear(hidden, 10))


def experiment(hidden: int, images: int, batch: int) -> Experiment:
    x, labels = torch.rand(images, 784, generator=torch.Generator().manual_seed(0)), torch.arange(images) % 10
    return Experiment(partial(net, hidden), (x, labels), CrossEntropy(), batch_size=batch, momentum=0.9, row_every=1)


def held(setting: Setting) -> str:
    """After some steps, and at most, beside `memory_bytes`: parameters, gradients and momentum."""
    needs_gpu(setting)
    seen: list[tuple[int, int]] = []
    made = experiment(50_000, 1000, 100)
    gc.collect()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()

    def look(run: Any) -> None:
        seen.append((run.memory_bytes, torch.cuda.memory_allocated() - before))

    train(made, setting.device, steps=5, callbacks=[look])
    says, now = seen[-1]
    most = torch.cuda.max_memory_allocated() - before
    assert now >= says, f"memory_bytes says {says:,}, and {now:,} are allocated"
    left = torch.cuda.memory_allocated() - before
    return (
        f"memory_bytes {format_bytes(says)}, allocated {now / says:.2f} times that, at most {most / says:.2f}, "
        f"left when it has ended {format_bytes(max(left, 0))}"
    )


def out_of_memory(setting: Setting) -> str:
    """The GPU is made small; the sentence's mend trains."""
    needs_gpu(setting)
    gc.collect()
    torch.cuda.empty_cache()
    size = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / size)
    made = experiment(8192, 1 << 16, 1 << 16)
    try:
        train(made, setting.device, steps=2)
    except MemoryError as error:
        told = str(error)
    else:
        raise AssertionError("memory was not out")
    finally:
        torch.cuda.empty_cache()
    mend = re.search(r"batch_size=(\d+) fits", told)
    assert mend, told
    train(replace(made, batch_size=int(mend[1])), setting.device, steps=2)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return told
