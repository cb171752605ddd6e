"""Ports for servers that tests start."""

import random
import socket


def free_port() -> int:
    """A port of loopback on which nothing listens; the system gives none of this range to other programs meanwhile."""
    while True:
        port = random.randrange(20_000, 30_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            pass
