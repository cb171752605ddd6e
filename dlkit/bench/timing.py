"""Timing on a machine that others use too: what is compared takes turns, and medians are quoted."""

import time
from collections.abc import Callable, Mapping
from statistics import median

from tqdm.auto import tqdm

from dlkit.core.reports import BenchRow

Seconds = dict[str, list[float]]


def interleaved(tasks: Mapping[str, Callable[[], object]], rounds: int = 7) -> Seconds:
    """Seconds that each task took in each of `rounds` rounds, after one that is not counted."""
    seconds: Seconds = {name: [] for name in tasks}
    with tqdm(total=(rounds + 1) * len(tasks), unit="timing", delay=1, leave=False) as bar:
        for _ in range(rounds + 1):
            for name, task in tasks.items():
                begun = time.perf_counter()
                task()
                seconds[name].append(time.perf_counter() - begun)
                bar.update()
    return {name: values[1:] for name, values in seconds.items()}


def compared(
    name: str, seconds: Seconds, task: str, reference: str, what: str, images: int, goal: str = ""
) -> BenchRow:
    """A row: images a second of `task`, beside those of `reference`, which is `what`."""
    speed, theirs = (images / median(seconds[each]) for each in (task, reference))
    return BenchRow(name, speed, "images/s", f"{what}: {theirs:,.0f} images/s", ratio(seconds, task, reference), goal)


def ratio(seconds: Seconds, task: str, reference: str) -> float:
    """How fast `task` is, as a fraction of `reference`'s speed: the median over the rounds."""
    return median(r / t for t, r in zip(seconds[task], seconds[reference], strict=True))
