"""A step's passes recorded once and replayed: on a GPU a small step takes as long as launching its kernels does."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dlkit.data.batch import Batch
from dlkit.training.learner import Metrics

LONG = 5e-3  # seconds: a step that takes so long does not wait for launches
WARM_UP = 3  # passes before the recording, in which libraries choose their algorithms and get their memory


@runtime_checkable
class Graph(Protocol):
    """What records and replays; torch.cuda's in a run."""

    def record(self, call: Callable[[], Metrics]) -> Metrics:
        """Call once; the tensors that it gives are those that each `replay` fills anew."""
        ...

    def replay(self) -> None:
        """Do again what was recorded, on what now is in the same memory."""
        ...


class CUDAGraph:
    """torch's, whose kernels draw on from where the generator is then."""

    def __init__(self, generator: torch.Generator):
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(generator)
        self.generator = generator

    def record(self, call: Callable[[], Metrics]) -> Metrics:
        """Both the passes before and the recording are on streams of their own, as torch wants it.

        RuntimeError if it cannot be recorded. Where the host waits for the GPU, which a recording does not stand, that
        is found before: a recording that fails leaves torch on its stream, and generators that refuse to draw.
        """
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP - 1):
                call()
            with _refused_to_wait():
                call()
        here.wait_stream(beside)
        generators = [self.generator, torch.cuda.default_generators[here.device_index]]
        states = [generator.clone_state() for generator in generators]
        try:
            with torch.cuda.graph(self.graph):
                return call()
        except BaseException:
            torch.cuda.set_stream(here)
            for generator, state in zip(generators, states, strict=True):
                generator.graphsafe_set_state(state)
            raise

    def replay(self) -> None:
        self.graph.replay()


@contextmanager
def _refused_to_wait() -> Iterator[None]:
    """Context in which torch raises a RuntimeError where the host would wait for a GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it may not find all
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class CapturedPass:
    """The gradient and the metrics of full batches, replayed. Batches are copied to where the recorded one was.

    It is for a run that is not split. The optimizer's step is not recorded: lr and momentum may change.
    """

    def __init__(self, run: Any, graph: Graph):
        """RuntimeError if the pass cannot be recorded; the run's model, learner and generator are put back."""
        self.run, self.graph = run, graph
        first = run.first_images(run.experiment.batch_size)
        self.batch = Batch(first.images.clone(), None if first.labels is None else first.labels.clone())
        before = _Snapshot(run)
        try:
            with run.own_generators(0):
                self.metrics = graph.record(self._eager)
        finally:
            before.put_back()
        if before.moved():
            raise RuntimeError("a pass keeps its state in new tensors")
        self.gradients = [(p, p.grad) for p in run.model.parameters() if p.requires_grad]

    def _eager(self) -> Metrics:
        return self.run.shard.fill_grad(self.batch, self.run.generator)

    def __call__(self, batch: Batch) -> Metrics:
        """As `fill_grad` of a batch of the recorded size."""
        self.batch.images.copy_(batch.images)
        if batch.labels is not None and self.batch.labels is not None:
            self.batch.labels.copy_(batch.labels)
        self.graph.replay()
        for parameter, gradient in self.gradients:  # a part of a batch, which is not replayed, has given it another
            parameter.grad = gradient
        return {name: value.clone() for name, value in self.metrics.items()}

    def agrees(self) -> bool:
        """Do two other batches give, replayed, what they give when they are passed? To the bit, where torch keeps bits.

        What a pass takes from Python each time, a count or a number drawn there, is found so.
        """
        run, size = self.run, self.run.experiment.batch_size
        order = torch.arange(2 * size, device=run.device) % len(run.data.images)
        batches = [run.shard.select(run._on_device, order[start : start + size]) for start in (0, size)]
        found = []
        for fill in (lambda batch: run.shard.fill_grad(batch, run.generator), self):
            before, outcome = _Snapshot(run), []
            try:
                for step, batch in enumerate(batches):
                    with run.own_generators(step):
                        metrics = fill(batch)
                    outcome += [p.grad.clone() for p in run.model.parameters() if p.grad is not None]
                    outcome += [*metrics.values(), *(value.clone() for value in _kept(run).values())]
            finally:
                before.put_back()
            found.append(outcome)
        close = {} if not torch.are_deterministic_algorithms_enabled() else {"rtol": 0.0, "atol": 0.0}
        passed, replayed = found
        return len(passed) == len(replayed) and all(
            torch.allclose(*pair, equal_nan=True, **close) for pair in zip(passed, replayed, strict=True)
        )


def captured(run: Any) -> "tuple[CapturedPass | None, str]":
    """The run's passes to replay; or None, and why not."""
    if run.device.type != "cuda":
        return None, "only a GPU replays steps"
    if run.shard.world_size > 1:
        return None, "a run that is split exchanges in its steps"
    if run.generator.device != run.device:
        return None, "random numbers are drawn on another device"
    if set(run.trial.generators) - {"torch"} or not run.trial.repeats:
        return None, "passes take numbers from elsewhere than torch's generators"
    try:
        if _seconds(run) > LONG:
            return None, f"a pass takes more than {LONG * 1e3:g} ms, and does not wait for its launches"
        found = CapturedPass(run, CUDAGraph(run.generator))
        if not found.agrees():
            return None, "a pass gives other numbers when it is replayed"
    except RuntimeError as error:  # it looks at values, say, or memory is out: the first step tells
        return None, str(error).split("\n")[0]
    finally:
        run.model.zero_grad()
    return found, ""


def _seconds(run: Any) -> float:
    """That a pass takes, the second of two."""
    before, batch = _Snapshot(run), run.first_images(run.experiment.batch_size)
    seconds = 0.0
    try:
        for _ in range(2):
            torch.cuda.synchronize(run.device)
            begun = time.perf_counter()
            with run.own_generators(0):
                run.shard.fill_grad(batch, run.generator)
            torch.cuda.synchronize(run.device)
            seconds = time.perf_counter() - begun
    finally:
        before.put_back()
    return seconds


def _kept(run: Any) -> dict[str, Tensor]:
    """What a pass may change, beside gradients, and must find again where it was."""
    return dict(run.model.named_buffers()) | {f"learner.{name}": value for name, value in run.learner.state.items()}


class _Snapshot:
    """What `_kept` gives, and the state of the run's generator."""

    def __init__(self, run: Any):
        self.run, self.tensors, self.state = run, _kept(run), run.generator.get_state()
        self.values = {name: value.clone() for name, value in self.tensors.items()}

    def put_back(self) -> None:
        for name, value in self.tensors.items():
            with torch.no_grad():
                value.copy_(self.values[name])
        self.run.generator.set_state(self.state)

    def moved(self) -> bool:
        """Are there other tensors now, in place of those of before?"""
        now = _kept(self.run)
        return now.keys() != self.tensors.keys() or any(now[name] is not value for name, value in self.tensors.items())
