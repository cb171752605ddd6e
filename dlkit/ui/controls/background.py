"""A widget that works in a thread: its buttons, its status line, and how a cell waits for its end."""

import asyncio
import threading
from collections.abc import Callable, Generator
from html import escape
from typing import Any, ClassVar, Generic, TypeVar

import ipywidgets as widgets

from dlkit.ui.draw.pictures import VERMILION, caption_html

R = TypeVar("R")


class InBackground(widgets.VBox, Generic[R]):
    """A widget that computes a result, `run`, in a thread. `error` is the exception that ended the thread, or None.

    A subclass puts `start_button`, `stop_button` and `status` into its `children`, and its `start` calls
    `_begin(work, text)`. `work` runs in the thread: it sets `run`, shows text by `_say`, and ends soon after
    `_stop_requested` is set.
    """

    START = "Start"  # the name of the button that begins
    STOPPING = "Stopping ..."
    BUSY = "it is at work: stop() it, or wait() for it, first."
    current: ClassVar["InBackground | None"] = None  # of each subclass: the widget that works, or worked last

    def __init__(self, start_tooltip: str, stop_tooltip: str):
        super().__init__()
        self.run: R | None = None
        self.error: Exception | None = None
        self._stop_requested, self._idle = threading.Event(), threading.Event()
        self._idle.set()
        self.start_button = self._button(self.START, "play", start_tooltip, self.start)
        self.stop_button = self._button("Stop", "stop", stop_tooltip, self.stop)
        self.stop_button.disabled = True
        self.status = widgets.HTML()
        self._say(f"Ready: press {self.START}.")

    def start(self) -> None:
        """Begin to work, in a thread."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ask the thread to end, and keep the result so far."""
        self._stop_requested.set()
        if not self._idle.is_set():
            self._say(self.STOPPING)

    def retire(self) -> None:
        """Stop, and return when the thread has ended."""
        self._stop_requested.set()
        self._idle.wait()

    def wait(self) -> R:
        """The result, once the thread has ended; its exception is raised. While a cell waits, only ■ can stop it."""
        while not self._idle.is_set():
            try:
                self._idle.wait(0.1)  # a wait without a limit would not be interrupted on every system
            except KeyboardInterrupt:
                self.stop()
        return self._result()

    def __await__(self) -> Generator[Any, None, R]:
        """As `wait`, for `run = await widget` in a cell: the buttons work meanwhile, and so does ■."""
        return self._finished().__await__()

    async def _finished(self) -> R:
        while not self._idle.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:  # ■
                self.stop()
                self._idle.wait()
        return self._result()

    def _result(self) -> R:
        if self.error is not None:
            raise self.error
        if self.run is None:
            raise RuntimeError(f"nothing to wait for: call start(), or press {self.START}, first.")
        return self.run

    # For subclasses.

    def _become_current(self) -> None:
        """Stop the widget of this class that came before: when a cell runs again, it makes a new one."""
        before = type(self).current
        if before is not None:
            before.retire()
        type(self).current = self

    def _begin(self, work: Callable[[], object], text: str) -> None:
        """Do `work` in a thread, and show `text`. RuntimeError while another thread is at work."""
        if not self._idle.is_set():
            raise RuntimeError(self.BUSY)
        self.error = None
        self._stop_requested.clear()
        self._idle.clear()
        self._enable(busy=True)
        self._say(text)
        threading.Thread(target=self._do, args=(work,), name=type(self).__name__, daemon=True).start()

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            self.error = error
            self._say(self._explain(error), failed=True)
        finally:
            self._end()
            self._enable(busy=False)
            self._idle.set()

    def _explain(self, error: Exception) -> str:
        """The text for an exception in the thread."""
        return f"Failed: {type(error).__name__}: {error}"

    def _end(self) -> None:
        """Called in the thread when the work has ended, by an error too."""

    def _enable(self, busy: bool) -> None:
        """Let those buttons be pressed that do something now."""
        self.start_button.disabled, self.stop_button.disabled = busy, not busy

    def _button(self, name: str, icon: str, tooltip: str, action: Callable[[], object]) -> widgets.Button:
        button = widgets.Button(description=name, icon=icon, tooltip=tooltip, layout={"width": "90px"})
        button.on_click(lambda _: action())
        return button

    def _say(self, text: str, failed: bool = False) -> None:
        words = escape(text)
        self.status.value = caption_html(f'<span style="color: {VERMILION}">{words}</span>' if failed else words)
