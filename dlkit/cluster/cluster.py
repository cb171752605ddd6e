"""A cluster of ipyparallel engines on this machine, each at a place of its own, with the process group ready."""

import tempfile
from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

import ipyparallel.serialize
from IPython.core.getipython import get_ipython
from tqdm.auto import tqdm

from dlkit.cluster import worker
from dlkit.cluster.engine_set import ClusterError, EngineSet
from dlkit.cluster.launchers import Local
from dlkit.cluster.placement import backend, gpus_here, placements, remarks
from dlkit.cluster.split_run import M, SplitRun, run_on
from dlkit.training.experiment import Experiment
from dlkit.training.shard import Strategy

FREE = 5.0  # seconds for an engine to come free when those that it may have waited for are gone
COLUMNS = ("rank", "host", "pid", "device", "cores", "threads", "backend", "state")


class Cluster:
    """`n` engines, pinned: to a GPU each where there are any, else to CPU cores. `with Cluster(4) as cluster: ...`

    Or `start()` and `stop()`; a cell that is run again takes up the engines that are there. Shown, it is a table of who
    sits where. `client` is ipyparallel's; in a notebook `%%px` runs a cell on every engine, where torch.distributed is
    ready. ValueError for no engines, ClusterError if a cluster of another size is up.
    """

    _up: ClassVar["Cluster | None"] = None

    def __init__(self, n: int):
        self.n, self.gpus = n, gpus_here()
        self.plan = placements(n, self.gpus)
        self.backend = backend(n, self.gpus)
        self.remarks = remarks(self.plan, self.gpus)
        self._running: EngineSet | None = None

    def start(self) -> "Cluster":
        """Start the engines, or take up those of an earlier cluster of the same size; returns when all are ready."""
        up = Cluster._up
        if up is not None and up is not self and up.running():
            if up.n != self.n:
                mend = f"`Cluster.stop_all()` ends it, and then {self.n} can start"
                raise ClusterError(f"a cluster of {up.n} engines is up: {mend}.")
            self._running = up._running
        elif not self.running():
            self._start()
        Cluster._up = self
        if get_ipython() is not None:
            self.client.activate()  # %%px, on all engines
        return self

    def _start(self) -> None:
        folder = tempfile.mkdtemp(prefix="dlkit-cluster-")
        ipyparallel.serialize.use_cloudpickle()
        cluster = Local(self.plan, folder)
        self._running = running = EngineSet(self.plan, self.backend, folder, cluster)
        try:
            with progress_bar(f"{self.n} engines") as bar:
                cluster.start_cluster_sync()
                bar.update()
                running.client = cluster.connect_client_sync()
                for _ in running.assemble():
                    bar.update()
        except BaseException:
            self.stop()
            raise
        for remark in self.remarks:
            print(remark)

    def stop(self) -> None:
        """End the engines and the controller; what they kept on disk goes too."""
        if self._running is not None:
            self._running.stop()
        self._running = None

    @staticmethod
    def stop_all() -> None:
        """Stop the cluster that is up, if one is."""
        if Cluster._up is not None:
            Cluster._up.stop()

    def __enter__(self) -> "Cluster":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def running(self) -> bool:
        return self._running is not None and self._running.client is not None

    @property
    def client(self) -> Any:
        """ipyparallel's. ClusterError if the cluster is not started."""
        return self._there.client

    @property
    def _there(self) -> EngineSet:
        if self._running is None or self._running.client is None:
            raise ClusterError("the cluster is not started: `cluster.start()`, or `with Cluster(n) as cluster:`.")
        return self._running

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What the function gives on each engine, in the order of ranks; functions of a notebook's cells travel too.

        ClusterError if the cluster is not started, or if an engine has died or been stopped, before or meanwhile.
        TypeError if the function or an argument cannot travel. What the function raises on an engine is raised here
        too, from the lowest rank if it fails on several, with that engine's traceback as a note.
        """
        return self._there.wait(self._there.ask(function, *args, **kwargs))

    def run(
        self, experiment: Experiment[M], strategy: Strategy, *, resume: bool = False, **settings: Any
    ) -> SplitRun[M]:
        """The experiment, split over the engines by the strategy; Ctrl-C (or ■) ends it after a step that all took.

        settings: those of `Experiment.run`, and `links`, an interconnect to emulate. Callbacks are called on all ranks.
        `resume` goes on from what is in `checkpoint`, and mends the cluster first if engines have died or been stopped.
        ClusterError, with who it is, if that happens meanwhile; ValueError if the run cannot be split so.
        """
        if resume:
            self.recover()
        return run_on(self._there, experiment, strategy, resume=resume, **settings)

    def check(self) -> None:
        """Raise ClusterError, with who they are, if engines have died or been stopped."""
        self._there.check()

    def regroup(self) -> None:
        """Make the process group anew, on all engines, as after a failure on one; waits for those still busy."""
        self._there.regroup()

    def recover(self) -> "Cluster":
        """Start engines that have died, or been stopped, afresh in their places; the others keep what they hold.

        Then the process group is made anew. An engine that stays busy even so is started afresh too, and it is said.
        Where nothing is amiss, nothing is done.
        """
        running = self._there
        lost = running.lost_ranks()
        if running.grouped and not lost:
            return self
        running.grouped = False
        with progress_bar(f"{len(lost)} of {self.n} engines afresh") as bar:
            running.kill(rank for rank in lost if running.state(rank) != "starting")
            told = running.tell((place.rank for place in self.plan if place.rank not in lost), worker.leave_group)
            running.client.wait(list(told.values()), timeout=FREE)
            if busy := [rank for rank, one in told.items() if not one.ready()]:
                print(f"{' and '.join(map(running.describe, busy))} stayed busy for {FREE:.0f} s: started afresh too.")
                running.kill(busy)
            afresh = [place for place in self.plan if running.state(place.rank) in ("gone", "stopped")]
            if afresh:
                running.launch(afresh)
            bar.update()
            for _ in running.assemble():
                bar.update()
        return self

    def rows(self) -> list[dict[str, Any]]:
        """The table: a row a rank."""
        running = self._running if self.running() else None
        found = []
        for place in self.plan:
            facts = running.facts.get(place.rank, {}) if running else {}
            values = (
                place.rank,
                facts.get("host", ""),
                facts.get("pid", ""),
                f"{place.device} {facts.get('gpu', '')}".strip(),
                ", ".join(map(str, place.cores)) or "any",
                place.threads,
                self.backend,
                running.state(place.rank) if running else "not started",
            )
            found.append(dict(zip(COLUMNS, values, strict=True)))
        return found

    def __repr__(self) -> str:
        table = [COLUMNS, *(tuple(str(row[name]) for name in COLUMNS) for row in self.rows())]
        wide = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, wide, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, *self.remarks])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(str(row[name]))}</td>' for name in COLUMNS)}</tr>" for row in self.rows()
        )
        said = "".join(f"<p>{escape(remark)}</p>" for remark in self.remarks)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{said}"


def progress_bar(what: str) -> Any:
    """A progress bar of three steps, for what takes more than two seconds."""
    return tqdm(total=3, desc=what, delay=2, bar_format="{desc}: {n} of {total} steps")
