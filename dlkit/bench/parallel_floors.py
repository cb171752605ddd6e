"""A step of each strategy beside its floor: what it computes and sends, at the rates that the same engines reach.

The floor is the time of the forward and backward passes of a rank's part of the work, while all ranks compute, and then
of its exchanges one after another. It leaves out what several ranks compute alike (halos, layers above those that are
split), parts that are not equal, waiting for each other, selecting a batch, and the optimizer. A step may be faster
than its floor where exchanges overlap with the passes. By region there is a second row, whose floor is of what a rank
does compute, found by a group that exchanges nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist

from dlkit.bench.parallel_data import LENET
from dlkit.bench.parallel_turns import in_turns, split_run
from dlkit.bench.timing import Seconds, ratio
from dlkit.cluster import Cluster
from dlkit.core.random import ShardedGenerator
from dlkit.core.reports import BenchRow
from dlkit.data.batch import Batch
from dlkit.distributed.array import Grid
from dlkit.distributed.group import Group, ring_bytes
from dlkit.distributed.links import Link
from dlkit.distributed.recorder import Span
from dlkit.models.graph_check import graph_of
from dlkit.strategies import DataParallel, Pipeline, SpatialParallel, TensorParallel
from dlkit.strategies.spatial.on_paper import PaperGroup
from dlkit.strategies.spatial.spatial_parallel import split_over_grid
from dlkit.training.shard import Strategy

KINDS = ("all-reduce", "all-gather", "send")  # of exchanges
FEW, MANY = 1, 1 << 18  # float32 numbers in an exchange: only latency counts, and a megabyte
OWN_PART = "a rank's part by region"
PASSES, EXCHANGES = 20, 50  # timed at a time


class Work(NamedTuple):
    """What one of two ranks has to compute in a step: `times` forward and backward passes over `images` images."""

    images: int
    times: float


def work_of_a_rank(batch: int) -> dict[Strategy, Work]:
    """By strategy: half of the batch, or of the net; in a pipeline, also the time while it fills and empties."""
    pipeline = Pipeline()
    return {
        DataParallel(): Work(batch // 2, 1),
        TensorParallel(): Work(batch, 1 / 2),
        SpatialParallel(): Work(batch, 1 / 2),
        pipeline: Work(batch // pipeline.microbatches, (pipeline.microbatches + 1) / 2),
    }


def floors(cluster: Cluster, steps: int, rounds: int) -> list[BenchRow]:
    """A row for each strategy: milliseconds that a step of LeNet-5 takes on two engines, beside its floor."""
    batch = LENET.batch_size
    works = work_of_a_rank(batch)
    tasks: dict[str, Callable[[], float]] = {str(s): partial(seconds_a_step, cluster, s, steps) for s in works}
    batch_sizes = {work.images for work in works.values()}
    tasks |= {f"{n} images": partial(slowest_rank, cluster, time_passes, n) for n in batch_sizes}
    tasks[OWN_PART] = partial(slowest_rank, cluster, time_own_part)
    for kind in KINDS:
        for numbers in (FEW, MANY):
            tasks[f"{kind} of {numbers}"] = partial(slowest_rank, cluster, time_exchange, kind, numbers)
    seconds = in_turns(tasks, "floors", rounds)
    rates = {kind: Rate.of(seconds, kind) for kind in KINDS}
    by_rank = {s: exchanges_of_a_step(cluster, s) for s in works}
    rows = [row(seconds, s, seconds_of(seconds, work), by_rank[s], rates) for s, work in works.items()]
    region = SpatialParallel()
    return [*rows, row(seconds, region, seconds[OWN_PART], by_rank[region], rates, ", against what a rank computes")]


class Rate(NamedTuple):
    """How fast one kind of exchange is: the seconds of the smallest one, and bytes that a rank sends a second."""

    latency: float
    bandwidth: float

    @classmethod
    def of(cls, seconds: Seconds, kind: str, world_size: int = 2) -> "Rate":
        """From the measured seconds of exchanges of FEW and of MANY numbers."""
        few, many = (median(seconds[f"{kind} of {numbers}"]) for numbers in (FEW, MANY))
        return cls(few, bytes_sent(kind, 4 * (MANY - FEW), world_size) / max(many - few, 1e-9))

    @classmethod
    def of_link(cls, link: Link, kind: str, world_size: int) -> "Rate":
        """As `Link.seconds` says."""
        return cls(link.seconds(kind, 0, world_size), link.bandwidth)

    def seconds(self, size: int) -> float:
        """Seconds of an exchange in which a rank sends `size` bytes."""
        return self.latency + size / self.bandwidth


def bytes_sent(kind: str, size: int, world_size: int) -> int:
    """The bytes that a rank sends in an exchange of `size` bytes from each."""
    if kind == "all-reduce":
        return ring_bytes(size, world_size, passes=2)
    return (world_size - 1) * size if kind == "all-gather" else size


def seconds_of(seconds: Seconds, work: Work) -> list[float]:
    return [work.times * computing for computing in seconds[f"{work.images} images"]]


def row(
    seconds: Seconds,
    strategy: Strategy,
    computed: Sequence[float],
    by_rank: list[list[Span]],
    rates: Mapping[str, Rate],
    against: str = "",
) -> BenchRow:
    """The row of a strategy. computed: seconds of a rank's passes, in each round. by_rank: the exchanges of one step in
    which a rank sends something, for each rank.
    """
    communicated, spans = max(((exchange_seconds(spans, rates), spans) for spans in by_rank), key=lambda pair: pair[0])
    times = {"step": seconds[str(strategy)], "floor": [computing + communicated for computing in computed]}
    kilobytes = sum(span.bytes_sent for span in spans) / 1e3
    return BenchRow(
        f"LeNet-5, batch {LENET.batch_size}, 2 engines, {type(strategy).__name__}{against}",
        1e3 * median(times["step"]),
        "ms a step",
        f"passes {1e3 * median(computed):.1f} ms, {len(spans)} exchanges of {kilobytes:,.0f} kB in all "
        f"{1e3 * communicated:.1f} ms: {1e3 * median(times['floor']):.1f} ms",
        ratio(times, "step", "floor"),
        "",
    )


def exchange_seconds(spans: Sequence[Span], rates: Mapping[str, Rate]) -> float:
    """Seconds that these exchanges take one after another, at the measured rates."""
    return sum(rates[span.name if span.name in rates else "send"].seconds(span.bytes_sent) for span in spans)


def seconds_a_step(cluster: Cluster, strategy: Strategy, steps: int) -> float:
    """Seconds that a step of LeNet-5 takes, the mean over `steps` steps."""
    return split_run(cluster, LENET, strategy, steps) / steps


def exchanges_of_a_step(cluster: Cluster, strategy: Strategy) -> list[list[Span]]:
    """For each rank, the exchanges of one step, the third, in which it sends something."""
    run = cluster.run(LENET, strategy, steps=3, device="cpu", progress=False)
    by_rank = []
    for rank in run.ranks:
        last = [span for span in rank.spans if span.kind == "step"][-1]
        sending = [span for span in rank.spans if span.kind == "exchange" and span.bytes_sent]
        by_rank.append([span for span in sending if last.begin <= span.begin < last.end])
    return by_rank


def slowest_rank(cluster: Cluster, function: Callable[..., float], *args: object) -> float:
    """Call the function on all engines at once; the largest of the seconds that it returns."""
    return max(cluster.call(function, *args))


def time_passes(images: int) -> float:
    """On an engine: seconds of a forward and a backward pass of LeNet-5 over a batch that is in memory."""
    net, learner = LENET.initial_model(), LENET.learner
    batch, generator = Batch(torch.rand(images, 28, 28), torch.arange(images) % 10), ShardedGenerator("cpu")
    return median_seconds(lambda: learner.fill_grad(net, batch, generator), PASSES)


def time_own_part() -> float:
    """On an engine: seconds of the passes of its part of LeNet-5 by region, with zeros for what others would send."""
    net, learner, here = LENET.initial_model(), LENET.learner, Group()
    batch = Batch(torch.rand(LENET.batch_size, 28, 28), torch.arange(LENET.batch_size) % 10)
    plan = SpatialParallel().plan(graph_of(net, batch.images), here.world_size)
    split_over_grid(plan, Grid(PaperGroup(here.world_size, here.rank), (here.world_size, 1)))
    return median_seconds(lambda: learner.fill_grad(net, batch, ShardedGenerator("cpu")), PASSES)


def time_exchange(kind: str, numbers: int) -> float:
    """On an engine: seconds of an exchange of this kind, of so many float32 numbers from each rank."""
    group, sent, received = Group(), torch.zeros(numbers), torch.zeros(numbers)
    right, left = ((group.rank + hop) % group.world_size for hop in (1, -1))
    ways: dict[str, Callable[[], object]] = {
        "all-reduce": lambda: group.all_reduce(sent),
        "all-gather": lambda: group.all_gather(sent, [numbers] * group.world_size),
        "send": lambda: group.exchange({right: sent}, {left: received}),
    }
    return median_seconds(ways[kind], EXCHANGES)


def median_seconds(task: Callable[[], object], count: int) -> float:
    """Median seconds of a task, done `count` times after a few that are not counted; all ranks start together."""
    dist.barrier()
    seconds = []
    for _ in range(count + count // 10):
        begun = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - begun)
    return median(seconds[count // 10 :])
