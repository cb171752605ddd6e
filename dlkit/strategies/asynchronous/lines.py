"""Lines to servers: of a replica, which computes meanwhile, and of one who asks and waits."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
import zmq

from dlkit.strategies.asynchronous.client import Client
from dlkit.strategies.asynchronous.messages import Message, Refused, pack, unpack
from dlkit.strategies.asynchronous.wiring import POLL, QUEUE, Wiring


class Lines:
    """Connections to all servers, for one thread. Messages to a server that is not there are lost."""

    def __init__(self, wiring: Wiring, context: zmq.Context):
        self.wiring = wiring
        self.sockets = [self._connected(context, address) for address in wiring.addresses]

    def __repr__(self) -> str:
        return f"Lines({', '.join(self.wiring.addresses)})"

    def _connected(self, context: zmq.Context, address: str) -> zmq.Socket:
        line, wiring = context.socket(zmq.DEALER), self.wiring
        line.set(zmq.LINGER, 0)
        line.set_hwm(QUEUE)
        line.set(zmq.IMMEDIATE, 1)
        line.set(zmq.RECONNECT_IVL, 50)
        line.set(zmq.RECONNECT_IVL_MAX, 500)
        if wiring.encrypted:
            line.curve_serverkey = wiring.curve("servers")[0]
            line.curve_publickey, line.curve_secretkey = wiring.curve("replicas")
        else:
            line.plain_username, line.plain_password = b"dlkit", wiring.password
        line.connect(address)
        return line

    def send(self, number: int, message: Message) -> None:
        with suppress(zmq.Again):
            self.sockets[number].send_multipart(pack(message, self.wiring.signs), zmq.NOBLOCK, copy=False)

    def received(self, number: int) -> Iterator[Message]:
        """What has come from a server, and is signed."""
        with suppress(zmq.Again):
            while True:
                frames = self.sockets[number].recv_multipart(zmq.NOBLOCK, copy=False)
                with suppress(Refused):
                    yield unpack([frame.buffer for frame in frames], self.wiring.signs)


class Talk:
    """A thread that sends what a client has to say and gives it what comes, while the replica computes.

    The client is used under `changed`, which is notified whenever something has come.
    """

    def __init__(self, client: Client, wiring: Wiring):
        self.client, self.wiring = client, wiring
        self.changed = threading.Condition()
        self.error: BaseException | None = None
        self._context = zmq.Context()
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dlkit-talk", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"Talk({self.client})"

    def wake(self) -> None:
        """The client has something to say."""
        with suppress(zmq.Again):
            self._wake.send(b"", zmq.NOBLOCK)

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait, under `changed`, until this is so, which is looked at now and then. What servers refused is raised."""
        while not until():
            if self.error is not None:
                raise self.error
            self.changed.wait(POLL / 1000)

    def _run(self) -> None:
        try:
            woken = self._context.socket(zmq.PAIR)
            woken.connect("inproc://wake")
            lines, poller = Lines(self.wiring, self._context), zmq.Poller()
            for each in (woken, *lines.sockets):
                poller.register(each, zmq.POLLIN)
            while not self._ending.is_set():
                with self.changed:
                    due = list(self.client.outgoing(time.monotonic()))
                for number, message in due:
                    lines.send(number, message)
                for ready, _ in poller.poll(POLL):
                    if ready is woken:
                        with suppress(zmq.Again):
                            while True:
                                woken.recv(zmq.NOBLOCK)
                        continue
                    number = lines.sockets.index(ready)
                    for answer in lines.received(number):
                        with self.changed:
                            self.client.receive(number, answer, time.monotonic())
                            self.changed.notify_all()
        except BaseException as error:
            self.error = error
            with self.changed:
                self.changed.notify_all()

    def close(self) -> None:
        self._ending.set()
        self.wake()
        self._thread.join()
        self._context.destroy(linger=0)


class Asking:
    """One that asks servers and waits for each answer."""

    def __init__(self, wiring: Wiring):
        self._context = zmq.Context()
        self._lines = Lines(wiring, self._context)
        self._requests = 0

    def __repr__(self) -> str:
        return f"Asking({self._lines})"

    def ask(
        self, number: int, kind: str, timeout: float = 1.0, values: torch.Tensor | None = None, **fields: Any
    ) -> Message | None:
        """A server's answer; None if none comes in time, in seconds."""
        self._requests += 1
        request, deadline = self._requests, time.monotonic() + timeout
        message = Message(kind, {"request": request, **fields}, values)
        line = self._lines.sockets[number]
        while (left := deadline - time.monotonic()) > 0:
            if line.poll(int(1000 * left) + 1, zmq.POLLOUT):  # connected
                self._lines.send(number, message)
                break
        while (left := deadline - time.monotonic()) > 0:
            if line.poll(int(1000 * left) + 1):
                for answer in self._lines.received(number):
                    if answer.fields["request"] == request:
                        return answer
        return None

    def close(self) -> None:
        self._context.destroy(linger=0)


def as_values(message: Message) -> torch.Tensor:
    """The values that a message must have."""
    assert message.values is not None
    return message.values
