"""Messages of a parameter server in a process of its own, to one who always has two under way, as replicas have."""

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import zmq

from dlkit.bench.parallel_turns import in_turns
from dlkit.bench.timing import Seconds, ratio
from dlkit.core.reports import BenchRow
from dlkit.core.text_table import format_bytes
from dlkit.strategies import Plain
from dlkit.strategies.asynchronous.lines import Lines, as_values
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.server import Plan, Server, split_values
from dlkit.strategies.asynchronous.serving import ServerSocket
from dlkit.strategies.asynchronous.wiring import Wiring, wiring_here

MESSAGES = 200  # of a task; fewer of large ones


def messages(size: int, rounds: int) -> list[BenchRow]:
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
        seconds = in_turns(tasks, f"{size:,} values", rounds)
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
