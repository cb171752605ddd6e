"""A training in progress: the one loop, for everything that is trained here."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dlkit.data.batch import Batch
from dlkit.training import checkpoint
from dlkit.training.comparison import compare
from dlkit.training.first_optimizer import refuse_matrices_alone
from dlkit.training.history import Row, add_columns
from dlkit.training.interrupt import on_interrupt
from dlkit.training.prepared_run import M, PreparedRun
from dlkit.training.refusals import late_draws, refuse_sparse
from dlkit.training.returned import to_cpu
from dlkit.training.schedules import at
from dlkit.training.untouched import refusal, state_of_weights

Callback = Callable[["Run"], Mapping[str, float] | None]


class Run(PreparedRun[M]):
    """A training in progress, or its result: `model`, `history`, `seconds`, `throughput`, `stopped`.

    `Experiment.run` makes it. `step` counts the optimizer's steps, `seconds` are those of the steps alone, and `shard`
    is what this process has of the run. While it goes on, `model` is on `device`; afterwards it is on the CPU.
    """

    # What a reader or a callback looks at.

    @property
    def epoch(self) -> float:
        """Epochs done, with the part of the one that is going on."""
        return self.step / self.steps_per_epoch

    @property
    def throughput(self) -> float:
        """Images a second over the whole run; callbacks and checkpoints are not counted."""
        return self._images / self.seconds if self.seconds else 0.0

    @property
    def loss(self) -> float:
        """The mean since the last row of the history."""
        steps = self.step - self._row_start[0]
        return float(self._sums["loss"]) / steps if steps else float(self.history.rows[-1]["loss"] or 0.0)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the parameters, gradients and optimizer state that this process keeps."""
        model = self.shard.model
        kept: list[Tensor] = [*model.state_dict().values()]
        kept += [p.grad for p in model.parameters() if p.grad is not None]
        kept += [x for state in self.optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
        return sum(getattr(tensor, "_local_tensor", tensor).nbytes for tensor in kept)  # of a DTensor, this rank's

    compare = staticmethod(compare)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be this run's."""
        return checkpoint.fingerprint(self)

    @property
    def last_row_step(self) -> int:
        """The step after which the last row was made; 0 before the first."""
        return self._row_start[0]

    def stop(self, why: str) -> None:
        """End the run after this step; `run.stopped` says why. A run that is split ends after a step of all processes.

        Any of them may be asked alone. In a callback all end after the step of its row.
        """
        self._asked = self._asked or why
        if self.shard.world_size == 1:
            self.stopped = self.stopped or why

    def _interrupted(self) -> bool:
        """Is this the first reason to stop? A second Ctrl-C means it."""
        first = not (self.stopped or self._asked)
        self.stop("interrupted")
        return first

    def __repr__(self) -> str:
        loss = f", loss {self.history['loss'][-1]:.4g}" if len(self.history) else ""
        end = f", stopped: {self.stopped}" if self.stopped else ""
        return (
            f"Run({type(self.model).__name__}, {self.epoch:.4g} epochs, {self.step:,} steps{loss}, "
            f"{self.seconds:.1f} s, {self.throughput:,.0f} images/s{end})"
        )

    # The loop.

    def train(
        self,
        folder: Path | None,
        checkpoint_every: int | None,
        callbacks: Sequence[Callback],
        on_step: "Callable[[Run], object] | None",
        stop: threading.Event | None,
        progress: bool,
    ) -> None:
        """To the end, or until it is stopped; the arguments are those of `Experiment.run`."""
        if on_step is not None and self.captured is not None:
            self.end_replays("on_step may change what a pass does, after any step")
        with (
            on_interrupt(self._interrupted),
            tqdm(
                total=self.total_steps,
                initial=self.step,
                disable=not progress or self.shard.rank > 0,
                unit="step",
                delay=1,
                mininterval=0.2,
            ) as bar,
        ):
            for _ in self._steps():
                bar.update()
                checkpoint_due = bool(checkpoint_every) and self.step % checkpoint_every == 0
                if on_step is not None or checkpoint_due or self._row_due():
                    self._settle()
                if stop is not None and stop.is_set():
                    self.stop("stopped")
                if on_step is not None:
                    self._call_on_step(on_step)
                self.stopped = self.stopped or self.shard.agree_to_stop(self._asked, self.step)
                if self._row_due():
                    self._add_row(callbacks)
                    text = f"loss {self.history.rows[-1]['loss']:.4g}, {self.throughput:,.0f} images/s"
                    bar.set_postfix_str(text, refresh=False)  # shown when the bar is next drawn, not at every row
                if folder is not None and checkpoint_due:
                    checkpoint.save_run(self, folder)
        self._settle()
        if folder is not None:
            checkpoint.save_run(self, folder)  # before the row of a part, which a run that goes on will not have
        if self._sums:
            self._add_row(callbacks)
        self._put_together()

    def _steps(self) -> Iterator[None]:
        """Train step by step until the end or a stop; the clock runs inside a step only."""
        order, order_of = self._order(0), 0
        while self.step < self.total_steps and not self.stopped:
            begun = time.perf_counter()
            epoch, position = divmod(self.step, self.steps_per_epoch)
            if order_of != epoch:
                order, order_of = self._order(epoch), epoch
            picked = order[position * self.experiment.batch_size :][: self.experiment.batch_size]
            report = self._learn(self.shard.select(self._on_device, picked))
            for name, value in report.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self.step += 1
            self._images += len(picked)
            self.seconds += time.perf_counter() - begun
            yield

    def _settle(self) -> None:
        """Wait, on the clock, until a GPU has done what the steps so far have asked of it.

        Called before anybody looks at the run, as looking waits for the GPU too, and that must not look like no time.
        """
        if self.device.type in ("cuda", "mps"):
            begun = time.perf_counter()
            torch.accelerator.synchronize(self.device)
            self.seconds += time.perf_counter() - begun

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimizer, which finds the gradient, and can ask for it again, as line searches do."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

        def versions() -> list[tuple[int, bool]]:
            """What is the same for as long as the gradient, which the optimizer may clip, is that of these weights."""
            return [(parameter._version, parameter.grad is None) for parameter in parameters]

        self._set_schedules()
        with late_draws(self), self.own_generators(self.step):
            report = self._fill_grad(batch)
            filled = versions()

            def closure() -> Any:
                unchanged = versions() == filled
                return (report if unchanged else self._fill_grad(batch))["loss"]

            try:
                self.optimizer.step(closure)
            except RuntimeError as error:
                refuse_sparse(self.model, self.optimizer)
                if self.step == 0:
                    refuse_matrices_alone(self.experiment.optimizer, at(self.experiment.lr, 0.0), error)
                raise
        self.shard.after_step(self.step + 1)
        return report

    def _fill_grad(self, batch: Batch) -> dict[str, Tensor]:
        if self.captured is not None and len(batch) == self.experiment.batch_size:
            return self.captured(batch)
        return self.shard.fill_grad(batch, self.generator)

    def _set_schedules(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = at(self.experiment.lr, self.epoch)
            if self.experiment.momentum is not None:
                group["momentum"] = at(self.experiment.momentum, self.epoch)

    def _row_due(self) -> bool:
        every = self.experiment.row_every or self.steps_per_epoch
        return self.step % every == 0 or self.step % self.steps_per_epoch == 0

    def _weights(self, *, closely: bool) -> list[tuple[int, ...]]:
        """By which it is known whether a callback has changed weights, where it may not."""
        shard = self.shard
        watched = shard.world_size > 1 and shard.replicas == 1
        return state_of_weights(shard.model, closely=closely) if watched else []

    def _call_on_step(self, on_step: "Callable[[Run], object]") -> None:
        """ValueError if it changes weights of which this rank has a part: looked at closely ever more seldom."""
        if not self.shard.has_a_part:
            on_step(self)
            return
        closely = self.step.bit_count() == 1 or self._row_due()
        weights = self._weights(closely=closely)
        on_step(self)
        if self._weights(closely=closely) != weights:
            raise refusal(self.step)

    def _add_row(self, callbacks: Sequence[Callback]) -> None:
        step, seconds, images = self._row_start
        sums = self.shard.reduce_metrics(self._sums)
        means = {name: float(value) / (self.step - step) for name, value in sums.items()}
        rate = (self._images - images) / max(self.seconds - seconds, 1e-9)
        lr = float(self.optimizer.param_groups[0]["lr"])
        row: Row = {"step": self.step, "epoch": self.epoch, **means, "lr": lr, "images_per_second": rate}
        self.history.append(row)
        self._sums, self._row_start = {}, (self.step, self.seconds, self._images)
        for name, value in means.items():
            if value != value or abs(value) == float("inf"):
                mend = self.learner.why_not_finite(self.model, self.data, lr)
                raise FloatingPointError(f"{name} is {value} at step {self.step}: {mend}.")
        weights = self._weights(closely=True) if callbacks else []
        add_columns(row, callbacks, self)
        if callbacks:
            changed = self._weights(closely=True) != weights
            self.stopped = self.stopped or self.shard.agree_at_row(self._asked, changed, self.step)
            if self.captured is not None and not self.captured.agrees():
                self.end_replays("a callback has changed what a pass does")

    def _put_together(self) -> None:
        """The model whole again, where this process had a part of it, and on the CPU."""
        if not self.shard.model_is_whole:
            state = self.shard.model_state()
            self.model = self.experiment.initial_model()
            self.model.load_state_dict(state)
        self.shard.close()
        to_cpu(self)
