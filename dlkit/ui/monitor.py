"""Train an RBM in a thread, and watch it: its filters, fantasies, curves and health."""

import time
from collections.abc import Sequence
from html import escape

import ipywidgets as widgets
import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.diagnostics import Health, examine
from dlkit.models.gibbs_chains import gibbs, init_chains
from dlkit.models.rbm import RBM
from dlkit.training import Experiment, Run
from dlkit.training.run import Callback
from dlkit.ui.controls.background import InBackground
from dlkit.ui.controls.elements import WRAP
from dlkit.ui.draw.charts import panels
from dlkit.ui.draw.pictures import png, text_html, tile

REDRAW, EXAMINE = 0.2, 0.5  # seconds, at least, between two redraws, and between two examinations of the RBM's health
SHARE = 0.1  # of the time, at most, for redraws, and for examinations: on a busy machine both come less often
IMAGES = 500  # training images, and validation images, for an examination
SHOWN, COLUMNS = 48, 8  # filters, and fantasies; in a row
GIBBS_STEPS = 10  # of a fantasy between two redraws
ZOOM = 2  # pixels of the page for a pixel of a picture


class TrainingMonitor(InBackground[Run]):
    """The filters, fantasies, curves and health of an RBM while `experiment` trains it in a thread.

    `validation` (images, height, width) are images that it does not learn from. The fantasies are the persistent
    chains of PCD; for other learners they are chains of the monitor, which start from noise and take ten Gibbs steps
    between two redraws. `run` is the Run and `error` the exception, at the end; `await monitor` gives the Run. One
    monitor trains at a time: starting another one, or running the cell again, stops the one before.
    """

    def __init__(
        self,
        experiment: Experiment,
        validation: Float[Tensor, "images ..."],
        *,
        shape: tuple[int, int] = (28, 28),
        callbacks: Sequence[Callback] = (),
    ):
        super().__init__("Train from the beginning", "Stop, and keep what is learnt")
        self.experiment, self.validation, self.shape = experiment, validation[:IMAGES].flatten(1), shape
        self.callbacks = [*callbacks, self._on_row]
        self.health: Health | None = None
        self.progress = widgets.FloatProgress(max=1.0, layout={"width": "300px"})
        self.filters = widgets.Image(format="png")
        self.particles = widgets.Image(format="png")
        self.filters_caption, self.particles_caption = widgets.HTML(), widgets.HTML()
        self.chart, self.numbers = widgets.HTML(), widgets.HTML()
        self._clear()
        pictures = [
            widgets.VBox([self.filters_caption, self.filters]),
            widgets.VBox([self.particles_caption, self.particles]),
        ]
        self.children = [
            widgets.HBox([self.start_button, self.stop_button, self.progress]),
            self.status,
            widgets.HBox(pictures, layout=WRAP),
            self.chart,
            self.numbers,
        ]

    def __repr__(self) -> str:
        return f"TrainingMonitor({type(self.experiment.learner).__name__})"

    def start(self) -> None:
        """Train from the beginning, in a thread; the monitor that is training is stopped first."""
        self._become_current()
        self.run = self.health = None
        self._clear()
        self._begin(self._train, "Getting ready ...")

    # In the thread.

    def _train(self) -> None:
        self._generator = torch.Generator().manual_seed(self.experiment.seed)
        self._chains: Tensor | None = None
        self._next_redraw = self._next_examination = 0.0
        run = self.experiment.run(stop=self._stop_requested, progress=False, callbacks=self.callbacks)
        self._examine(run)
        self._draw(run)
        self.run = run
        how = "Stopped" if run.stopped else "Finished"
        self._say(f"{how} at step {run.step:,} of {run.total_steps:,}: {run.seconds:.1f} s of training, {_rate(run)}.")

    def _end(self) -> None:
        if self.error is not None:
            self.progress.bar_style = "danger"

    def _on_row(self, run: Run) -> dict[str, float] | None:
        """A callback of the run: redraws if it is time to; returns the columns of an examination, if it made one."""
        began = time.monotonic()
        if began < self._next_redraw:
            return None
        columns = None
        if began >= self._next_examination:
            columns = self._examine(run)
            self._next_examination = _next(began, EXAMINE)
        drawing = time.monotonic()
        self._draw(run)
        doing = "Stopping" if self._stop_requested.is_set() else "Training"
        self._say(f"{doing}: step {run.step:,} of {run.total_steps:,} (epoch {run.epoch:.2f}), {_rate(run)}.")
        self._next_redraw = _next(drawing, REDRAW)
        return columns

    def _examine(self, run: Run) -> dict[str, float]:
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
            self.numbers.value = _health_html(self.health)

    @torch.no_grad()
    def _fantasies(self, run: Run, rbm: RBM) -> Tensor:
        """The mean of each chain's visible units, from a sample of its hidden units."""
        persistent = run.learner.state.get("chains")
        if persistent is not None:
            return gibbs(rbm, persistent[:SHOWN], steps=1, generator=self._generator)[1]
        if self._chains is None:
            self._chains = init_chains(rbm, SHOWN, self._generator)
        self._chains, mean = gibbs(rbm, self._chains, steps=GIBBS_STEPS, generator=self._generator)
        return mean

    # The pictures.

    def _png(self, rows: Tensor, symmetric: bool = False) -> bytes:
        return png(tile(rows.view(-1, *self.shape), COLUMNS, symmetric=symmetric), ZOOM)

    def _clear(self) -> None:
        self.progress.value, self.progress.bar_style = 0.0, ""
        blank = self._png(torch.full((SHOWN, self.shape[0] * self.shape[1]), 0.5))
        self.filters.value = self.particles.value = blank
        self.filters_caption.value, self.particles_caption.value = "Filters", "Fantasies"
        self.chart.value = self.numbers.value = ""


def _health_html(health: Health) -> str:
    """The verdict, and below it the numbers on a line."""
    numbers = "; ".join(f"{name} {value}" for name, value in health.rows())
    return text_html(f"<b>{escape(health.verdict)}</b><br>{escape(numbers)}")


def _next(began: float, least: float) -> float:
    """When to do it again: it began at `began` and ends now; between two of them are at least `least` seconds."""
    end = time.monotonic()
    return end + max(least, (end - began) / SHARE)


def _rate(run: Run) -> str:
    return f"{run.throughput:,.0f} images/s"


def _curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """The history's columns as lines over epochs; rows between two examinations have only the loss."""
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
