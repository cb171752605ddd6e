"""What is to be trained, on what, how: `Experiment(...).run()`."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from operator import index
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from dlkit.core.exactness import exact, quick
from dlkit.core.global_generators import seeded
from dlkit.data.sources import describe, resolve
from dlkit.training.arguments import check_arguments, check_count
from dlkit.training.checkpoint import load_run, prepare
from dlkit.training.devices import default_device, device_of
from dlkit.training.first_model import make_model
from dlkit.training.first_optimizer import make_optimizer
from dlkit.training.learner import Learner
from dlkit.training.refusals import told_no_room, told_out_of_memory
from dlkit.training.run import Callback, Run
from dlkit.training.schedules import Schedule, at
from dlkit.training.shard import OwnLoop, Strategy

M = TypeVar("M", bound=nn.Module)

sgd = partial(torch.optim.SGD, fused=True)


@dataclass(frozen=True)
class Experiment(Generic[M]):
    """What is to be trained, on what, how: a plain description that can be pickled and run many times.

    `model` is called with no argument, under `seed`; write partial(RBM, 784, 500).
    `data` is a name for `data.load`, a Dataset (its training part is used), a Split, images, or (images, labels); also
    arrays (mapped ones stay in their file), lists, frames and torch's Datasets, if what they mean is clear.
    `lr` and `momentum` are numbers or functions of the epoch (`linear`, `steps`); `momentum=None` is for an optimizer
    that has none. `weight_decay` acts on weights, not on biases. `optimizer` is called with lr and parameter groups,
    or, if it takes none, with parameters.
    `row_every` is the number of steps between rows of the history; by default a row an epoch. `dtype` is that of data,
    model and all that is computed: torch.float64 tells what is rounding from what is not.
    """

    model: Callable[[], M]
    data: Any
    learner: Learner
    batch_size: int = 100
    epochs: int = 10
    lr: float | Schedule = 0.1
    momentum: float | Schedule | None = 0.0
    weight_decay: float = 0.0
    optimizer: Callable[..., torch.optim.Optimizer] = sgd
    seed: int = 0
    row_every: int | None = None
    dtype: torch.dtype = torch.float32

    def __post_init__(self):
        check_arguments(self)
        for name in ("batch_size", "epochs", "seed", "row_every"):  # numpy's integers, which torch does not take
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, index(value))

    def __repr__(self) -> str:
        usual = {field.name: field.default for field in fields(self)}
        given = [
            f"{name}={describe_callable(value) if callable(value) else value}"
            for name in (
                "batch_size",
                "epochs",
                "lr",
                "momentum",
                "weight_decay",
                "optimizer",
                "seed",
                "row_every",
                "dtype",
            )
            if (value := getattr(self, name)) != usual[name] or name in ("batch_size", "epochs", "lr")
        ]
        parts = [describe_callable(self.model), describe(self.data), repr(self.learner), *given]
        return f"Experiment({', '.join(parts)})"

    def run(
        self,
        *,
        strategy: Strategy | OwnLoop | None = None,
        steps: int | None = None,
        device: str | torch.device | None = None,
        rng_device: str | None = None,
        fast: bool = False,
        capture: bool = True,
        checkpoint: str | Path | None = None,
        checkpoint_every: int | None = None,
        resume: bool = False,
        callbacks: Sequence[Callback] = (),
        on_step: Callable[["Run"], object] | None = None,
        stop: threading.Event | None = None,
        progress: bool = True,
    ) -> "Run[M]":
        """Train in this process and return the Run; Ctrl-C (or ■) ends it early and keeps what was learnt.

        strategy: how to split the run over the processes of a torch.distributed group, which all call this; in a
        notebook `cluster.run(experiment, strategy)` does it. Callbacks are called in all of them.
        steps: end after so many steps in place of `epochs`.
        device: what to train on, CUDA where there is one, else Apple's GPU ("mps") if it can, else the CPU. The model
        that comes back is on the CPU, whatever it trained on, as from a cluster; callbacks see it where it trains.
        rng_device: the device that draws random numbers, by default the run's; "cpu" gives a GPU the CPU's numbers, for
        which it waits at each draw.
        fast: let a GPU choose its algorithms, and compute products and convolutions in TF32: the same experiment then
        does not give the same bits twice, and they have three digits in place of seven.
        capture: on a GPU replay the passes of small steps as a CUDA graph, where a trial shows that they give the same;
        `run.why_not_captured` says why they do not.
        checkpoint: a folder, written at the end and every `checkpoint_every` steps; with `resume` the run goes on
        from what is there, to the bit (lr, momentum and epochs may have changed), else it is replaced. ValueError if
        something that a run goes on from would not be in it, as a trial shows.
        callbacks see the run at each row, and may return columns to add to it; `on_step` sees it after each step.
        """
        for name, count in (("steps", steps), ("checkpoint_every", checkpoint_every)):
            if count is not None:
                check_count(name, count, " or None")
        if isinstance(strategy, type):
            raise TypeError(
                f"strategy={strategy.__name__} is the class itself: give a strategy, {strategy.__name__}()."
            )
        if strategy is not None and not isinstance(strategy, Strategy | OwnLoop):
            raise TypeError(
                f"strategy={strategy!r} has no method `shard`, by which ranks take steps together: give one that has, "
                "such as DataParallel(), or `cluster.run(experiment, strategy)` for what only engines carry out."
            )
        default = default_device() if strategy is None or torch.cuda.is_available() else "cpu"
        chosen = device_of(
            self, device, default, lambda there: self._step_on(there, rng_device), split=strategy is not None
        )
        if isinstance(strategy, OwnLoop):
            given = {"checkpoint": checkpoint, "checkpoint_every": checkpoint_every, "resume": resume, "fast": fast}
            given |= {"on_step": on_step, "rng_device": rng_device}
            return strategy.run_on_ranks(self, steps=steps, device=chosen, callbacks=callbacks, stop=stop, **given)
        with quick(chosen, alone=strategy is None) if fast else exact(chosen):
            with told_no_room(chosen):
                run = Run(self, steps, chosen, rng_device, strategy, capture=capture, kept=checkpoint is not None)
            folder = Path(checkpoint) if checkpoint is not None else None
            if folder is None and (checkpoint_every or resume):
                raise ValueError("checkpoint_every and resume need checkpoint=, the folder to keep the run in.")
            if folder is not None:
                prepare(folder)
                _ = run.fingerprint  # as the learner is now: some count their steps
                if resume:
                    load_run(run, folder)
            with told_out_of_memory(run):
                run.train(folder, checkpoint_every, callbacks, on_step, stop, progress)
        return run

    def _step_on(self, device: torch.device, rng_device: str | None) -> None:
        run = Run(self, 1, device, rng_device)
        run.train(None, None, (), None, None, False)

    def make_optimizer(self, weights: list[nn.Parameter], biases: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer as it is before the first step; weights alone decay."""
        return make_optimizer(self.optimizer, weights, biases, at(self.lr, 0.0), self.weight_decay)

    def initial_model(self, device: str | torch.device = "cpu") -> M:
        """The model as it is before training: the same for each call. Lazy layers have seen one image of the data."""
        with seeded(self.seed):  # numpy's and Python's generators too: some nets draw their weights from those
            torch.manual_seed(self.seed)
            return make_model(self.model, self.learner, lambda: resolve(self.data, self.dtype), self.dtype).to(device)


def describe_callable(made_by: Callable[..., Any]) -> str:
    """A function, a class, a partial of one, or a schedule, in a few words."""
    if isinstance(made_by, partial):
        arguments = [*map(repr, made_by.args), *(f"{name}={value!r}" for name, value in made_by.keywords.items())]
        return f"{describe_callable(made_by.func)}({', '.join(arguments)})"
    return getattr(made_by, "__name__", None) or repr(made_by)
