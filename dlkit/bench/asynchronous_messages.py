"""Messages of a parameter server in a process of its own, to one who always has two under way, as replicas have."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
import zmq

from dlkit.bench.parallel_turns import in_turns
from dlkit.bench.timing import Seconds, ratio
from dlkit.core.reports import BenchRow
from dlkit.core.text_table import format_bytes
from dlkit.strategies.asynchronous.message_times import MESSAGES, answered, beside, pipelined
from dlkit.strategies.asynchronous.wiring import wiring_here


def messages(size: int, rounds: int) -> list[BenchRow]:
    """A fetch and a push of so many values, beside a bare socket's, and a copy of the same bytes."""
    count = max(10, min(MESSAGES, 800_000_000 // (4 * size)))  # fewer of large ones
    with answered(size) as asks, echoed(size) as bare:
        values, target = asks.values, asks.target
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


@contextmanager
def echoed(size: int) -> Iterator[zmq.Socket]:
    """A bare socket whose peer, in a process of its own, gives back so many values."""
    (address,) = wiring_here(1).addresses
    with beside(echo, address, size) as sockets:
        bare = sockets.socket(zmq.DEALER)
        bare.connect(address)
        bare.send(b"")
        bare.recv()
        yield bare


def gigabytes_row(
    name: str, seconds: Seconds, task: str, reference: str, what: str, nbytes: int, goal: str
) -> BenchRow:
    speed, beside = (nbytes / median(seconds[each]) / 1e9 for each in (task, reference))
    return BenchRow(name, speed, "GB/s", f"{what}: {beside:.2f} GB/s", ratio(seconds, task, reference), goal)


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


def take(line: zmq.Socket, target: torch.Tensor) -> None:
    target.copy_(torch.frombuffer(line.recv(copy=False).buffer, dtype=torch.float32))
