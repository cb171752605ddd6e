"""A server's end of the lines: who may connect, how much a message may hold, and a thread that answers.

Each message is signed. On one machine a peer also gives a password before it may send anything; between machines both
ends prove that they have the run's key, and all is encrypted (CurveZMQ).
"""

import hmac
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import torch
import zmq
from zmq.auth.thread import ThreadAuthenticator

from dlkit.strategies.asynchronous.messages import LONGEST_HEADER, Message, Refused, pack, unpack
from dlkit.strategies.asynchronous.wiring import POLL, QUEUE, Wiring

PATIENCE = 20.0  # seconds for all replicas to begin together
BIND_TIMEOUT = 10.0  # seconds for a port to come free that an earlier life of a server has had


@runtime_checkable
class Answers(Protocol):
    """What a server is, without its socket. expected: how many values of which type a message may have."""

    ended: bool
    expected: dict[int, torch.dtype]

    def handle(self, sender: Any, message: Message) -> Iterator[tuple[Any, Message]]:
        """What there is to answer, and to whom."""
        ...

    def hurry(self) -> None:
        """Called when all have had the time to begin."""
        ...


class ServerSocket:
    """A server's end: `serve` lets it answer until the run ends. refused: how many messages were not this run's.
    bytes_sent: of all values.

    OSError, with the address, if it cannot be listened at.
    """

    def __init__(self, wiring: Wiring, number: int, server: Answers):
        self.wiring, self.server, self.refused, self.bytes_sent = wiring, server, 0, 0
        self.context = zmq.Context()
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.socket = self.context.socket(zmq.ROUTER)
        try:
            self._authenticate()
            largest = max((count * dtype.itemsize for count, dtype in server.expected.items()), default=0)
            self.socket.set(zmq.MAXMSGSIZE, largest + LONGEST_HEADER)
            self.socket.set(zmq.LINGER, 0)
            self.socket.set_hwm(QUEUE)
            self._bind(wiring.addresses[number])
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"ServerSocket({self.server})"

    def _authenticate(self) -> None:
        """Set who may connect."""
        wiring, auth = self.wiring, self.authenticator
        if wiring.encrypted:
            self.socket.curve_server = True
            self.socket.curve_publickey, self.socket.curve_secretkey = wiring.curve("servers")
            allowed = wiring.curve("replicas")[0]
            auth.configure_curve_callback("*", credentials_provider=OnlyKey(allowed))
        else:
            self.socket.plain_server = True
            auth.configure_plain("*", {"dlkit": wiring.password.decode()})

    def _bind(self, address: str) -> None:
        deadline = time.monotonic() + BIND_TIMEOUT
        while True:
            try:
                self.socket.bind(address)
                return
            except zmq.ZMQError as error:
                if time.monotonic() > deadline:
                    raise OSError(
                        f"a parameter server cannot listen at {address} ({error}): another program has that port; "
                        "run again, which takes another."
                    ) from None
                time.sleep(POLL / 1000)

    def serve(self, ends: Callable[[], bool]) -> None:
        """Answer messages until the run has ended, or `ends` says so."""
        begun = time.monotonic()
        while not self.server.ended and not ends():
            if time.monotonic() - begun > PATIENCE:
                self.server.hurry()
            if not self.socket.poll(POLL):
                continue
            with suppress(zmq.Again):
                while True:
                    self._take(self.socket.recv_multipart(zmq.NOBLOCK, copy=False))

    def _take(self, frames: Sequence[Any]) -> None:
        sender = frames[0].bytes
        try:
            message = unpack([frame.buffer for frame in frames[1:]], self.wiring.signs, self.server.expected)
        except Refused as refused:
            self.refused += 1
            if refused.fields is not None:
                told = {"request": refused.fields.get("request", 0), "error": str(refused)}
                self._answer(sender, Message(refused.fields["kind"], told))
            return
        for to, answer in self.server.handle(sender, message):
            self._answer(to, answer)

    def _answer(self, to: bytes, answer: Message) -> None:
        with suppress(zmq.Again):  # of one that does not take its answers: it asks again
            self.socket.send_multipart([to, *pack(answer, self.wiring.signs)], zmq.NOBLOCK)
            self.bytes_sent += 0 if answer.values is None else answer.values.nbytes

    def close(self) -> None:
        self.authenticator.stop()
        self.context.destroy(linger=0)


class Serving:
    """A server on a thread of its own."""

    def __init__(self, wiring: Wiring, number: int, server: Answers):
        self.server = server
        self.socket = ServerSocket(wiring, number, server)
        self.error: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"dlkit-server-{number}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"Serving({self.server})"

    def _serve(self) -> None:
        try:
            self.socket.serve(self._ending.is_set)
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Raise what has gone wrong."""
        if self.error is not None:
            raise self.error

    def wait(self) -> None:
        """Until the run has ended. What went wrong is raised."""
        self._thread.join()
        self.check()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self.socket.close()


class OnlyKey:
    """For zmq's authenticator: one public key may connect."""

    def __init__(self, public: bytes):
        self.public = public

    def callback(self, domain: str, key: bytes) -> bool:
        return hmac.compare_digest(key, self.public)
