"""A cluster at work: its engines, the run that goes on, and buttons to stop it, to kill an engine and to recover."""

import contextlib
import tempfile
import threading
from html import escape
from typing import Any

import ipywidgets as widgets
import psutil

from dlkit.cluster import Cluster, ClusterError
from dlkit.cluster.split_run import SplitRun
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.experiment import Experiment
from dlkit.training.shard import Strategy
from dlkit.ui.controls.background import InBackground
from dlkit.ui.draw.charts import panels
from dlkit.ui.draw.engine_table import engine_table
from dlkit.ui.draw.pictures import text_html

REDRAW = 0.5  # seconds between two redraws
EVERY = 25  # steps between two checkpoints


class LiveCluster(InBackground[SplitRun | AsynchronousRun]):
    """The engines of `cluster`, and a run of `experiment`, split by `strategy`, that goes on in a thread.

    The table has each engine's load, in percent of its cores. Kill ends the chosen engine by SIGKILL. Recover starts
    lost engines again, or all of them if the cluster has been stopped; a run that was cut off then goes on from its
    last checkpoint. A run with servers, such as Downpour's, goes on by itself, and what became of whom is told below.
    `run` is the result and `error` the exception, at the end; `await live` gives the result. Calls and runs of other
    cells wait for their turn until then, and so does this widget's run for theirs. Running the cell again stops the
    run of the widget before.
    """

    START = "Run"
    STOPPING = "Stopping: the engines agree on a last step ..."
    BUSY = "the cluster is busy with a run or a recovery: stop() it, or wait() for it, first."

    def __init__(self, cluster: Cluster, experiment: Experiment, strategy: Strategy | WithServers):
        super().__init__("Run the experiment from the beginning", "Stop after a step that all engines took")
        self._become_current()
        self.cluster, self.experiment, self.strategy = cluster, experiment, strategy
        self.progress: list[dict[str, Any]] = []  # the run's reports of its progress, from its first step on
        self._processes: dict[int, psutil.Process] = {}  # by pid
        self._checkpoint: tempfile.TemporaryDirectory | None = None
        self._cut_off = False  # whether there is a run to go on with
        self._retired, self._drawing = threading.Event(), threading.Lock()
        self.kill_button = self._button("Kill", "bolt", "Kill the chosen engine (SIGKILL)", self._kill_chosen)
        self.recover_button = self._button("Recover", "medkit", "Start lost engines again, and go on", self.recover)
        self.engine = widgets.Dropdown(options=range(cluster.n), description="Engine", layout={"width": "160px"})
        self.engines, self.faults, self.chart = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._draw()
        self._watch()
        buttons = [self.start_button, self.stop_button, self.recover_button, self.engine, self.kill_button]
        self.children = [widgets.HBox(buttons), self.status, self.engines, self.faults, self.chart]

    def __repr__(self) -> str:
        return f"LiveCluster({self.cluster.n} engines, {self.strategy})"

    def start(self) -> None:
        """Run from the beginning, in a thread. RuntimeError while a run or a recovery goes on."""
        self._begin(self._train, "Sending the experiment to the engines ...")

    def recover(self) -> None:
        """Start lost engines again, in a thread, and go on with a run that was cut off. RuntimeError as for `start`."""
        self._begin(self._recover, "Recovering: a lost engine takes some seconds to start ...")

    def kill(self, rank: int) -> None:
        """Kill the engine of this rank, as a crash would."""
        row = self._rows()[rank]
        process = self._process(row["pid"])
        if process is None or row["state"] == "gone":
            self._say(f"Engine {rank} is not there: nothing to kill.")
            return
        process.kill()
        what_next = "Recover starts it again."
        if not self._idle.is_set() and isinstance(self.strategy, WithServers):
            what_next = "the run goes on, and it comes back in some seconds ..."
        elif not self._idle.is_set():
            what_next = "the others notice within a second or two ..."
        self._say(f"Engine {rank} (pid {process.pid}) is killed: {what_next}")

    def retire(self) -> None:
        """Stop the run, and redraw no more; returns when the cluster is free."""
        super().retire()
        self._retired.set()

    # In the thread, which alone uses the client.

    def _train(self, resume: bool = False) -> None:
        if not resume or self._checkpoint is None:
            self._checkpoint, self.run, self.progress = tempfile.TemporaryDirectory(prefix="dlkit-live-"), None, []
            self.faults.value = ""
        self._cut_off = True
        self.run = run = self.cluster.run(
            self.experiment,
            self.strategy,
            checkpoint=self._checkpoint.name,
            checkpoint_every=EVERY,
            resume=resume,
            stop=self._stop_requested,
            say=self._say,
            on_progress=self._on_progress,
            progress=False,
        )
        self._cut_off = False
        how = "Stopped" if run.stopped else "Finished"
        self._say(f"{how} at step {run.step:,}: {run.seconds:.1f} s of training, {run.throughput:,.0f} images/s.")

    def _recover(self) -> None:
        if self.cluster.running():
            self.cluster.recover()
        else:
            self.cluster.start()
        self._watch()
        if self._cut_off:
            self._say("Recovered: the run goes on from its last checkpoint ...")
            self._train(resume=True)
        else:
            self._say("All engines are ready: press Run.")

    def _on_progress(self, report: dict[str, Any]) -> None:
        """Keep the report. After a recovery, earlier reports of steps that are taken again are dropped."""
        faults = report.get("faults")
        self.faults.value = text_html("<br>".join(map(escape, faults))) if faults else ""
        if report["loss"] is not None:
            self.progress = [earlier for earlier in self.progress if earlier["at"] < report["at"]] + [report]
        if not self._stop_requested.is_set():
            rate = f", {report['rate']:,.0f} images/s" if report["rate"] else ""
            at = f"step {report['step']:,} of {report['total']:,}"
            self._say(f"Running on {self.cluster.n} engines: {at}{rate}.")

    def _explain(self, error: Exception) -> str:
        return f"{error} Or press Recover." if isinstance(error, ClusterError) else super()._explain(error)

    def _end(self) -> None:
        self._draw()
        self._watch()

    # The table and the chart.

    def _watch(self) -> None:
        """Redraw now and then, in a thread, while the cluster is up and this is the widget in use."""

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
            rows = self._rows()
            down = all(row["state"] == "not started" for row in rows)
            hint = "<p>No engine is up: press Recover to start them.</p>" if down and self._idle.is_set() else ""
            self.engines.value = engine_table(rows, [self._load(row) for row in rows], self._tasks()) + hint
            lines = {"loss": "loss", "images a second": "rate"}
            self.chart.value = panels(
                {title: [(report["at"], report[name]) for report in self.progress] for title, name in lines.items()},
                "step",
            )

    def _rows(self) -> list[dict[str, Any]]:
        try:
            return self.cluster.rows()
        except AttributeError:  # another thread stopped the cluster while its rows were read
            return self.cluster.rows()

    def _tasks(self) -> list[str]:
        """What each engine does, where they do not all do the same."""
        if not isinstance(self.strategy, WithServers):
            return []
        roles = self.strategy.roles(self.cluster.n)
        tasks = []
        for rank in range(self.cluster.n):
            does = [f"server {number}" for number in roles.servers_of(rank)]
            member = roles.member_of(rank)
            tasks.append(" and ".join(does + ([] if member is None else [f"replica {member}"])))
        return tasks

    def _load(self, row: dict[str, Any]) -> float:
        """Percent of the engine's cores that it has used since the last call."""
        process = self._process(row["pid"])
        with contextlib.suppress(psutil.Error):
            return process.cpu_percent() / row["threads"] if process else 0.0
        return 0.0

    def _process(self, pid: Any) -> psutil.Process | None:
        """The process, kept: psutil measures a load from call to call, and notices if the pid is another process's."""
        if pid and pid not in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._processes[pid] = psutil.Process(pid)
        return self._processes.get(pid)

    def _enable(self, busy: bool) -> None:
        super()._enable(busy)
        self.recover_button.disabled = busy

    def _kill_chosen(self) -> None:
        self.kill(self.engine.value)
