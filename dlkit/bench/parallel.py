"""How long a cluster takes until it is ready, against ipyparallel on its own."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from statistics import median

import ipyparallel
from tqdm.auto import tqdm

from dlkit.bench.timing import Seconds, ratio
from dlkit.cluster import Cluster
from dlkit.tables import BenchRow

TITLE = "A cluster: from nothing to engines that have imported torch"
ENGINES, ROUNDS = (2, 4), 5


def measure() -> list[BenchRow]:
    """A row for each number of engines."""
    return [start_up(n) for n in ENGINES]


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
    with contextlib.redirect_stdout(sys.stderr):  # what it says must not come between the lines of --json
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
