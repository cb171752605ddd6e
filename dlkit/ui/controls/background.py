"""What is waited for of a widget that runs something in a thread."""

import asyncio
import threading
from collections.abc import Generator
from typing import Any, Generic, TypeVar

R = TypeVar("R")


class InBackground(Generic[R]):
    """A thread's run, which `await` and `wait` give at its end; `_over` is set when no thread is at work.

    `stop` asks it to end; `error` is what went wrong; `START` names the button that begins.
    """

    START = "Start"
    _over: threading.Event
    run: R | None
    error: Exception | None

    def stop(self) -> None:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, R]:
        """`run = await widget` in a cell: the run once it is over; the buttons work meanwhile, and so does ■."""
        return self._finished().__await__()

    def wait(self) -> R:
        """As `await`, where nothing can be awaited; while a cell waits like this only ■ can stop it."""
        while not self._over.is_set():
            try:
                self._over.wait(0.1)  # in slices: Python hears ■ between them on every system
            except KeyboardInterrupt:
                self.stop()
        return self._result()

    async def _finished(self) -> R:
        while not self._over.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:  # ■
                self.stop()
                self._over.wait()
        return self._result()

    def _result(self) -> R:
        if self.error is not None:
            raise self.error
        if self.run is None:
            raise RuntimeError(f"nothing to wait for: call start(), or press {self.START}, first.")
        return self.run
