"""Strategies that train one after the other on the same engines, one of which is slowed: whose error falls first?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from dlkit.cluster import Cluster, slowed
from dlkit.cluster.split_run import SplitRun
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.experiment import Experiment
from dlkit.training.history import Row
from dlkit.training.shard import Strategy
from dlkit.ui.controls.background import InBackground
from dlkit.ui.controls.elements import FULL_LABEL, WRAP
from dlkit.ui.controls.named_sliders import NamedSliders
from dlkit.ui.draw.engine_table import table
from dlkit.ui.draw.overlay import overlay

Runs = dict[str, SplitRun | AsynchronousRun]
TIMES = (1, 2, 5, 10)  # as long as it takes else
COLUMNS = ("strategy", "one engine slowed", "seconds", "images/s", "at the end")


class Race(InBackground[Runs]):
    """Runs of `contestants`, (experiment, strategy) by name, on the engines of `cluster`, in a thread.

    score: of a net, such as its error on held-out images; at each row of a run's history it is drawn over the seconds
    of training so far, which do not hold the scoring. label: of the score, with its unit. The last engine can be made
    slow. `lines` are the scores of this race, `results` the table of all; `run` are the results by name. Strategies
    that have no whole net on each engine refuse to be slowed.
    ValueError for no contestants.
    """

    START = "Race"

    def __init__(
        self,
        cluster: Cluster,
        contestants: Mapping[str, tuple[Experiment, Strategy | WithServers]],
        score: Callable[[Any], float],
        label: str = "error on held-out images (%)",
    ):
        if not contestants:
            raise ValueError("nobody to race: give (experiment, strategy) by name.")
        super().__init__("Train all, one after the other", "Stop the one that trains")
        self._become_current()
        self.cluster, self.contestants, self.score, self.label = cluster, dict(contestants), score, label
        self.lines: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        self.results: list[list[str]] = []
        self.times = widgets.SelectionSlider(
            options=[(f"{times} times" if times > 1 else "not at all", times) for times in TIMES],
            description=f"Engine {cluster.n - 1} is slowed",
            style=FULL_LABEL,
            layout={"width": "380px"},
        )
        self.chart, self.table = widgets.HTML(), widgets.HTML()
        self._draw()
        controls = widgets.HBox([self.start_button, self.stop_button, self.times], layout=WRAP)
        self.children = [controls, self.status, self.chart, self.table, NamedSliders()]

    def __repr__(self) -> str:
        return f"Race({', '.join(self.contestants)})"

    def start(self) -> None:
        """Race, in a thread. RuntimeError while a race goes on."""
        self._begin(self._race, "Sending the experiment to the engines ...")

    # In the thread.

    def _race(self) -> None:
        times, runs = self.times.value, Runs()
        self.lines = {name: [] for name in self.contestants}
        for name, (experiment, strategy) in self.contestants.items():
            runs[name] = run = self._train(name, experiment, strategy, times)
            if self._stop_requested.is_set():
                break
            last = self.lines[name][-1][1]
            told = f"{times} times" if times > 1 else "no"
            self.results.append([name, told, f"{run.seconds:.1f}", f"{run.throughput:,.0f}", f"{last:.1f}"])
            self._draw()
        self.run = runs
        self._say("Stopped." if self._stop_requested.is_set() else "Finished: slow an engine, and race again.")

    def _train(self, name: str, experiment: Experiment, strategy: Any, times: int) -> SplitRun | AsynchronousRun:
        points = self.lines[name]
        points.append((0.0, float(self.score(experiment.initial_model()))))

        def on_progress(report: dict[str, Any]) -> None:
            row = report["row"]
            if row is not None and row["seconds"] > points[-1][0]:
                points.append(point(row))
                self._draw()
            self._say(f"{name}: batch {report['step']:,} of {report['total']:,} ...")

        if times > 1:
            learner = slowed(experiment.learner, times, rank=self.cluster.n - 1)
            experiment = replace(experiment, learner=learner)
        run = self.cluster.run(
            experiment,
            strategy,
            callbacks=[Scored(self.score)],
            progress=False,
            on_progress=on_progress,
            stop=self._stop_requested,
            say=self._say,
        )
        points[1:] = [point(row) for row in run.history.rows]
        self._draw()
        return run

    def _draw(self) -> None:
        self.chart.value = overlay(self.lines, "seconds of training", self.label)
        self.table.value = table(COLUMNS, self.results) if self.results else ""


class Scored:
    """A callback that adds the score of the net, and the seconds so far where a run's rows do not have them."""

    def __init__(self, score: Callable[[Any], float]):
        self.score = score

    def __repr__(self) -> str:
        return f"Scored({self.score})"

    def __call__(self, run: Any) -> dict[str, float]:
        own = {"seconds": run.seconds} if run.seconds else {}  # servers have a clock of their own
        return {"score": float(self.score(run.model))} | own


def point(row: Row) -> tuple[float, float]:
    return float(row["seconds"] or 0.0), float(row["score"] or 0.0)
