"""How long a cluster takes until it is ready; then how fast runs are that are split over two engines.

Each against a reference: ipyparallel on its own, torch's DDP in a script, one engine, what a step cannot do without.
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
    """The start, for each number of engines; then a cluster of two. ValueError where there are GPUs to be seen."""
    if gpus_here():
        raise ValueError("this bench is of CPU cores: hide the GPUs, CUDA_VISIBLE_DEVICES= dlkit bench parallel.")
    rows = [start_up(n) for n in ENGINES]
    with contextlib.redirect_stdout(sys.stderr):  # what a cluster says must not come between the lines of --json
        cluster = Cluster(2)
        with cluster:
            for bench in (against_torch, speed_ups, floors):
                rows += bench(cluster, STEPS, ROUNDS)
    return rows


def start_up(n: int) -> BenchRow:
    """Seconds until `n` engines are ready, pinned and with a process group; and until bare ones have imported torch."""
    seconds: Seconds = {"ours": [], "bare": []}
    starts: dict[str, Callable[[int], Callable[[], None]]] = {"ours": ours, "bare": bare}
    for _ in tqdm(range(ROUNDS), desc=f"{n} engines", unit="round"):
        for name, start in starts.items():
            begun = time.perf_counter()
            stop = start(n)
            seconds[name].append(time.perf_counter() - begun)
            stop()
    mine, theirs = (median(values) for values in seconds.values())
    reference = f"bare ipyparallel and `import torch`: {theirs:.1f} s"
    goal = "ratio at least 0.80 (no more than 1.25 times the time)"
    return BenchRow(f"{n} engines ready", mine, "s", reference, ratio(seconds, "ours", "bare"), goal)


def ours(n: int) -> Callable[[], None]:
    with contextlib.redirect_stdout(sys.stderr):  # as above
        return Cluster(n).start().stop


def bare(n: int) -> Callable[[], None]:
    """What a user of ipyparallel would write, without its pause between engines."""
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
    import torch  # noqa: F401
