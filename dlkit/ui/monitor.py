"""A training that you can watch, stop and start again: it runs in a thread, the cell is free at once."""

import threading
import time
from collections.abc import Sequence
from html import escape
from typing import ClassVar

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.diagnostics import Health, examine
from dlkit.models.gibbs import gibbs, init_chains
from dlkit.models.rbm import RBM
from dlkit.training import Experiment, Run
from dlkit.training.run import Callback
from dlkit.ui.controls.background import InBackground
from dlkit.ui.draw.charts import panels
from dlkit.ui.draw.pictures import png, tile

REDRAW, LOOK = 0.2, 0.5  # least seconds between two redraws, and between two looks at the RBM's health
SHARE = 0.1  # of the time, that looks may take, and redraws: on a busy machine both come less often
IMAGES = 500  # training and validation images that a look takes
SHOWN, COLUMNS, GIBBS = 48, 8, 10  # filters, and fantasies; in a row; steps of a fantasy at each redraw
ZOOM = 2


class TrainingMonitor(InBackground[Run], widgets.VBox):
    """The filters, fantasies, curves and health of an RBM while `experiment` trains it.

    `validation` (images, height, width) are images that it does not learn from. The fantasies are the persistent
    chains of PCD, or else chains of the monitor's own, from noise, ten Gibbs steps a redraw. `run` holds the Run,
    `error` what went wrong; `await monitor` gives the Run at the end. One monitor trains at a time: to start another,
    or the same cell again, stops the one before.
    """

    training: ClassVar["TrainingMonitor | None"] = None

    def __init__(
        self,
        experiment: Experiment,
        validation: Float[Tensor, "images ..."],
        *,
        shape: tuple[int, int] = (28, 28),
        callbacks: Sequence[Callback] = (),
    ):
        self.experiment, self.validation, self.shape = experiment, validation[:IMAGES].flatten(1), shape
        self.callbacks = [*callbacks, self._on_row]
        self.run: Run | None = None
        self.health: Health | None = None
        self.error: Exception | None = None
        self._halt, self._over = threading.Event(), threading.Event()
        self._over.set()
        self.start_button = widgets.Button(description="Start", icon="play", tooltip="Train from the beginning")
        self.stop_button = widgets.Button(description="Stop", icon="stop", tooltip="Stop, and keep what is learnt")
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.stop_button.disabled = True
        self.progress = widgets.FloatProgress(max=1.0, layout={"width": "300px"})
        self.status = widgets.HTML()
        self.filters = widgets.Image(format="png")
        self.particles = widgets.Image(format="png")
        self.filters_caption, self.particles_caption = widgets.HTML(), widgets.HTML()
        self.chart, self.numbers = widgets.HTML(), widgets.HTML()
        self._clear()
        self._say("Ready: press Start.")
        super().__init__(
            [
                widgets.HBox([self.start_button, self.stop_button, self.progress]),
                self.status,
                widgets.HBox(
                    [
                        widgets.VBox([self.filters_caption, self.filters]),
                        widgets.VBox([self.particles_caption, self.particles]),
                    ],
                    layout={"flex_flow": "row wrap"},
                ),
                self.chart,
                self.numbers,
            ]
        )

    def __repr__(self) -> str:
        return f"TrainingMonitor({type(self.experiment.learner).__name__})"

    # For the notebook.

    def start(self) -> None:
        """Train from the beginning, in a thread; whatever monitor is training is stopped first."""
        before = TrainingMonitor.training
        if before is not None:
            before._halt.set()
            before._over.wait()
        TrainingMonitor.training = self
        self.run = self.health = self.error = None
        self._halt, self._over = threading.Event(), threading.Event()
        self._clear()
        self.start_button.disabled, self.stop_button.disabled = True, False
        self._say("Getting ready ...")
        threading.Thread(target=self._train, name="training", daemon=True).start()

    def stop(self) -> None:
        """End the training after the step that it is at."""
        self._halt.set()
        if not self._over.is_set():
            self._say("Stopping ...")

    # In the thread.

    def _train(self) -> None:
        self._generator = torch.Generator().manual_seed(self.experiment.seed)
        self._chains: Tensor | None = None
        self._next_draw = self._next_look = 0.0
        try:
            run = self.experiment.run(stop=self._halt, progress=False, callbacks=self.callbacks)
            self._look(run)
            self._draw(run)
            self.run = run
            how = "Stopped" if run.stopped else "Finished"
            self._say(
                f"{how} at step {run.step:,} of {run.total_steps:,}: {run.seconds:.1f} s of training, {_rate(run)}."
            )
        except Exception as error:
            self.error = error
            self.progress.bar_style = "danger"
            self._say(f"Failed: {type(error).__name__}: {error}")
        finally:
            self.start_button.disabled, self.stop_button.disabled = False, True
            self._over.set()

    def _on_row(self, run: Run) -> dict[str, float] | None:
        """A callback of the run: draw if it is time to; the columns of a look, if it took one."""
        began = time.monotonic()
        if began < self._next_draw:
            return None
        columns = None
        if began >= self._next_look:
            columns = self._look(run)
            self._next_look = _next(began, LOOK)
        drawing = time.monotonic()
        self._draw(run)
        halting = "Stopping" if self._halt.is_set() else "Training"
        self._say(f"{halting}: {_place(run)}, {_rate(run)}.")
        self._next_draw = _next(drawing, REDRAW)
        return columns

    def _look(self, run: Run) -> dict[str, float]:
        rbm = self._rbm(run)
        device = rbm.W.device
        train = run.data.images[:IMAGES].flatten(1)
        self.health = health = examine(rbm, train.to(device), self.validation.to(device), run.optimizer)
        columns = {"free_energy_gap": health.free_energy_gap, "reconstruction": health.reconstruction}
        if health.pseudo_log_likelihood is not None:
            columns["pseudo_log_likelihood"] = health.pseudo_log_likelihood
        return columns

    def _rbm(self, run: Run) -> RBM:
        if not isinstance(run.model, RBM):
            raise TypeError(f"TrainingMonitor is for an RBM, and this experiment trains a {type(run.model).__name__}.")
        return run.model

    def _draw(self, run: Run) -> None:
        rbm = self._rbm(run)
        self.progress.value = run.step / run.total_steps
        self.filters.value = self._png(rbm.W.detach().T[:SHOWN], symmetric=True)
        self.particles.value = self._png(self._fantasies(run, rbm))
        kind = "PCD's persistent chains" if "chains" in run.learner.state else "chains of their own, from noise"
        shown = min(SHOWN, rbm.hidden)
        self.filters_caption.value = f"Filters of {shown} of {rbm.hidden} hidden units (grey: weight 0)"
        self.particles_caption.value = f"Fantasies ({kind})"
        self.chart.value = panels(_curves(run), "epoch")
        if self.health is not None:
            self.numbers.value = _words(self.health)

    @torch.no_grad()
    def _fantasies(self, run: Run, rbm: RBM) -> Tensor:
        """The mean of each chain's visible units, from a sample of its hidden units."""
        persistent = run.learner.state.get("chains")
        if persistent is not None:
            return gibbs(rbm, persistent[:SHOWN], steps=1, generator=self._generator)[1]
        if self._chains is None:
            self._chains = init_chains(rbm, SHOWN, self._generator)
        self._chains, mean = gibbs(rbm, self._chains, steps=GIBBS, generator=self._generator)
        return mean

    # What is shown.

    def _png(self, rows: Tensor, symmetric: bool = False) -> bytes:
        return png(tile(rows.view(-1, *self.shape), COLUMNS, symmetric=symmetric), ZOOM)

    def _clear(self) -> None:
        self.progress.value, self.progress.bar_style = 0.0, ""
        blank = self._png(torch.full((SHOWN, self.shape[0] * self.shape[1]), 0.5))
        self.filters.value = self.particles.value = blank
        self.filters_caption.value, self.particles_caption.value = "Filters", "Fantasies"
        self.chart.value = self.numbers.value = ""

    def _say(self, text: str) -> None:
        self.status.value = f'<div role="status">{escape(text)}</div>'


def _words(health: Health) -> str:
    """The verdict, and the numbers in as little space as they need."""
    numbers = "; ".join(f"{name} {value}" for name, value in health.rows())
    return f'<div style="line-height: 1.5"><b>{escape(health.verdict)}</b><br>{escape(numbers)}</div>'


def _next(began: float, least: float) -> float:
    """When to do again what began then and ends now."""
    end = time.monotonic()
    return end + max(least, (end - began) / SHARE)


def _place(run: Run) -> str:
    return f"step {run.step:,} of {run.total_steps:,} (epoch {run.epoch:.2f})"


def _rate(run: Run) -> str:
    return f"{run.throughput:,.0f} images/s"


def _curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """The history's columns as lines over epochs; rows between two looks have only the loss."""
    titles = {
        "loss": "loss",
        "pseudo_log_likelihood": "pseudo-log-lik. (nats)",
        "free_energy_gap": "free-energy gap (nats)",
    }
    return {
        title: [
            (float(x), float(y))
            for x, y in zip(run.history["epoch"], run.history[name], strict=True)
            if x is not None and y is not None
        ]
        for name, title in titles.items()
        if name in run.history
    }
