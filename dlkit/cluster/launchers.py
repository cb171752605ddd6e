"""How engines start: by ipyparallel, each with the environment of its placement."""

import logging
import os
from typing import Any

import ipyparallel
import psutil
from ipyparallel.cluster.launcher import LocalEngineLauncher, LocalEngineSetLauncher

from dlkit.cluster import worker
from dlkit.cluster.placement import Placement

# An engine is there from its first heartbeat on, by default up to 3 s after it could be. It may miss 30 s.
HEARTBEATS = ["--HeartMonitor.period=500", "--HeartMonitor.max_heartmonitor_misses=60"]
ENGINE_MISSES = "--IPEngine.max_heartbeat_misses=175"  # of the controller's: 175 s, as by default


class PlacedEngineLauncher(LocalEngineLauncher):
    """Starts one engine at its placement, with the rank as its id.

    ipyparallel by itself would give all engines the same environment.
    """

    def start(self) -> Any:
        cluster = self.parent.parent  # type: ignore[union-attr]
        placement = cluster.to_start[int(self.identifier)]
        own = {
            "DLKIT_CONTROLLER": worker.process_key(cluster.controller.process.pid),
            "DLKIT_RANK": str(placement.rank),
        }
        self.environment = {**self.environment, **cluster.shared_environment, **own, **placement.environment()}
        on_start = "--IPEngine.startup_command=from dlkit.cluster import worker; worker.on_engine_start()"
        self.engine_args = [*self.engine_args, f"--IPEngine.id={placement.rank}", ENGINE_MISSES, on_start]
        started = super().start()
        cluster.processes[placement.rank] = psutil.Process(self.pid)
        return started


class PlacedEngineSetLauncher(LocalEngineSetLauncher):
    launcher_class = PlacedEngineLauncher


class PlacedCluster(ipyparallel.Cluster):
    """ipyparallel's cluster, with a placement for each engine.

    to_start: the placements of the engines that it starts next. processes: the latest process of each rank.
    """

    def __init__(self, plan: list[Placement], folder: str):
        super().__init__(
            n=len(plan),
            controller_ip="127.0.0.1",
            load_profile=False,
            profile_dir=folder,
            engine_launcher_class=PlacedEngineSetLauncher,
            delay=0.0,
            controller_args=HEARTBEATS,
            log_level=logging.CRITICAL,
        )
        self.to_start = plan
        self.shared_environment = {"DLKIT_OWNER": worker.process_key(os.getpid()), "DLKIT_FOLDER": folder}
        self.processes: dict[int, psutil.Process] = {}
