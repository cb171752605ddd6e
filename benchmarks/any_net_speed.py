"""torchvision's resnet18 on two engines of a core each: how fast by data, by neurons and by region, and its tracing.

    python benchmarks/any_net_speed.py

Needs the extra `test`. Images have 64 x 64 pixels, a batch is 32 of them. The bill beside a step by neurons or by
region is the time that its multiplications take at the speed of one engine, and its bytes at the rate of an all-reduce
of 4 MB.
"""

import contextlib
import importlib
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn

from dlkit.analysis import counts
from dlkit.bench.parallel_floors import slowest_rank, time_exchange
from dlkit.bench.parallel_turns import in_turns, separate_runs, split_run
from dlkit.bench.timing import speed_row
from dlkit.cluster import Cluster
from dlkit.core.reports import BenchRow, emit
from dlkit.models.graph_check import graph_of
from dlkit.strategies import DataParallel, SpatialParallel, TensorParallel, cost
from dlkit.training import CrossEntropy, Experiment
from dlkit.training.shard import Strategy

BATCH, IMAGE, ROUNDS, WARM, STEPS = 32, (3, 64, 64), 5, 2, 8
TESTS = str(Path(__file__).resolve().parents[1] / "tests")
NUMBERS = 1 << 20  # of an all-reduce
TITLE = f"resnet18, {IMAGE[1]} x {IMAGE[2]} pixels, batches of {BATCH}, two engines of a core each"


def resnet18() -> nn.Module:
    """On an engine too, which finds the tests' way to import torchvision by itself: it holds what cannot travel."""
    if TESTS not in sys.path:
        sys.path.insert(0, TESTS)
    return importlib.import_module("vision").torchvision_models().resnet18(num_classes=10)


def experiment() -> Experiment:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH * (WARM + STEPS), *IMAGE, generator=generator)
    labels = torch.randint(10, (len(images),), generator=generator)
    return Experiment(resnet18, (images, labels), CrossEntropy(), batch_size=BATCH, lr=0.01, momentum=0.9)


def share_of_products(strategy: Strategy) -> float:
    """The most of a step's multiplications that one of two ranks has."""
    net = resnet18()
    connections = {row.name: row.connections or 0 for row in counts(net, torch.rand(1, *IMAGE))}
    ranks = [
        sum(connections.get(layer.name, 0) * layer.part.count / layer.part.whole for layer in layers)
        for layers in cost(net, IMAGE, BATCH, 2, strategy).layers
    ]
    return max(ranks) / sum(connections.values())


def speeds(cluster: Cluster) -> list[BenchRow]:
    """Each split beside one engine; of data, beside two engines that exchange nothing too; of others, their bill."""
    made = experiment()
    half = replace(made, batch_size=BATCH // 2)
    splits = {"by data": DataParallel(), "by neurons": TensorParallel(), "by region": SpatialParallel()}
    timed = {"steps": STEPS, "warm": WARM}
    tasks = {
        "one": partial(separate_runs, cluster, made, [0], **timed),
        "apart": partial(separate_runs, cluster, half, [0, 1], **timed),
    }
    tasks |= {name: partial(split_run, cluster, made, strategy, **timed) for name, strategy in splits.items()}
    tasks["all-reduce"] = partial(slowest_rank, cluster, time_exchange, "all-reduce", NUMBERS)
    seconds = in_turns(tasks, "resnet18", ROUNDS)
    images = STEPS * BATCH
    goals = dict.fromkeys(splits, "") | {"by data": "ratio at least 1.75"}
    rows = [speed_row(name, seconds, name, "one", "one engine", images, goal) for name, goal in goals.items()]
    what = f"two engines that exchange nothing, batch {BATCH // 2} each"
    rows.append(speed_row("by data", seconds, "by data", "apart", what, images))
    rate = 4 * NUMBERS / median(seconds["all-reduce"])  # two ranks send all of it, each
    for name in ("by neurons", "by region"):
        sent = cost(resnet18(), IMAGE, BATCH, 2, splits[name]).bytes_sent(0)
        share = share_of_products(splits[name])
        computed = median(seconds["one"]) / STEPS * share
        billed, measured = computed + sent / rate, median(seconds[name]) / STEPS
        bill = f"{1e3 * computed:.0f} ms for {share:.0%} of the products, "
        bill += f"{1e3 * sent / rate:.0f} ms for {sent / 1e6:.1f} MB"
        rows.append(BenchRow(f"a step {name}", 1e3 * measured, "ms", f"its bill: {bill}", measured / billed, ""))
    return rows


def tracing() -> BenchRow:
    """Of the graph, held against the net on three and five images, in this process."""
    net, images = resnet18(), torch.rand(5, *IMAGE)
    taken = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        graph_of(net, images)
        taken.append(time.perf_counter() - begun)
    threads = f"{torch.get_num_threads()} threads"
    return BenchRow("tracing it, with its check", median(taken[1:]), "s", threads, None, "under 2 s")


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr), Cluster(2) as cluster:
        rows = speeds(cluster)
    emit([*rows, tracing()], TITLE)


if __name__ == "__main__":
    main()
