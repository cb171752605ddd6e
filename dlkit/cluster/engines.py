"""A cluster of ipyparallel engines on this machine, each at a place of its own, with the process group ready."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any, ClassVar

import ipyparallel
from ipyparallel.cluster.launcher import LocalEngineLauncher, LocalEngineSetLauncher
from IPython.core.getipython import get_ipython
from tqdm.auto import tqdm

from dlkit.cluster import worker
from dlkit.cluster.places import Place, backend, gpus_here, places, remarks

STARTING, GROUP = 60.0, 60.0  # seconds: for engines to answer, and for ranks to wait for each other
LOOK = 0.5  # seconds between two looks whether the engines that compute are still there
COLUMNS = ("rank", "host", "pid", "device", "cores", "threads", "backend", "state")


class Engine(LocalEngineLauncher):
    """Starts rank r as engine r, in the environment of its place: ipyparallel gives all engines the same one."""

    plan: ClassVar[list[Place]] = []
    shared: ClassVar[dict[str, str]] = {}

    def start(self) -> Any:
        place, cluster = Engine.plan[int(self.identifier)], self.parent.parent  # type: ignore[union-attr]
        controller = {"DLKIT_CONTROLLER": worker.mark(cluster.controller.process.pid)}
        self.environment = {**self.environment, **Engine.shared, **controller, **place.environment()}
        wake = "--IPEngine.startup_command=from dlkit.cluster import worker; worker.wake()"
        self.engine_args = [*self.engine_args, f"--IPEngine.id={place.rank}", wake]
        return super().start()


class Engines(LocalEngineSetLauncher):
    launcher_class = Engine


@dataclass
class Running:
    """What is up: shared by all that took up the same engines, so that all know when it has ended."""

    cluster: Any
    folder: str
    client: Any = None
    facts: list[dict[str, Any]] = field(default_factory=list)

    def stop(self) -> None:
        client, cluster, self.client, self.cluster = self.client, self.cluster, None, None
        if client is not None:
            client.close()
        if cluster is not None:
            cluster.stop_cluster_sync()
        shutil.rmtree(self.folder, ignore_errors=True)


class ClusterError(RuntimeError):
    """The engines are not as they should be; the message names them and the mend."""


class Cluster:
    """`n` engines, pinned: to a GPU each where there are any, else to CPU cores. `with Cluster(4) as cluster: ...`

    Or `start()` and `stop()`; a cell that is run again takes up the engines that are there. Shown, it is a table of who
    sits where. `client` is ipyparallel's; in a notebook `%%px` runs a cell on every engine, where torch.distributed is
    ready. ValueError for no engines, ClusterError if a cluster of another size is up.
    """

    _up: ClassVar["Cluster | None"] = None

    def __init__(self, n: int):
        self.n, self.gpus = n, gpus_here()
        self.plan = places(n, self.gpus)
        self.backend = backend(n, self.gpus)
        self.remarks = remarks(self.plan, self.gpus)
        self._running: Running | None = None

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
        Engine.plan = self.plan
        Engine.shared = {"DLKIT_OWNER": worker.mark(os.getpid()), "DLKIT_FOLDER": folder}
        cluster = ipyparallel.Cluster(
            n=self.n,
            controller_ip="127.0.0.1",
            load_profile=False,
            profile_dir=folder,
            engine_launcher_class=Engines,
            delay=0.0,
            log_level=logging.CRITICAL,
        )
        self._running = running = Running(cluster, folder)
        try:
            with tqdm(total=3, desc=f"{self.n} engines", delay=2, bar_format="{desc}: {n} of {total} steps") as bar:
                cluster.start_cluster_sync()
                bar.update()
                running.client = client = cluster.connect_client_sync()
                client.wait_for_engines(self.n, timeout=STARTING, interactive=False)
                bar.update()
                client[:].use_cloudpickle()
                each = [(folder, rank, self.n, self.backend, GROUP) for rank in range(self.n)]
                client[:].map_async(worker.join, *zip(*each, strict=True)).get(timeout=GROUP)
                running.facts = self.call(worker.facts)
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
        if self._running is None or self._running.client is None:
            raise ClusterError("the cluster is not started: `cluster.start()`, or `with Cluster(n) as cluster:`.")
        return self._running.client

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What the function gives on each engine, in the order of ranks; functions of a notebook's cells travel too.

        ClusterError if the cluster is not started, or if an engine has died, before or meanwhile.
        """
        self.check()
        asked = self.client[:].apply_async(function, *args, **kwargs)
        while not asked.ready():
            asked.wait(LOOK)
            if self.gone():
                self.check()
        return asked.get()

    def gone(self) -> list[Place]:
        """The places of engines that have died."""
        return [place for place in self.plan if place.rank not in self.client.ids]

    def check(self) -> None:
        """Raise ClusterError, with who they are, if engines have died."""
        facts = self._running.facts if self._running else []
        dead = [
            f"engine {place.rank} (host {facts[place.rank]['host']}, pid {facts[place.rank]['pid']}, {place.device})"
            if facts
            else f"engine {place.rank}"
            for place in self.gone()
        ]
        if dead:
            who = f"{' and '.join(dead)} {'has' if len(dead) == 1 else 'have'} died"
            raise ClusterError(f"{who}: `cluster.stop()`, then `cluster.start()`, starts all engines afresh.")

    def rows(self) -> list[dict[str, Any]]:
        """The table: a row a rank."""
        running = self._running if self.running() else None
        found = []
        for place in self.plan:
            facts = running.facts[place.rank] if running else {}
            state = "not started" if running is None else "ready" if place.rank in running.client.ids else "gone"
            values = (
                place.rank,
                facts.get("host", ""),
                facts.get("pid", ""),
                f"{place.device} {facts.get('gpu', '')}".strip(),
                ", ".join(map(str, place.cores)) or "any",
                place.threads,
                self.backend,
                state,
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
