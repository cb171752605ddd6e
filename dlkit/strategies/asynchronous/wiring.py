"""How the ranks of a run reach its servers, and who may: one secret key, from which all others follow."""

import hashlib
import hmac
import secrets
import socket
from dataclasses import dataclass, field
from functools import cached_property

import zmq
from zmq.utils import z85

QUEUE = 16  # messages that wait at an end for each peer
POLL = 50  # milliseconds between two looks whether to end


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

    @cached_property
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
