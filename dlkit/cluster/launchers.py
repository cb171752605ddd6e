"""How engines start: by ipyparallel, each at the place that it is meant for."""

import logging
import os
from typing import Any

import ipyparallel
import psutil
from ipyparallel.cluster.launcher import LocalEngineLauncher, LocalEngineSetLauncher

from dlkit.cluster import worker
from dlkit.cluster.placement import Placement


class Engine(LocalEngineLauncher):
    """Starts an engine at its place, with the rank as its id: ipyparallel gives all engines the same environment."""

    def start(self) -> Any:
        cluster = self.parent.parent  # type: ignore[union-attr]
        place = cluster.at[int(self.identifier)]
        own = {"DLKIT_CONTROLLER": worker.mark(cluster.controller.process.pid), "DLKIT_RANK": str(place.rank)}
        self.environment = {**self.environment, **cluster.shared, **own, **place.environment()}
        wake = "--IPEngine.startup_command=from dlkit.cluster import worker; worker.on_engine_start()"
        self.engine_args = [*self.engine_args, f"--IPEngine.id={place.rank}", wake]
        started = super().start()
        cluster.processes[place.rank] = psutil.Process(self.pid)
        return started


class Engines(LocalEngineSetLauncher):
    launcher_class = Engine


class Local(ipyparallel.Cluster):
    """ipyparallel's cluster; `at` are the places of the engines that it starts next, `processes` each rank's latest."""

    def __init__(self, plan: list[Placement], folder: str):
        super().__init__(
            n=len(plan),
            controller_ip="127.0.0.1",
            load_profile=False,
            profile_dir=folder,
            engine_launcher_class=Engines,
            delay=0.0,
            log_level=logging.CRITICAL,
        )
        self.at = plan
        self.shared = {"DLKIT_OWNER": worker.mark(os.getpid()), "DLKIT_FOLDER": folder}
        self.processes: dict[int, psutil.Process] = {}
