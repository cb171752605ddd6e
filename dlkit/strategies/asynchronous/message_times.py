"""How long a parameter server takes for a message: it is in a process of its own, and the one who asks is here."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
import zmq

from dlkit.strategies.asynchronous.lines import Lines, as_values
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.rules import Plain
from dlkit.strategies.asynchronous.server import Plan, Server, split_values
from dlkit.strategies.asynchronous.serving import ServerSocket
from dlkit.strategies.asynchronous.wiring import Wiring, wiring_here

MESSAGES, ROUNDS = 200, 5  # of a round


@contextmanager
def beside(target: Callable[..., object], *arguments: Any) -> Iterator[zmq.Context]:
    """Sockets, while a process of its own runs `target` with the arguments and an event that asks it to end."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=target, args=(*arguments, stop), daemon=True)
    process.start()
    sockets = zmq.Context()
    try:
        yield sockets
    finally:
        stop.set()
        sockets.destroy(linger=0)
        process.join(5)
        process.kill()


@contextmanager
def answered(size: int) -> Iterator["Asks"]:
    """Who asks a server of so many values."""
    wiring, values = wiring_here(1), torch.randn(size)
    with beside(serve, wiring, size) as sockets:
        ours = Lines(wiring, sockets)
        while not ours.sockets[0].poll(100, zmq.POLLOUT):
            pass
        yield Asks(ours, values, torch.empty_like(values))


def answer_seconds(size: int) -> dict[str, float]:
    """Medians, for a server of so many values: of a `message`, a fetch or a push of all, with others under way; of a
    `command`, a message without values and its answer, of one who waits for it.
    """
    both, alone = [], []
    with answered(size) as asks:
        for _ in range(ROUNDS + 1):  # the first is not counted
            both.append(pipelined(asks.both, asks.both_answered, MESSAGES) / (2 * MESSAGES))
            begun = time.perf_counter()
            for _ in range(MESSAGES):
                asks.command()
            alone.append((time.perf_counter() - begun) / MESSAGES)
    return {"message": median(both[1:]), "command": median(alone[1:])}


def serve(wiring: Wiring, size: int, stop: Any) -> None:
    torch.set_num_threads(1)
    plan = Plan(split_values(size, 1), Plain, 1e-3, 1 << 40, 1, 1 << 40, 1 << 40)
    server = Server(plan, 0, torch.zeros(size))
    server.hurry()
    end = ServerSocket(wiring, 0, server)
    end.serve(stop.is_set)
    end.close()


def pipelined(send: Callable[[], object], receive: Callable[[], object], count: int) -> float:
    """Seconds of so many messages and answers, two of which are always under way."""
    begun = time.perf_counter()
    send()
    for sent in range(1, count + 1):
        if sent < count:
            send()
        receive()
    return time.perf_counter() - begun


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

    def command(self) -> None:
        self.lines.send(0, Message("hello", {"request": 1}))
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
