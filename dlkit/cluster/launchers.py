"""How engines start: by ipyparallel, each with the environment of its placement."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import ipyparallel
import psutil
from ipyparallel.cluster.launcher import LocalControllerLauncher, LocalEngineLauncher, LocalEngineSetLauncher
from traitlets import default

from dlkit.cluster import family
from dlkit.cluster.placement import Placement
from dlkit.core.processes import process_key

# An engine is there from its first heartbeat on, by default up to 3 s after it could be. It may miss 30 s.
HEARTBEATS = ["--HeartMonitor.period=500", "--HeartMonitor.max_heartmonitor_misses=60"]
ENGINE_MISSES = "--IPEngine.max_heartbeat_misses=175"  # of the controller's: 175 s, as by default
# Nothing is imported, and no configuration read, from the folder of the notebook while processes start: `-P`, and the
# cluster's folder to start in, as ipyparallel starts further processes by itself.
PYTHON = [sys.executable, "-P", "-m"]
ON_START = "import sys; sys.path = [p for p in sys.path if p]; "  # IPython puts the folder of the notebook first
ON_START += "sys.path += [p for p in {path!r} if p not in sys.path]; "
ON_START += "from dlkit.cluster import worker; worker.on_engine_start()"


class PlacedEngineLauncher(LocalEngineLauncher):
    """Starts one engine at its placement, with the rank as its id.

    ipyparallel by itself would give all engines the same environment.
    """

    def start(self) -> Any:
        cluster = self.parent.parent  # type: ignore[union-attr]
        placement = cluster.to_start[int(self.identifier)]
        own = {"DLKIT_RANK": str(placement.rank), "DLKIT_CWD": os.getcwd()}
        self.environment = {**self.environment, **cluster.shared_environment, **own, **placement.environment()}
        self.work_dir = self.profile_dir
        on_start = f"--IPEngine.startup_command={ON_START.format(path=family.absolute_path())}"
        self.engine_args = [*self.engine_args, f"--IPEngine.id={placement.rank}", ENGINE_MISSES, on_start]
        started = super().start()
        cluster.processes[placement.rank] = psutil.Process(self.pid)
        cluster.launchers[placement.rank] = self
        return started


class PlacedEngineSetLauncher(LocalEngineSetLauncher):
    launcher_class = PlacedEngineLauncher

    @default("engine_cmd")
    def _default_engine_cmd(self) -> list[str]:
        return [*PYTHON, "ipyparallel.engine"]


class PlacedControllerLauncher(LocalControllerLauncher):
    @default("controller_cmd")
    def _default_controller_cmd(self) -> list[str]:
        return [*PYTHON, "ipyparallel.controller"]

    def start(self) -> Any:
        cluster: Any = self.parent
        self.environment = {**self.environment, **cluster.shared_environment}
        self.work_dir = self.profile_dir
        return super().start()


class PlacedCluster(ipyparallel.Cluster):
    """ipyparallel's cluster, with a placement for each engine.

    to_start: the placements of the engines that it starts next. processes, launchers: the latest of each rank.
    """

    def __init__(self, plan: list[Placement], folder: str):
        super().__init__(
            n=len(plan),
            controller_ip="127.0.0.1",
            load_profile=False,
            profile_dir=folder,
            controller_launcher_class=PlacedControllerLauncher,
            engine_launcher_class=PlacedEngineSetLauncher,
            delay=0.0,
            controller_args=HEARTBEATS,
            log_level=logging.CRITICAL,
            cluster_file="",
        )
        self.to_start = plan
        self.shared_environment = family.python_environment() | {
            "DLKIT_OWNER": process_key(os.getpid()),
            family.MARK: folder,
        }
        self.processes: dict[int, psutil.Process] = {}
        self.launchers: dict[int, PlacedEngineLauncher] = {}
        self.controllers: list[psutil.Process] = []  # the controller and what it has started
        self.files: dict[str, bytes] = {}  # by which engines and client find the controller

    def remember_files(self) -> None:
        """Once the controller is up: note what its files say."""
        assert self.controller
        self.controllers = [psutil.Process(self.controller.pid)]
        self.files = {path: Path(path).read_bytes() for path in self.controller.connection_files.values()}

    def remember_controllers(self) -> None:
        """Once engines are up: note the processes that the controller has started and goes on to need."""
        if len(self.controllers) == 1:
            self.controllers += self.controllers[0].children(recursive=True)

    def restore_files(self) -> None:
        """Write what engines need that are to start, if somebody has emptied the folder."""
        Path(self.profile_dir, "log").mkdir(exist_ok=True)
        Path(self.profile_dir, "security").mkdir(mode=0o700, exist_ok=True)
        for path, content in self.files.items():
            if not Path(path).exists():
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(content)

    def last_words(self, rank: int | None = None) -> str:
        """The last line that an engine, or the controller, wrote before it ended, or nothing."""
        launcher = self.controller if rank is None else self.launchers[rank]
        lines = [line for line in launcher.get_output().splitlines() if line.strip()] if launcher else []
        return lines[-1].strip() if lines else ""
