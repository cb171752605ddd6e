"""A run's seconds are those that the GPU takes for its steps, by CUDA's own events; who looks on is off the clock."""

import time
from functools import partial
from typing import Any
from unittest import mock

import torch
from gpu_check.experiments import train
from gpu_check.setting import Parts, Setting

from dlkit import Experiment
from dlkit.models import RBM
from dlkit.training import CD
from dlkit.training.run import Run

STEPS = 40
OFF = (0.9, 1.25)  # times the events' seconds


def parts(setting: Setting) -> Parts:
    yield "alone", partial(seconds, setting, None)
    yield "with a watcher", partial(seconds, setting, look)
    yield "with a watcher that sleeps", partial(seconds, setting, lambda run: time.sleep(0.01))


def look(run: Run) -> None:
    assert run.loss == run.loss


class Clock:
    """Moments on the GPU, as it comes to them, or on the CPU."""

    def __init__(self, is_gpu: bool):
        self.is_gpu, self.moments = is_gpu, []

    def note(self) -> None:
        self.moments.append(torch.cuda.Event(enable_timing=True) if self.is_gpu else time.perf_counter())
        if self.is_gpu:
            self.moments[-1].record()

    def between(self, one: int, other: int) -> float:
        begin, end = self.moments[one], self.moments[other]
        return begin.elapsed_time(end) / 1e3 if self.is_gpu else end - begin


def seconds(setting: Setting, on_step: Any) -> str:
    """Steps that keep the GPU busy for longer than it takes to ask for them."""
    hidden, batch = (8000, 4096) if setting.is_gpu else (300, 512)
    rows = torch.rand(2 * batch, 784, generator=torch.Generator().manual_seed(0))
    experiment = Experiment(partial(RBM, 784, hidden), rows, CD(), batch_size=batch, lr=0.01, row_every=10**9)
    clock, learn = Clock(setting.is_gpu), Run._learn

    def timed(run: Run, batch: Any) -> Any:
        clock.note()
        report = learn(run, batch)
        clock.note()
        return report

    with mock.patch.object(Run, "_learn", timed):
        run = train(experiment, setting.device, steps=STEPS, on_step=on_step)
    if setting.is_gpu:
        torch.cuda.synchronize()
    inside = sum(clock.between(2 * step, 2 * step + 1) for step in range(STEPS))
    ratio = run.seconds / inside
    assert OFF[0] < ratio < OFF[1], f"run.seconds {run.seconds:.3f}, by events {inside:.3f}"
    return f"{ratio:.2f} times the events' {inside:.2f} s"
