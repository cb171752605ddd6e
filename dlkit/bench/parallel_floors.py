"""A step of each strategy beside its floor: what it computes and sends, at the rates that the same engines reach.

The floor is the time of the forward and backward passes of a rank's part of the work, while all ranks compute, and then
of its exchanges one after another. It leaves out what several ranks compute alike (halos, layers above those that are
split), parts that are not equal, waiting for each other, selecting a batch, and the optimizer. A step may be faster
than its floor where exchanges overlap with the passes. By region there is a second row, whose floor is of what a rank
does compute, found by a group that exchanges nothing; and both rows are of LocalNet too, whose filters are not shared.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

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
from dlkit.models import LocalNet
from dlkit.models.graph_check import graph_of
from dlkit.strategies import DataParallel, Pipeline, SpatialParallel, TensorParallel
from dlkit.strategies.spatial.on_paper import PaperGroup
from dlkit.strategies.spatial.spatial_parallel import split_over_grid
from dlkit.training import Experiment
from dlkit.training.shard import Strategy

KINDS = ("all-reduce", "all-gather", "send")  # of exchanges
FEW, MANY = 1, 1 << 18  # float32 numbers in an exchange: only latency counts, and a megabyte
REGION = SpatialParallel()
LOCALNET: Experiment = replace(LENET, model=LocalNet)  # pyrefly: ignore[bad-argument-type]
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
    """A row for each strategy: milliseconds that a step takes on two engines, beside its floor."""
    works = work_of_a_rank(LENET.batch_size)
    ways = [(LENET, strategy, work) for strategy, work in works.items()] + [(LOCALNET, REGION, works[REGION])]
    tasks: dict[str, Callable[[], float]] = {}
    for net, strategy, work in ways:
        tasks[of(net, strategy)] = partial(seconds_a_step, cluster, net, strategy, steps)
        tasks[of(net, work.images)] = partial(slowest_rank, cluster, time_passes, net, work.images)
    for net in (LENET, LOCALNET):
        tasks[of(net, "own part")] = partial(slowest_rank, cluster, time_own_part, net)
    for kind in KINDS:
        for numbers in (FEW, MANY):
            tasks[f"{kind} of {numbers}"] = partial(slowest_rank, cluster, time_exchange, kind, numbers)
    seconds = in_turns(tasks, "floors", rounds)
    rates = {kind: Rate.of(seconds, kind) for kind in KINDS}
    rows, of_own_part = [], []
    for net, strategy, work in ways:
        by_rank = exchanges_of_a_step(cluster, net, strategy)
        steps_taken = seconds[of(net, strategy)]
        rows.append(row(of(net, strategy), steps_taken, seconds_of(seconds, net, work), by_rank, rates))
        if strategy == REGION:
            name = f"{of(net, strategy)}, against what a rank computes"
            of_own_part.append(row(name, steps_taken, seconds[of(net, "own part")], by_rank, rates))
    return rows + of_own_part


def of(net: Experiment, what: object) -> str:
    """The name of a task, and of a row."""
    name = "LeNet-5" if net is LENET else "LocalNet"
    return f"{name}, batch {net.batch_size}, 2 engines, {what if isinstance(what, int | str) else type(what).__name__}"


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


def seconds_of(seconds: Seconds, net: Experiment, work: Work) -> list[float]:
    return [work.times * computing for computing in seconds[of(net, work.images)]]


def row(
    name: str,
    steps: Sequence[float],
    computed: Sequence[float],
    by_rank: list[list[Span]],
    rates: Mapping[str, Rate],
) -> BenchRow:
    """The row of this name. steps, computed: seconds of a step, and of a rank's passes, in each round. by_rank: the
    exchanges of one step in which a rank sends something, for each rank.
    """
    communicated, spans = max(((exchange_seconds(spans, rates), spans) for spans in by_rank), key=lambda pair: pair[0])
    times = {"step": list(steps), "floor": [computing + communicated for computing in computed]}
    kilobytes = sum(span.bytes_sent for span in spans) / 1e3
    return BenchRow(
        name,
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


def seconds_a_step(cluster: Cluster, net: Experiment, strategy: Strategy, steps: int) -> float:
    """Seconds that a step takes, the mean over `steps` steps."""
    return split_run(cluster, net, strategy, steps) / steps


def exchanges_of_a_step(cluster: Cluster, net: Experiment, strategy: Strategy) -> list[list[Span]]:
    """For each rank, the exchanges of one step, the third, in which it sends something."""
    run = cluster.run(net, strategy, steps=3, device="cpu", progress=False)
    by_rank = []
    for rank in run.ranks:
        last = [span for span in rank.spans if span.kind == "step"][-1]
        sending = [span for span in rank.spans if span.kind == "exchange" and span.bytes_sent]
        by_rank.append([span for span in sending if last.begin <= span.begin < last.end])
    return by_rank


def slowest_rank(cluster: Cluster, function: Callable[..., float], *args: object) -> float:
    """Call the function on all engines at once; the largest of the seconds that it returns."""
    return max(cluster.call(function, *args))


def time_passes(described: Experiment, images: int) -> float:
    """On an engine: seconds of a forward and a backward pass of the net over a batch that is in memory."""
    net, batch = described.initial_model(), made_up(images)
    return median_seconds(lambda: described.learner.fill_grad(net, batch, ShardedGenerator("cpu")), PASSES)


def time_own_part(described: Experiment) -> float:
    """On an engine: seconds of the passes of its part of the net by region, with zeros for what others would send."""
    batch = made_up(described.batch_size)
    net = own_part(described, REGION, batch)
    return median_seconds(lambda: described.learner.fill_grad(net, batch, ShardedGenerator("cpu")), PASSES)


def own_part(described: Experiment, strategy: SpatialParallel, batch: Batch) -> nn.Module:
    """On an engine: its part of the net by region, which takes zeros for what others would send."""
    net, here = described.initial_model(), Group()
    plan = strategy.plan(graph_of(net, batch.images), here.world_size)
    split_over_grid(plan, Grid(PaperGroup(here.world_size, here.rank), strategy.shape(here.world_size)))
    return net


def made_up(images: int) -> Batch:
    """Noise, of the size of digits."""
    return Batch(torch.rand(images, 28, 28), torch.arange(images) % 10)


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
