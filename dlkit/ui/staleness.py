"""Workers that nobody has, in simulated time: how stale do their gradients get, and who can bear it?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.strategies.asynchronous.downpour import Downpour
from dlkit.strategies.asynchronous.rules import Rule
from dlkit.strategies.asynchronous.virtual import train_virtually
from dlkit.training.experiment import Experiment
from dlkit.ui.controls.background import InBackground
from dlkit.ui.controls.elements import FULL_LABEL, WRAP, WRAP_TOP
from dlkit.ui.controls.named_sliders import NamedSliders
from dlkit.ui.draw.overlay import columns, overlay

WORKERS = (1, 2, 5, 10, 15, 20, 30, 40)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
KEPT = 6  # runs that are drawn


class StalenessExplorer(InBackground[AsynchronousRun]):
    """Downpour of `experiment` by so many simulated workers, in a thread: the loss and how stale the gradients were.

    rules: what servers do with a gradient, by name, each with the learning rate that is set when it is chosen. score:
    of the net at the end, said as `label`. The last runs stay in the picture. `run` is the AsynchronousRun.
    ValueError for no rules.
    """

    def __init__(
        self,
        experiment: Experiment,
        rules: Mapping[str, tuple[Callable[[], Rule], float]],
        score: Callable[[Any], float],
        label: str = "error on held-out images (%)",
    ):
        if not rules:
            raise ValueError("no rules: give (rule, learning rate) by name, such as {'SGD': (Plain, 0.1)}.")
        super().__init__("Train from the beginning", "Stop, and keep what is learnt")
        self._become_current()
        self.experiment, self.rules, self.score, self.label = experiment, dict(rules), score, label
        self.losses: dict[str, list[tuple[float, float]]] = {}  # of the last runs, by their names
        layout = {"width": "300px"}
        self.workers = widgets.SelectionSlider(
            options=WORKERS, value=10, description="Workers", style=FULL_LABEL, layout=layout
        )
        self.rate = widgets.SelectionSlider(
            options=sorted({*RATES, *(rate for _, rate in rules.values())}),
            description="Learning rate",
            style=FULL_LABEL,
            layout=layout,
        )
        self.rule = widgets.ToggleButtons(options=list(rules), style={"button_width": "150px"})
        self.rule.observe(self._choose, "value")
        self._choose()
        self.chart, self.histogram = widgets.HTML(), widgets.HTML()
        self._draw([])
        self.children = [
            widgets.HBox([widgets.Label("Server's rule"), self.rule], layout=WRAP),
            widgets.HBox([self.workers, self.rate, self.start_button, self.stop_button], layout=WRAP),
            self.status,
            widgets.HBox([self.chart, self.histogram], layout=WRAP_TOP),
            NamedSliders(),
        ]

    def __repr__(self) -> str:
        return f"StalenessExplorer({', '.join(self.rules)})"

    def start(self) -> None:
        """Train, in a thread. RuntimeError while a training goes on."""
        self._begin(self._train, "Training ...")

    def _choose(self, change: object = None) -> None:
        self.rate.value = self.rules[self.rule.value][1]

    # In the thread.

    def _train(self) -> None:
        workers, rate, rule = self.workers.value, self.rate.value, self.rule.value
        name = f"{rule}, {workers} worker{'s' * (workers > 1)}, rate {rate:g}"
        self.losses.pop(name, None)
        self.losses = dict([*self.losses.items()][1 - KEPT :]) | {name: []}
        points = self.losses[name]

        def on_row(run: AsynchronousRun) -> None:
            row = run.history.rows[-1]
            points.append((float(row["step"] or 0), float(row["loss"] or 0.0)))
            self._draw(_shares(run))
            self._say(f"{name}: {run.step:,} batches, mean staleness {run.mean_staleness:.1f} ...")

        made, _ = self.rules[rule]
        strategy = Downpour(rule=made, overlap=False)
        described = replace(self.experiment, lr=rate)
        self.run = run = train_virtually(described, strategy, workers, callbacks=[on_row], stop=self._stop_requested)
        self._draw(_shares(run))
        how = f"Stopped ({run.stopped})" if run.stopped else "Finished"
        self._say(
            f"{how}. {name}: mean staleness {run.mean_staleness:.2f}; {self.label} {float(self.score(run.model)):.1f}."
        )

    def _draw(self, shares: list[float]) -> None:
        most = max((points[0][1] for points in self.losses.values() if points), default=1.0)
        shown = {name: [(x, min(y, 2 * most)) for x, y in points] for name, points in self.losses.items()}
        self.chart.value = overlay(shown, "batches of all workers together", "loss")
        self.histogram.value = columns(shares, "staleness (updates)", "pushes (%)")


def _shares(run: AsynchronousRun) -> list[float]:
    """Percent of the pushes that were 0, 1, 2, ... stale."""
    total = run.staleness.total()
    return [100 * run.staleness[age] / total for age in range(max(run.staleness, default=-1) + 1)]
