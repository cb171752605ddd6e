"""Messages over TCP, by zmq: who may talk to a server, and how much a message may hold.

Each message is signed. On one machine a peer also gives a password before it may send anything; between machines both
ends prove that they have the run's key, and all is encrypted (CurveZMQ).
"""

import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from dlkit.strategies.asynchronous.client import Client
from dlkit.strategies.asynchronous.messages import LONGEST_HEADER, Message, Refused, pack, unpack
from dlkit.strategies.asynchronous.server import Server

QUEUE = 16  # messages that wait at an end for each peer
POLL = 50  # milliseconds between two looks whether to end
PATIENCE = 20.0  # seconds for all replicas to begin together
BIND_TIMEOUT = 10.0  # seconds for a port to come free that an earlier life of a server has had


@dataclass(frozen=True)
class Wiring:
    """How the ranks of a run reach its servers; whoever starts the ranks hands it to them.

    addresses: of each server, such as "tcp://127.0.0.1:5555". key: 32 secret bytes. encrypted: between machines.
    """

    addresses: tuple[str, ...]
    key: bytes = field(repr=False)
    encrypted: bool = False

    def secret(self, purpose: str) -> bytes:
        """32 bytes that follow from the key, and do not tell it."""
        return hmac.digest(self.key, purpose.encode(), hashlib.sha256)

    @property
    def signs(self) -> bytes:
        return self.secret("signature")

    @property
    def password(self) -> bytes:
        return self.secret("password").hex().encode()

    def curve(self, who: str) -> tuple[bytes, bytes]:
        """The public and the secret key of the servers, or of the replicas."""
        secret = z85.encode(self.secret(f"curve of the {who}"))
        return zmq.curve_public(secret), secret


def wiring_here(servers: int) -> Wiring:
    """Of servers on this machine, at ports that are free now; nothing but loopback reaches them."""
    taken = [socket.socket() for _ in range(servers)]
    try:
        for each in taken:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in taken]
    finally:
        for each in taken:
            each.close()
    return Wiring(tuple(f"tcp://127.0.0.1:{port}" for port in ports), secrets.token_bytes(32))


class ServerSocket:
    """A server's end: `serve` answers until the run ends. refused: how many messages were not this run's.

    OSError, with the address, if it cannot be listened at.
    """

    def __init__(self, wiring: Wiring, number: int, server: Server):
        self.wiring, self.server, self.refused = wiring, server, 0
        values = server.shard.values
        self.expected = {len(values): values.dtype}
        self.context = zmq.Context()
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.socket = self.context.socket(zmq.ROUTER)
        try:
            self._authenticate()
            self.socket.set(zmq.MAXMSGSIZE, values.nbytes + LONGEST_HEADER)
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
            message = unpack([frame.buffer for frame in frames[1:]], self.wiring.signs, self.expected)
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

    def close(self) -> None:
        self.authenticator.stop()
        self.context.destroy(linger=0)


class OnlyKey:
    """For zmq's authenticator: one public key may connect."""

    def __init__(self, public: bytes):
        self.public = public

    def callback(self, domain: str, key: bytes) -> bool:
        return hmac.compare_digest(key, self.public)


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

    def wait(self, until: Callable[[], bool], look: Callable[[], object]) -> None:
        """Wait, under `changed`, until this is so; `look` is called now and then. What servers refused is raised."""
        while not until():
            if self.error is not None:
                raise self.error
            self.changed.wait(POLL / 1000)
            look()

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

    def ask(self, number: int, kind: str, timeout: float = 1.0, **fields: Any) -> Message | None:
        """A server's answer; None if none comes in time, in seconds."""
        self._requests += 1
        request, deadline = self._requests, time.monotonic() + timeout
        message = Message(kind, {"request": request, **fields})
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
