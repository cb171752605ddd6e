"""Is the time of a step flat, when a net grows with the ranks that it is split over, and each rank's memory stays?

A rank is an engine of one core and one thread; where there are more ranks than cores, several share one, which alone
makes a step so many times as long. No emulated link is faster than the memory through which engines really exchange.
Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems, whose nets of 1 to 64 GPUs
were trained over InfiniBand.
"""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from statistics import median

from tqdm.auto import tqdm

from dlkit.bench.parallel_floors import FEW, KINDS, MANY, Rate, slowest_rank, time_exchange
from dlkit.bench.parallel_turns import split_run
from dlkit.bench.scaling_prediction import (
    BATCH,
    PARAMETERS_A_RANK,
    GrownNet,
    Tile,
    measure_tile,
    planned_exchanges,
    planned_seconds,
)
from dlkit.bench.timing import Seconds, ratio
from dlkit.cluster import Cluster
from dlkit.cluster.placement import cores_here, gpus_here, placements
from dlkit.core.reports import ScalingRow
from dlkit.distributed.links import FDR_INFINIBAND, GIGABIT, TEN_GIGABIT, Link
from dlkit.training import Experiment

TITLE = f"Nets that grow with their ranks, 4 bytes a parameter: milliseconds of a step with {BATCH} images"
GRIDS = ((1, 1), (2, 1), (2, 2))  # the first is what the others are compared with
LINKS: dict[str, Link | None] = {
    "memory": None,
    "InfiniBand": FDR_INFINIBAND,
    "10 Gb/s": TEN_GIGABIT,
    "1 Gb/s": GIGABIT,
}
ROUNDS, STEPS, WARM = 5, 5, 2  # steps of a run, and those before them that are not timed
TILE = "tile"  # the task of computing without exchanges


def measure() -> list[ScalingRow]:
    """A row for each grid and link. ValueError where torch can see GPUs."""
    if gpus_here():
        raise ValueError("this bench is of CPU cores: hide the GPUs, CUDA_VISIBLE_DEVICES= dlkit bench scaling.")
    nets = [GrownNet.over(grid, PARAMETERS_A_RANK) for grid in GRIDS]
    timings = {net: Timings(net) for net in nets}
    for number in tqdm(range(ROUNDS), desc="scaling", unit="round", leave=False):
        for timed in timings.values():
            with contextlib.redirect_stdout(sys.stderr), one_core_each(timed.net.ranks) as cluster:
                timed.add_round(cluster, number)
    alone = timings[nets[0]].seconds["memory"]
    return [timed.row(name, alone) for timed in timings.values() for name in timed.links]


def one_core_each(ranks: int) -> Cluster:
    """Engines of one core and one thread, which share cores if there are too few."""
    cluster = Cluster(ranks)
    cluster.plan = placements(ranks, gpus=[], cores=cores_here()[:ranks])
    return cluster


class Timings:
    """Of one net: the seconds of each task in each round, and what its ranks hold."""

    def __init__(self, net: GrownNet):
        self.net, self.experiment = net, net.experiment()
        self.links = LINKS if net.ranks > 1 else {"memory": None}
        self.seconds: Seconds = {}
        self.tiles: list[Tile] = []  # of the latest round, by rank

    def __repr__(self) -> str:
        return f"Timings({self.net}, {len(self.seconds.get(TILE, []))} rounds)"

    def add_round(self, cluster: Cluster, number: int) -> None:
        """Do each task once; which one begins changes with the number of the round."""
        tasks = list(self.tasks(cluster).items())
        first = number % len(tasks)
        for name, task in tasks[first:] + tasks[:first]:
            self.seconds.setdefault(name, []).append(task())

    def tasks(self, cluster: Cluster) -> dict[str, Callable[[], float]]:
        """Each gives seconds: a step over each link, a step without exchanges, exchanges through memory."""
        tasks: dict[str, Callable[[], float]] = {
            name: partial(seconds_a_step, cluster, self.experiment, self.net, link) for name, link in self.links.items()
        }
        tasks[TILE] = partial(self.slowest_tile, cluster)
        if self.net.ranks > 1:
            for kind in KINDS:
                for numbers in (FEW, MANY):
                    tasks[f"{kind} of {numbers}"] = partial(slowest_rank, cluster, time_exchange, kind, numbers)
        return tasks

    def slowest_tile(self, cluster: Cluster) -> float:
        self.tiles = cluster.call(measure_tile, self.experiment, self.net.strategy, STEPS)
        return max(tile.seconds for tile in self.tiles)

    def rates(self, link: Link | None) -> dict[str, Rate]:
        """Of each kind of exchange: a link's, or those measured through memory."""
        ranks = self.net.ranks
        if ranks == 1:
            return {}
        return {
            kind: Rate.of(self.seconds, kind, ranks) if link is None else Rate.of_link(link, kind, ranks)
            for kind in KINDS
        }

    def row(self, name: str, alone: list[float]) -> ScalingRow:
        """Of one link, by its name. alone: the seconds of a step of one rank, in each round."""
        net, held = self.net, [tile.parameters for tile in self.tiles]
        exchanges = planned_exchanges(net, self.experiment.batch_size)
        seconds = planned_seconds(exchanges, self.rates(self.links[name]))
        sent = [sum(exchange.sent[rank] for exchange in exchanges) for rank in range(net.ranks)]
        cores = min(net.ranks, len(cores_here()))
        return ScalingRow(
            ranks=net.ranks,
            grid="x".join(map(str, net.grid)),
            cores=cores,
            ranks_a_core=-(-net.ranks // cores),
            images="x".join(map(str, net.image)),
            parameters=sum(held),
            parameters_a_rank=" to ".join(f"{count:,}" for count in sorted({min(held), max(held)})),
            link=name if net.ranks > 1 else "",
            kilobytes=max(sent) / 1e3,
            exchanges=1e3 * seconds,
            predicted=1e3 * (median(self.seconds[TILE]) + seconds),
            measured=1e3 * median(self.seconds[name]),
            times_one_rank=ratio({"alone": alone, "grown": self.seconds[name]}, "alone", "grown"),
        )


def seconds_a_step(cluster: Cluster, experiment: Experiment, net: GrownNet, link: Link | None) -> float:
    """Seconds of a step of the net, split over the engines: the mean over STEPS steps."""
    return split_run(cluster, experiment, net.strategy, STEPS, WARM, link) / STEPS
