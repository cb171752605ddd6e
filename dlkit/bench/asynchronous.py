"""Parameter servers: how fast values come and go, and what nobody's waiting is worth.

The references: a bare pyzmq socket that answers the same bytes, a copy in memory, one replica, synchronous ranks.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch
import zmq

from dlkit.bench.parallel_data import LENET
from dlkit.bench.parallel_turns import in_turns, split_run
from dlkit.bench.timing import Seconds, ratio, speed_row
from dlkit.cluster import Cluster
from dlkit.cluster.placement import gpus_here
from dlkit.core.reports import BenchRow
from dlkit.core.text_table import format_bytes
from dlkit.strategies import DataParallel, Downpour, Plain
from dlkit.strategies.asynchronous.lines import Lines, as_values
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.server import Plan, Server, split_values
from dlkit.strategies.asynchronous.serving import ServerSocket
from dlkit.strategies.asynchronous.wiring import Wiring, wiring_here
from dlkit.training import CrossEntropy, Experiment

TITLE = "Parameter servers: their messages, and two replicas on two engines of a core each"
SIZES = (60_000, 1_000_000, 10_000_000)  # values: LeNet-5 has the first
ROUNDS, MESSAGES, BATCHES = 5, 200, 60
SLOWED = (1, 2, 10)  # how many times as long one replica takes


def measure() -> list[BenchRow]:
    """Rows for messages of each size, then for runs. ValueError where torch can see GPUs."""
    if gpus_here():
        raise ValueError("this bench is of CPU cores: hide the GPUs, CUDA_VISIBLE_DEVICES= dlkit bench asynchronous.")
    rows = [row for size in SIZES for row in messages(size)]
    with contextlib.redirect_stdout(sys.stderr), Cluster(2) as cluster:
        rows += runs(cluster)
    return rows


# Messages: a server in a process of its own, and one who always has two under way, as replicas have.


def messages(size: int) -> list[BenchRow]:
    """A fetch and a push of so many values, beside a bare socket's, and a copy of the same bytes."""
    wiring, values = wiring_here(2), torch.randn(size)
    count = max(10, min(MESSAGES, 800_000_000 // (4 * size)))
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = [
        context.Process(target=serve, args=(wiring, size, stop), daemon=True),
        context.Process(target=echo, args=(wiring.addresses[1], size, stop), daemon=True),
    ]
    for process in processes:
        process.start()
    sockets = zmq.Context()
    bare = sockets.socket(zmq.DEALER)
    bare.connect(wiring.addresses[1])
    ours, target = Lines(wiring, sockets), torch.empty_like(values)
    asks = Asks(ours, values, target)
    try:
        while not ours.sockets[0].poll(100, zmq.POLLOUT):
            pass
        bare.send(b"")
        bare.recv()
        sent = bytes(values.numpy().data)
        tasks = {
            "push and fetch": partial(pipelined, asks.both, asks.both_answered, count),
            "bare echo": partial(pipelined, partial(bare.send, sent, copy=False), partial(take, bare, target), count),
            "fetch": partial(pipelined, asks.fetch, asks.fetched, count),
            "bare fetch": partial(pipelined, partial(bare.send, b""), partial(take, bare, target), count),
            "push": partial(pipelined, asks.push, asks.pushed, count),
            "bare push": partial(pipelined, partial(bare.send, sent + b"+", copy=False), bare.recv, count),
            "copy": partial(pipelined, lambda: None, partial(target.copy_, values), count),
        }
        seconds = in_turns(tasks, f"{size:,} values", ROUNDS)
    finally:
        stop.set()
        sockets.destroy(linger=0)
        for process in processes:
            process.join(5)
            process.kill()
    nbytes, held = count * values.nbytes, format_bytes(values.nbytes)
    return [
        gigabytes_row(
            f"push and fetch of {held} each",
            seconds,
            "push and fetch",
            "bare echo",
            "a bare pyzmq echo of the same bytes",
            2 * nbytes,
            "ratio at least 0.9",
        ),
        *(
            gigabytes_row(f"{name} of {held}", seconds, name, reference, what, nbytes, "")
            for name in ("fetch", "push")
            for reference, what in (
                (f"bare {name}", "a bare pyzmq socket, these bytes one way"),
                ("copy", "a copy in memory"),
            )
        ),
    ]


def gigabytes_row(
    name: str, seconds: Seconds, task: str, reference: str, what: str, nbytes: int, goal: str
) -> BenchRow:
    speed, beside = (nbytes / median(seconds[each]) / 1e9 for each in (task, reference))
    return BenchRow(name, speed, "GB/s", f"{what}: {beside:.2f} GB/s", ratio(seconds, task, reference), goal)


def serve(wiring: Wiring, size: int, stop: Any) -> None:
    torch.set_num_threads(1)
    plan = Plan(split_values(size, 1), Plain, 1e-3, 1 << 40, 1, 1 << 40, 1 << 40)
    server = Server(plan, 0, torch.zeros(size))
    server.hurry()
    end = ServerSocket(wiring, 0, server)
    end.serve(stop.is_set)
    end.close()


def echo(address: str, size: int, stop: Any) -> None:
    """Gives back the bytes of `size` values, gives as many where it is sent none, and else none."""
    context = zmq.Context()
    line = context.socket(zmq.ROUTER)
    line.bind(address)
    content = bytes(4 * size)
    while not stop.is_set():
        if line.poll(50):
            sender, asked = line.recv_multipart(copy=False)
            if len(asked) in (0, len(content)):
                asked = asked.buffer if len(asked) else content
            line.send_multipart([sender.bytes, asked if len(asked) == len(content) else b""])
    context.destroy(linger=0)


def pipelined(send: Callable[[], object], receive: Callable[[], object], count: int) -> float:
    """Seconds of so many messages and answers, two of which are always under way."""
    begun = time.perf_counter()
    send()
    for sent in range(1, count + 1):
        if sent < count:
            send()
        receive()
    return time.perf_counter() - begun


def take(line: zmq.Socket, target: torch.Tensor) -> None:
    target.copy_(torch.frombuffer(line.recv(copy=False).buffer, dtype=torch.float32))


class Asks:
    """Fetches values into `target`, and pushes `values`."""

    def __init__(self, lines: Lines, values: torch.Tensor, target: torch.Tensor):
        self.lines, self.values, self.target = lines, values, target
        self.sequence = 0

    def fetch(self) -> None:
        self.lines.send(0, Message("fetch", {"request": 1}))

    def fetched(self) -> None:
        self.target.copy_(as_values(self._answer()))

    def push(self) -> None:
        self.sequence += 1
        fields = {"replica": 0, "sequence": self.sequence, "computed_at": [[0, 0]], "installs": [], "request": 1}
        fields |= {"steps": self.sequence, "batches": 1, "part": 0, "parts": 1}
        self.lines.send(0, Message("push", fields, self.values))

    def pushed(self) -> None:
        self._answer()

    def both(self) -> None:
        self.push()
        self.fetch()

    def both_answered(self) -> None:
        self.pushed()
        self.fetched()

    def _answer(self) -> Message:
        self.lines.sockets[0].poll()
        return next(self.lines.received(0))


# Runs on two engines.


def runs(cluster: Cluster) -> list[BenchRow]:
    """Two replicas beside one, and beside synchronous ranks of which one is slowed."""
    batches = LENET.batch_size
    tasks: dict[str, Callable[[], float]] = {
        "two": partial(asynchronous, cluster, LENET, Downpour(share=True)),
        "one": partial(asynchronous, cluster, LENET, Downpour()),
    }
    for times in SLOWED:
        slowed = replace(LENET, learner=Slowed(times))
        tasks[f"asynchronous {times}"] = partial(asynchronous, cluster, slowed, Downpour(share=True))
        tasks[f"synchronous {times}"] = partial(synchronous, cluster, slowed)
    seconds = in_turns(tasks, "LeNet-5", ROUNDS)
    rows = [
        speed_row(
            f"LeNet-5, batches of {batches}, two replicas, the server with one of them",
            seconds,
            "two",
            "one",
            "one replica, the server on the other engine",
            BATCHES * batches,
            "ratio at least 1.7",
        )
    ]
    for times in SLOWED:
        name = "Downpour, two replicas" + (f", one slowed {times} times" if times > 1 else "")
        what = "synchronous data parallel, the same batches"
        images = BATCHES * batches
        rows.append(speed_row(name, seconds, f"asynchronous {times}", f"synchronous {times}", what, images))
    return rows


class Slowed(CrossEntropy):
    """On the second engine each batch takes `times` as long, asleep: its core is left to the other, as a slow machine
    leaves it.
    """

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def fill_grad(self, model: Any, batch: Any, generator: torch.Generator) -> Any:
        begun = time.perf_counter()
        metrics = super().fill_grad(model, batch, generator)
        if os.environ.get("DLKIT_RANK") == "1":
            time.sleep((self.times - 1) * (time.perf_counter() - begun))
        return metrics


WARM = 20  # batches of a run that are not timed


def asynchronous(cluster: Cluster, experiment: Experiment, strategy: Downpour) -> float:
    """Seconds that BATCHES batches of all replicas take, by the first server's clock, after a warm-up."""
    made = replace(experiment, row_every=WARM, lr=0.001, momentum=0.0)
    run = cluster.run(made, strategy, steps=WARM + BATCHES, progress=False)
    first, *_, last = run.history.rows
    batches = (last["step"] or 0) - (first["step"] or 0)
    return ((last["seconds"] or 0.0) - (first["seconds"] or 0.0)) * BATCHES / batches


def synchronous(cluster: Cluster, experiment: Experiment) -> float:
    """The same images by DataParallel: each rank has as many of a step's as a replica has in a batch."""
    made = replace(experiment, batch_size=2 * experiment.batch_size, lr=0.001, momentum=0.0)
    return split_run(cluster, made, DataParallel(), BATCHES // 2, WARM // 2)
