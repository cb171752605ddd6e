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


class StopRequest:
    """Why a run is to end early: it was interrupted, or `event` is set. `interrupted` is for `on_interrupt`."""

    def __init__(self, event: threading.Event | None):
        self.event, self._why = event, ""

    def __repr__(self) -> str:
        return f"StopRequest({self.why!r})"

    @property
    def why(self) -> str | None:
        """The first reason; None while there is none."""
        if not self._why and self.event is not None and self.event.is_set():
            self._why = "stopped"
        return self._why or None

    def interrupted(self) -> bool:
        """Is it the first reason? A second Ctrl-C means it."""
        first = self.why is None
        self._why = self._why or "interrupted"
        return first
