"""A run's seconds are those that a GPU takes, not those in which it is asked to; by stand-ins, as no GPU is here."""

import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from splitting import digits

from dlkit import Experiment
from dlkit.models.rbm import RBM
from dlkit.training import CD
from dlkit.training import run as module
from dlkit.training.run import Run

LAUNCH, STEP = 1.0, 10.0  # seconds in which a step is asked of the pretended GPU, and in which it is done
CUDA = torch.device("cuda", 0)


class Gpu:
    """A GPU that does what it is asked later: who looks at something waits for it."""

    def __init__(self):
        self.time, self.pending, self.waits = 0.0, 0.0, 0

    def ask(self):
        self.time += LAUNCH
        self.pending += STEP

    def synchronize(self, device=None):
        assert device in (None, CUDA)
        self.time, self.pending, self.waits = self.time + self.pending, 0.0, self.waits + 1


@pytest.fixture
def pretended(monkeypatch):
    """The GPU, and a function that makes a run on it, which is to be trained; it looks at the GPU in its callbacks."""
    gpu = Gpu()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: gpu.time))
    monkeypatch.setattr(torch.accelerator, "synchronize", gpu.synchronize)
    learn, order = Run._learn, Run._order

    def learn_later(run, batch):
        gpu.ask()
        return learn(run, batch)

    def order_on_the_cpu(run, epoch):
        run.device, device = torch.device("cpu"), run.device
        try:
            return order(run, epoch)
        finally:
            run.device = device

    monkeypatch.setattr(Run, "_learn", learn_later)
    monkeypatch.setattr(Run, "_order", order_on_the_cpu)

    def make(**settings):
        images, _ = digits(500)
        experiment = Experiment(partial(RBM, 784, 5), images.flatten(1), CD(), epochs=2, batch_size=100, **settings)
        run = Run(experiment, None, torch.device("cpu"), None)
        run.device = CUDA
        return run

    return gpu, make


def train(run, folder=None, every=None, callbacks=(), on_step=None, stop=None):
    run.train(folder, every, callbacks, on_step, stop, False)
    return run


def test_seconds_are_those_of_the_steps_and_the_gpu_is_waited_for_at_rows_alone(pretended):
    gpu, make = pretended
    run = train(make(row_every=2))
    assert run.step == 10
    assert run.seconds == 10 * (LAUNCH + STEP)
    assert run.throughput == 1000 / run.seconds
    per_second = [row["images_per_second"] for row in run.history.rows]
    assert per_second == pytest.approx([100 / (LAUNCH + STEP)] * len(per_second))
    assert gpu.waits == len(per_second) + 1  # and at the end


def test_a_run_whose_steps_end_between_rows_has_waited_for_the_last(pretended):
    _, make = pretended
    run = make()
    run.total_steps = 3
    assert train(run).seconds == 3 * (LAUNCH + STEP)
    assert run.history.rows[-1]["images_per_second"] == pytest.approx(100 / (LAUNCH + STEP))


def test_so_has_one_that_is_stopped(pretended):
    _, make = pretended
    stop = threading.Event()
    run = train(make(), on_step=lambda run: run.step == 3 and stop.set(), stop=stop)
    assert run.stopped == "stopped"
    assert run.seconds == run.step * (LAUNCH + STEP)


@pytest.mark.parametrize("looks", ["watcher", "callback", "checkpoint"])
def test_who_looks_at_the_run_does_not_wait_in_its_place(pretended, looks, tmp_path, monkeypatch):
    gpu, make = pretended
    if looks == "checkpoint":
        monkeypatch.setattr(module.checkpoint, "save_run", lambda run, folder: gpu.synchronize())
        run = train(make(), tmp_path, 3)
    elif looks == "callback":
        run = train(make(row_every=3), callbacks=[lambda run: gpu.synchronize()])
    else:
        run = train(make(), on_step=lambda run: gpu.synchronize())
    assert run.seconds == 10 * (LAUNCH + STEP)
