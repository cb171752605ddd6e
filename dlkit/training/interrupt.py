"""Ctrl-C, or ■ in a notebook, as a request to stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_interrupt(ask: Callable[[], bool]) -> Iterator[None]:
    """Turn Ctrl-C into a call of `ask`, so that no step is left half done; where it gives False, into an interrupt."""

    def on_signal(signum, frame):
        if not ask():
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, on_signal) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
