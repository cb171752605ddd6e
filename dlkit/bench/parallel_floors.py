"""A step of each strategy beside its floor: what it computes and sends, at the rates that the same engines reach.

The floor is the forward and backward pass of a rank's share, all ranks computing at once, then the rank's exchanges one
after another. It leaves out what several ranks compute alike (halos, layers above those that are split), shares that
are not equal, waiting for each other, picking a batch, and the optimizer. A step may be faster than its floor where
exchanges go on beside the passes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist

from dlkit.bench.parallel_data import LENET
from dlkit.bench.parallel_turns import split, turns
from dlkit.bench.timing import Seconds, ratio
from dlkit.cluster import Cluster
from dlkit.core.random import ShardedGenerator
from dlkit.core.reports import BenchRow
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group
from dlkit.distributed.recorder import Span
from dlkit.strategies import DataParallel, Pipeline, SpatialParallel, TensorParallel
from dlkit.training.shard import Strategy

KINDS = ("all-reduce", "all-gather", "send")
FEW, MANY = 1, 1 << 18  # float32 numbers in an exchange: a message's latency, and a megabyte
PASSES, EXCHANGES = 20, 50  # timed at a time


class Work(NamedTuple):
    """What a rank of two has to compute in a step: `times` passes, forward and back, of a net over `images` images."""

    images: int
    times: float


def shares(batch: int) -> dict[Strategy, Work]:
    """Half of the batch, or of the net; in a pipeline the time in which it fills and empties too."""
    pipeline = Pipeline()
    return {
        DataParallel(): Work(batch // 2, 1),
        TensorParallel(): Work(batch, 1 / 2),
        SpatialParallel(): Work(batch, 1 / 2),
        pipeline: Work(batch // pipeline.microbatches, (pipeline.microbatches + 1) / 2),
    }


def floors(cluster: Cluster, steps: int, rounds: int) -> list[BenchRow]:
    """A row for each strategy: milliseconds a step of LeNet-5 on two engines, and those of its floor."""
    batch = LENET.batch_size
    work = shares(batch)
    tasks: dict[str, Callable[[], float]] = {str(s): partial(a_step, cluster, s, steps) for s in work}
    tasks |= {f"{n} images": partial(at_once, cluster, passes, n) for n in {each.images for each in work.values()}}
    for kind in KINDS:
        for numbers in (FEW, MANY):
            tasks[f"{kind} of {numbers}"] = partial(at_once, cluster, exchanges, kind, numbers)
    seconds = turns(tasks, "floors", rounds)
    rates = {kind: Rate.of(seconds, kind) for kind in KINDS}
    return [row(seconds, strategy, each, sent(cluster, strategy), rates) for strategy, each in work.items()]


class Rate(NamedTuple):
    """Of one kind of exchange: seconds that it takes however small it is, and bytes that a rank sends a second."""

    latency: float
    bandwidth: float

    @classmethod
    def of(cls, seconds: Seconds, kind: str) -> "Rate":
        few, many = (median(seconds[f"{kind} of {numbers}"]) for numbers in (FEW, MANY))
        return cls(few, 4 * (MANY - FEW) / max(many - few, 1e-9))  # each of two ranks sends as much as it has

    def seconds(self, size: int) -> float:
        return self.latency + size / self.bandwidth


def row(
    seconds: Seconds, strategy: Strategy, work: Work, ranks: list[list[Span]], rates: Mapping[str, Rate]
) -> BenchRow:
    """`ranks`: the exchanges of a step in which something is sent, on each rank."""
    communicated, spans = max(((on_links(spans, rates), spans) for spans in ranks), key=lambda pair: pair[0])
    computed = [work.times * each for each in seconds[f"{work.images} images"]]
    both = {"step": seconds[str(strategy)], "floor": [each + communicated for each in computed]}
    kilobytes = sum(span.bytes_sent for span in spans) / 1e3
    return BenchRow(
        f"LeNet-5, batch {LENET.batch_size}, 2 engines, {type(strategy).__name__}",
        1e3 * median(both["step"]),
        "ms a step",
        f"passes {1e3 * median(computed):.1f} ms, {len(spans)} exchanges of {kilobytes:,.0f} kB in all "
        f"{1e3 * communicated:.1f} ms: {1e3 * median(both['floor']):.1f} ms",
        ratio(both, "step", "floor"),
        "",
    )


def on_links(spans: Sequence[Span], rates: Mapping[str, Rate]) -> float:
    """Seconds that these exchanges take one after another."""
    return sum(rates[span.name if span.name in rates else "send"].seconds(span.bytes_sent) for span in spans)


def a_step(cluster: Cluster, strategy: Strategy, steps: int) -> float:
    return split(cluster, LENET, strategy, steps) / steps


def sent(cluster: Cluster, strategy: Strategy) -> list[list[Span]]:
    """The exchanges of the last of a few steps in which a rank sends something, on each rank."""
    run = cluster.run(LENET, strategy, steps=3, device="cpu", progress=False)
    found = []
    for rank in run.ranks:
        last = [span for span in rank.spans if span.kind == "step"][-1]
        in_last = [span for span in rank.spans if last.begin <= span.begin < last.end]
        found.append([span for span in in_last if span.kind == "exchange" and span.bytes_sent])
    return found


def at_once(cluster: Cluster, what: Callable[..., float], *args: object) -> float:
    """What a function of all engines at once takes, on the slowest."""
    return max(cluster.call(what, *args))


def passes(images: int) -> float:
    """On an engine: seconds of LeNet-5's forward and backward pass over a batch that is there."""
    net, learner = LENET.initial_model(), LENET.learner
    batch, generator = Batch(torch.rand(images, 28, 28), torch.arange(images) % 10), ShardedGenerator("cpu")
    return of_one(lambda: learner.fill_grad(net, batch, generator), PASSES)


def exchanges(kind: str, numbers: int) -> float:
    """On an engine: seconds of an exchange of so many float32 numbers of each rank."""
    group, mine, theirs = Group(), torch.zeros(numbers), torch.zeros(numbers)
    other = 1 - group.rank
    ways: dict[str, Callable[[], object]] = {
        "all-reduce": lambda: group.all_reduce(mine),
        "all-gather": lambda: group.all_gather(mine, [numbers] * group.world_size),
        "send": lambda: group.exchange({other: mine}, {other: theirs}),
    }
    return of_one(ways[kind], EXCHANGES)


def of_one(task: Callable[[], object], count: int) -> float:
    """Seconds of a task that is repeated, the median, after a tenth that is not counted; all ranks begin together."""
    dist.barrier()
    seconds = []
    for _ in range(count + count // 10):
        begun = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - begun)
    return median(seconds[count // 10 :])
