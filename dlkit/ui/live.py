"""A cluster at work: who computes, how the run goes, and buttons to stop it, to kill an engine and to mend."""

import contextlib
import tempfile
import threading
from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

import ipywidgets as widgets
import psutil

from dlkit.cluster import Cluster, ClusterError
from dlkit.cluster.split_run import SplitRun
from dlkit.training.experiment import Experiment
from dlkit.training.shard import Strategy
from dlkit.ui.controls.background import InBackground
from dlkit.ui.draw.charts import panels
from dlkit.ui.draw.pictures import BLUE, VERMILION, caption_html

REDRAW = 0.5  # seconds between two redraws
EVERY = 25  # steps between two checkpoints
COLUMNS = ("rank", "pid", "device", "cores", "state", "load")


class LiveCluster(InBackground[SplitRun], widgets.VBox):
    """The engines of `cluster` and a run of `experiment`, split by `strategy`, while it goes on in a thread.

    Each engine's row has its load, in percent of its cores. Kill ends the chosen engine by SIGKILL; Recover starts lost
    engines afresh, all of them if the cluster has been stopped, and a run that was cut off goes on from its last
    checkpoint. `run` holds the SplitRun, `error` what went wrong; `await live` gives the SplitRun at the end. Until
    then no other cell may use the cluster: ipyparallel's client is for one thread at a time. The same cell run again
    stops the run of the one before.
    """

    START = "Run"
    shown: ClassVar["LiveCluster | None"] = None

    def __init__(self, cluster: Cluster, experiment: Experiment, strategy: Strategy):
        if LiveCluster.shown is not None:
            LiveCluster.shown.retire()
        LiveCluster.shown = self
        self.cluster, self.experiment, self.strategy = cluster, experiment, strategy
        self.run: SplitRun | None = None
        self.error: Exception | None = None
        self.told: list[dict[str, Any]] = []  # what the run said of itself, from its beginning on
        self._processes: dict[int, psutil.Process] = {}  # by pid
        self._kept: tempfile.TemporaryDirectory | None = None  # the run's checkpoint
        self._cut_off = False  # is there a run to go on with?
        self._halt, self._over, self._retired = threading.Event(), threading.Event(), threading.Event()
        self._over.set()
        self._drawing = threading.Lock()
        self.run_button = self._button("Run", "play", "Run the experiment from the beginning", self.start)
        self.stop_button = self._button("Stop", "stop", "Stop after a step that all engines took", self.stop)
        self.kill_button = self._button("Kill", "bolt", "Kill the chosen engine (SIGKILL)", self._kill_chosen)
        self.recover_button = self._button("Recover", "medkit", "Start lost engines afresh, and go on", self.mend)
        self.engine = widgets.Dropdown(options=range(cluster.n), description="Engine", layout={"width": "160px"})
        self.status, self.engines, self.chart = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._enable(busy=False)
        self._say("Ready: press Run.")
        self._draw()
        self._watch()
        buttons = [self.run_button, self.stop_button, self.recover_button, self.engine, self.kill_button]
        super().__init__([widgets.HBox(buttons), self.status, self.engines, self.chart])

    def __repr__(self) -> str:
        return f"LiveCluster({self.cluster.n} engines, {self.strategy})"

    def _button(self, name: str, icon: str, tooltip: str, action: Callable[[], object]) -> widgets.Button:
        button = widgets.Button(description=name, icon=icon, tooltip=tooltip, layout={"width": "90px"})
        button.on_click(lambda _: action())
        return button

    # For the notebook.

    def start(self) -> None:
        """Run from the beginning, in a thread. RuntimeError while a run or a mend goes on."""
        self._begin(self._train, "Sending the experiment to the engines ...")

    def stop(self) -> None:
        """End the run after a step that all engines have taken."""
        self._halt.set()
        if not self._over.is_set():
            self._say("Stopping: the engines agree on a last step ...")

    def kill(self, rank: int) -> None:
        """Kill the engine of this rank, as a crash would."""
        row = self._rows()[rank]
        process = self._process(row["pid"])
        if process is None or row["state"] == "gone":
            self._say(f"Engine {rank} is not there: nothing to kill.")
            return
        process.kill()
        end = "the others notice within a second or two ..." if not self._over.is_set() else "Recover starts it afresh."
        self._say(f"Engine {rank} (pid {process.pid}) is killed: {end}")

    def mend(self) -> None:
        """Start lost engines afresh, in a thread, and go on with a run that was cut off. RuntimeError as in `start`."""
        self._begin(self._mend, "Mending: a lost engine takes some seconds to start ...")

    def retire(self) -> None:
        """Stop the run, if one goes on, and redraw no more; returns when the cluster is free."""
        self._halt.set()
        self._over.wait()
        self._retired.set()

    # In the thread, which alone uses the client.

    def _begin(self, work: Callable[[], None], text: str) -> None:
        if not self._over.is_set():
            raise RuntimeError("the cluster is busy with a run or a mend: stop() it, or wait() for it, first.")
        self.error = None
        self._halt.clear()
        self._over.clear()
        self._enable(busy=True)
        self._say(text)
        threading.Thread(target=self._do, args=(work,), name="live-cluster", daemon=True).start()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ClusterError as error:
            self.error = error
            self._say(f"{error} Or press Recover.", amiss=True)
        except Exception as error:
            self.error = error
            self._say(f"Failed: {type(error).__name__}: {error}", amiss=True)
        finally:
            self._draw()
            self._watch()
            self._enable(busy=False)
            self._over.set()

    def _train(self, resume: bool = False) -> None:
        if not resume or self._kept is None:
            self._kept, self.run, self.told = tempfile.TemporaryDirectory(prefix="dlkit-live-"), None, []
        self._cut_off = True
        settings = {"checkpoint": self._kept.name, "checkpoint_every": EVERY, "resume": resume, "stop": self._halt}
        self.run = run = self.cluster.run(
            self.experiment, self.strategy, on_progress=self._hear, progress=False, **settings
        )
        self._cut_off = False
        how = "Stopped" if run.stopped else "Finished"
        self._say(f"{how} at step {run.step:,}: {run.seconds:.1f} s of training, {run.throughput:,.0f} images/s.")

    def _mend(self) -> None:
        if self.cluster.running():
            self.cluster.recover()
        else:
            self.cluster.start()
        self._watch()
        if self._cut_off:
            self._say("Mended: the run goes on from its last checkpoint ...")
            self._train(resume=True)
        else:
            self._say("All engines are ready: press Run.")

    def _hear(self, told: dict[str, Any]) -> None:
        """`on_progress` of the run: the rows after the checkpoint that it goes on from are taken back."""
        self.told = [each for each in self.told if each["step"] < told["step"]] + [told]
        if not self._halt.is_set():
            at = f"step {told['step']:,} of {told['total']:,}"
            self._say(f"Running on {self.cluster.n} engines: {at}, {told['rate']:,.0f} images/s.")

    # What is shown.

    def _watch(self) -> None:
        """Redraw now and then, from a thread, as long as the cluster is up and this is the one shown."""

        def redraw() -> None:
            while not self._retired.wait(REDRAW) and self.cluster.running():
                self._draw()
            self._draw()

        watcher = getattr(self, "_watcher", None)
        if watcher is None or not watcher.is_alive():
            self._watcher = threading.Thread(target=redraw, name="live-redraw", daemon=True)
            self._watcher.start()

    def _draw(self) -> None:
        with self._drawing:
            self.engines.value = self._table()
            lines = {"loss": "loss", "images a second": "rate"}
            self.chart.value = panels(
                {title: [(each["step"], each[name]) for each in self.told] for title, name in lines.items()}, "step"
            )

    def _rows(self) -> list[dict[str, Any]]:
        try:
            return self.cluster.rows()
        except AttributeError:  # it was stopped between two looks at it
            return self.cluster.rows()

    def _table(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        rows = self._rows()
        body = ""
        for row in rows:
            colour = "" if row["state"] == "ready" else f' style="color: {VERMILION}; font-weight: bold"'
            cells = "".join(f"<td>{escape(str(row[name]))}</td>" for name in COLUMNS[:4])
            load = bar(self._load(row))
            body += f"<tr>{cells}<td{colour}>{escape(row['state'])}</td><td>{load}</td></tr>"
        down = all(row["state"] == "not started" for row in rows)
        idle = self._over.is_set()
        hint = "<p>No engine is up: press Recover to start them.</p>" if down and idle else ""
        style = "border-collapse: separate; border-spacing: 14px 2px"
        return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{hint}'

    def _load(self, row: dict[str, Any]) -> float:
        """Percent of the engine's cores that it uses, since the last look."""
        process = self._process(row["pid"])
        with contextlib.suppress(psutil.Error):
            return process.cpu_percent() / row["threads"] if process else 0.0
        return 0.0

    def _process(self, pid: Any) -> psutil.Process | None:
        """Kept: psutil counts a load from one look to the next, and knows a later process of the same number."""
        if pid and pid not in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._processes[pid] = psutil.Process(pid)
        return self._processes.get(pid)

    def _enable(self, busy: bool) -> None:
        self.run_button.disabled = self.recover_button.disabled = busy
        self.stop_button.disabled = not busy

    def _kill_chosen(self) -> None:
        self.kill(self.engine.value)

    def _say(self, text: str, amiss: bool = False) -> None:
        words = escape(text)
        self.status.value = caption_html(f'<span style="color: {VERMILION}">{words}</span>' if amiss else words)


def bar(percent: float, width: int = 120) -> str:
    """A load as HTML: a bar of at most `width` pixels, and the number."""
    filled = round(min(max(percent, 0.0), 100.0) / 100 * width)
    return (
        f'<span style="display: inline-block; width: {width}px; height: 10px; border: 1px solid currentColor">'
        f'<span style="display: block; width: {filled}px; height: 10px; background: {BLUE}"></span></span> '
        f"{percent:.0f} %"
    )
