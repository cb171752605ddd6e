"""How long a cluster takes until it is ready, then how fast runs are that are split over two engines.

The references: ipyparallel on its own, torch's DDP in a script, one engine, and the least time that a step can take.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from statistics import median

import ipyparallel
from tqdm.auto import tqdm

from dlkit.bench.parallel_data import against_torch, speed_ups
from dlkit.bench.parallel_floors import floors
from dlkit.bench.timing import Seconds, ratio
from dlkit.cluster import Cluster
from dlkit.cluster.placement import gpus_here
from dlkit.core.reports import BenchRow

TITLE = "A cluster: its start, and runs on two engines of a core each"
ENGINES, ROUNDS, STEPS = (2, 4), 5, 100


def measure() -> list[BenchRow]:
    """Rows for the start, for each number of engines, then for runs on two. ValueError where torch can see GPUs."""
    if gpus_here():
        raise ValueError("this bench is of CPU cores: hide the GPUs, CUDA_VISIBLE_DEVICES= dlkit bench parallel.")
    rows = [start_up(n) for n in ENGINES]
    with contextlib.redirect_stdout(sys.stderr):  # what a cluster prints must not come between the lines of --json
        cluster = Cluster(2)
        with cluster:
            for bench in (against_torch, speed_ups, floors):
                rows += bench(cluster, STEPS, ROUNDS)
    return rows


def start_up(n: int) -> BenchRow:
    """Seconds until `n` engines are ready, pinned and in a process group, beside bare ones that only import torch."""
    seconds: Seconds = {"ours": [], "bare": []}
    starts: dict[str, Callable[[int], Callable[[], None]]] = {"ours": start_cluster, "bare": start_bare_engines}
    for _ in tqdm(range(ROUNDS), desc=f"{n} engines", unit="round"):
        for name, start in starts.items():
            begun = time.perf_counter()
            stop = start(n)
            seconds[name].append(time.perf_counter() - begun)
            stop()
    ours, bare = (median(values) for values in seconds.values())
    reference = f"bare ipyparallel and `import torch`: {bare:.1f} s"
    goal = "ratio at least 0.80 (no more than 1.25 times the time)"
    return BenchRow(f"{n} engines ready", ours, "s", reference, ratio(seconds, "ours", "bare"), goal)


def start_cluster(n: int) -> Callable[[], None]:
    """Start a Cluster; gives the function that stops it."""
    with contextlib.redirect_stdout(sys.stderr):  # as above
        return Cluster(n).start().stop


def start_bare_engines(n: int) -> Callable[[], None]:
    """Start engines by ipyparallel alone, without its pause between them; gives the function that stops them."""
    cluster = ipyparallel.Cluster(
        n=n, controller_ip="127.0.0.1", load_profile=False, delay=0.0, log_level=logging.CRITICAL
    )
    cluster.start_cluster_sync()
    client = cluster.connect_client_sync()
    client.wait_for_engines(n, timeout=60, interactive=False)
    client[:].apply_sync(import_torch)

    def stop() -> None:
        client.close()
        cluster.stop_cluster_sync()

    return stop


def import_torch() -> None:
    """On an engine: what takes most of its start."""
    import torch  # noqa: F401
