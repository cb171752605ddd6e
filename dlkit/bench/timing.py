"""Timing on a machine that others use too: tasks that are compared take turns, and medians are reported."""

import time
from collections.abc import Callable, Mapping
from statistics import median

from tqdm.auto import tqdm

from dlkit.core.reports import BenchRow

Seconds = dict[str, list[float]]  # by task: the seconds that it took in each round


def interleaved(tasks: Mapping[str, Callable[[], object]], rounds: int = 7) -> Seconds:
    """The seconds that each task took in each of `rounds` rounds, in turns, after one round that is not counted."""
    seconds: Seconds = {name: [] for name in tasks}
    with tqdm(total=(rounds + 1) * len(tasks), unit="timing", delay=1, leave=False) as bar:
        for _ in range(rounds + 1):
            for name, task in tasks.items():
                begun = time.perf_counter()
                task()
                seconds[name].append(time.perf_counter() - begun)
                bar.update()
    return {name: values[1:] for name, values in seconds.items()}


def speed_row(
    name: str, seconds: Seconds, task: str, reference: str, what: str, images: int, goal: str = ""
) -> BenchRow:
    """A row of the table: images a second of `task` beside those of `reference`, which `what` describes.

    `images`: how many images each task goes through.
    """
    speed, reference_speed = (images / median(seconds[task_name]) for task_name in (task, reference))
    what = f"{what}: {reference_speed:,.0f} images/s"
    return BenchRow(name, speed, "images/s", what, ratio(seconds, task, reference), goal)


def ratio(seconds: Seconds, task: str, reference: str) -> float:
    """The speed of `task` over that of `reference`: the median over the rounds."""
    return median(r / t for t, r in zip(seconds[task], seconds[reference], strict=True))
