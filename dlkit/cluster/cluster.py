"""A cluster of ipyparallel engines on this machine, each pinned to its placement, all in one process group."""

from collections.abc import Callable
from html import escape
from typing import Any, ClassVar, overload

import ipyparallel.serialize
from IPython.core.getipython import get_ipython
from tqdm.auto import tqdm

from dlkit.cluster.asynchronous import run_asynchronously
from dlkit.cluster.engine_set import EngineSet
from dlkit.cluster.engines import ClusterError
from dlkit.cluster.gpus import used_by_others
from dlkit.cluster.placement import backend, placements, remarks
from dlkit.cluster.sandblaster import run_sandblaster
from dlkit.cluster.split_run import M, SplitRun, run_on_engines
from dlkit.core.text_table import as_html, as_text
from dlkit.distributed.process_group import leave_group
from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.strategies.sandblaster.sandblaster import Sandblaster
from dlkit.strategies.sandblaster.searching import SandblasterRun
from dlkit.training.experiment import Experiment
from dlkit.training.shard import Strategy

BUSY_TIMEOUT = 5.0  # seconds for an engine to come free when those that it may have waited for are gone
COLUMNS = ("rank", "host", "pid", "device", "cores", "threads", "backend", "state")


class Cluster:
    """`n` engines, each pinned to a GPU where there are any, else to CPU cores: `with Cluster(4) as cluster: ...`

    Or `start()` and `stop()`; a cell that is run again takes over the engines that are there. Shown, it is a table of
    the engines. `client` is ipyparallel's; in a notebook `%%px` runs a cell on every engine, where torch.distributed is
    ready. GPUs are those of the notebook: all, or those that CUDA_VISIBLE_DEVICES lists. What engines share, with each
    other or with other programs, is said.
    ValueError for no engines, ClusterError if a cluster of another size is running.
    """

    _latest: ClassVar["Cluster | None"] = None  # to have started

    def __init__(self, n: int):
        self.n = n
        self.plan = placements(n)
        self.backend = backend(self.plan)
        self._engines: EngineSet | None = None

    @property
    def remarks(self) -> list[str]:
        """A sentence for each thing that engines share: with each other, or, once they have started, with others."""
        facts = self._engines.facts if self._engines is not None else {}
        return remarks(self.plan) + used_by_others(self.plan, facts)

    def start(self) -> "Cluster":
        """Start the engines, or take over those of an earlier cluster of the same size; returns when all are ready."""
        latest = Cluster._latest
        if latest is not None and latest is not self and latest.running():
            if latest.n != self.n:
                remedy = f"`Cluster.stop_all()` ends it, and then {self.n} can start"
                raise ClusterError(f"a cluster of {latest.n} engines is up: {remedy}.")
            self._engines = latest._engines
        elif not self.running():
            self._start()
        Cluster._latest = self
        if get_ipython() is not None:
            self.client.activate()  # %%px, on all engines
        return self

    def _start(self) -> None:
        ipyparallel.serialize.use_cloudpickle()
        self._engines = engines = EngineSet(self.plan, self.backend)
        try:
            with progress_bar(f"{self.n} engines") as bar:
                for _ in engines.start():
                    bar.update()
        except BaseException:
            self.stop()
            raise
        for remark in self.remarks:
            print(remark)

    def stop(self) -> None:
        """End the engines and the controller, and delete the files that they used."""
        if self._engines is not None:
            self._engines.stop()
        self._engines = None

    @staticmethod
    def stop_all() -> None:
        """Stop the cluster that is running, if one is."""
        if Cluster._latest is not None:
            Cluster._latest.stop()

    def __enter__(self) -> "Cluster":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def running(self) -> bool:
        """Has it been started, and not been stopped since?"""
        return self._engines is not None and self._engines.client is not None

    @property
    def client(self) -> Any:
        """ipyparallel's. ClusterError if the cluster is not started."""
        return self._started_engines.client

    @property
    def _started_engines(self) -> EngineSet:
        """ClusterError if the cluster is not started."""
        if self._engines is None or self._engines.client is None:
            raise ClusterError("the cluster is not started: `cluster.start()`, or `with Cluster(n) as cluster:`.")
        return self._engines

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What the function returns on each engine, in the order of ranks; it may be defined in a notebook's cell.

        ClusterError if the cluster is not started, or if an engine has died or been stopped, before or meanwhile.
        TypeError if the function or an argument cannot be pickled. What the function raises on an engine is raised here
        too, from the lowest rank if it fails on several, with that engine's traceback as a note.
        """
        engines = self._started_engines
        with engines.turn():
            return engines.wait(engines.submit(function, *args, **kwargs))

    @overload
    def run(
        self, experiment: Experiment[M], strategy: Strategy, *, resume: bool = False, **settings: Any
    ) -> SplitRun[M]: ...
    @overload
    def run(
        self, experiment: Experiment[M], strategy: WithServers, *, resume: bool = False, **settings: Any
    ) -> AsynchronousRun[M]: ...
    @overload
    def run(
        self, experiment: Experiment[M], strategy: Sandblaster, *, resume: bool = False, **settings: Any
    ) -> SandblasterRun[M]: ...

    def run(
        self,
        experiment: Experiment[M],
        strategy: Strategy | WithServers | Sandblaster,
        *,
        resume: bool = False,
        **settings: Any,
    ) -> Any:
        """Run the experiment, split over the engines by the strategy. Ctrl-C (or ■) ends it after a step.

        settings: those of `Experiment.run`, and `links`, a Link to emulate. Callbacks are called on all ranks. While
        another thread's run or call goes on, this one waits for its turn, and says so.
        resume: go on from what is in `checkpoint`, and `recover` first if engines have died or been stopped.
        ClusterError, which names them, if that happens meanwhile; ValueError if the run cannot be split so.

        Strategies whose ranks take no common steps, such as Downpour and Sandblaster, take part of these settings;
        `steps` are batches of all replicas together, and callbacks are called in this process. Engines that die come
        back into their runs, which say so in `faults`; ClusterError if they cannot.
        """
        engines = self._started_engines
        with engines.turn(settings.get("stop"), settings.pop("say", print)):
            if resume:
                self.recover()
            if isinstance(strategy, Sandblaster):
                return run_sandblaster(engines, experiment, strategy, resume=resume, **settings)
            if isinstance(strategy, WithServers):
                return run_asynchronously(engines, experiment, strategy, resume=resume, **settings)
            return run_on_engines(engines, experiment, strategy, resume=resume, **settings)

    def check(self) -> None:
        """Raise ClusterError, which names them, if engines have died or been stopped."""
        self._started_engines.check()

    def regroup(self) -> None:
        """Make the process group anew, on all engines, as after a failure on one; waits for those still busy."""
        engines = self._started_engines
        with engines.turn():
            engines.regroup()

    def recover(self) -> "Cluster":
        """Start engines that have died, or been stopped, afresh in their places; the others keep what they hold.

        Then the process group is made anew. An engine that stays busy meanwhile is started afresh too, and so are all
        if the controller has died; a line says so. Where no engine is lost, and no message left over, nothing is done.
        """
        engines = self._started_engines
        with engines.turn():
            engines.path("")  # its folder is there again
            if engines.controller_state() == "stopped":
                engines.continue_controller()
            if engines.controller_state() == "gone":
                print("The controller has died: it and all engines are started afresh.")
                self._restart(engines)
            elif lost := engines.lost_ranks():
                self._replace(engines, lost)
            elif not engines.grouped:
                self._replace(engines, [])
            elif engines.may_have_leftovers():
                engines.regroup()
        return self

    def _restart(self, engines: EngineSet) -> None:
        engines.stop()
        with progress_bar(f"{self.n} engines") as bar:
            for _ in engines.start():
                bar.update()
        if get_ipython() is not None:
            self.client.activate()

    def _replace(self, engines: EngineSet, lost: list[int]) -> None:
        """Start the lost engines, and those that stay busy, afresh; then make the group anew."""
        with progress_bar(f"{len(lost)} of {self.n} engines afresh") as bar:
            engines.free()
            engines.kill(rank for rank in lost if engines.state(rank) != "starting")
            pending = engines.call_async((p.rank for p in self.plan if p.rank not in lost), leave_group)
            engines.client.wait(list(pending.values()), timeout=BUSY_TIMEOUT)
            if busy := [rank for rank, result in pending.items() if not result.ready()]:
                names = " and ".join(map(engines.describe, busy))
                print(f"{names} stayed busy for {BUSY_TIMEOUT:.0f} s: started afresh too.")
                engines.kill(busy)
            to_start = [placement for placement in self.plan if engines.state(placement.rank) in ("gone", "stopped")]
            if to_start:
                engines.launch(to_start)
            bar.update()
            for _ in engines.assemble():
                bar.update()

    def rows(self) -> list[dict[str, Any]]:
        """The table: for each rank a dict with COLUMNS as keys."""
        engines = self._engines if self.running() else None
        rows = []
        for placement in self.plan:
            facts = engines.facts.get(placement.rank, {}) if engines else {}
            values = (
                placement.rank,
                facts.get("host", ""),
                facts.get("pid", ""),
                f"{placement.device} {facts.get('gpu', '')}".strip(),
                ", ".join(map(str, placement.cores)) or "any",
                placement.threads,
                self.backend,
                engines.state(placement.rank) if engines else "not started",
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
        return rows

    def _cells(self) -> list[list[str]]:
        return [[str(value) for value in row.values()] for row in self.rows()]

    def __repr__(self) -> str:
        return "\n".join([as_text(COLUMNS, self._cells(), left=len(COLUMNS)), *self.remarks])

    def _repr_html_(self) -> str:
        return as_html(COLUMNS, self._cells()) + "".join(f"<p>{escape(remark)}</p>" for remark in self.remarks)


def progress_bar(what: str) -> Any:
    """A progress bar of three steps, shown only if they take more than two seconds."""
    return tqdm(total=3, desc=what, delay=2, bar_format="{desc}: {n} of {total} steps")
