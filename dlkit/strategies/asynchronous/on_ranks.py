"""What ranks of a torch.distributed group need for a run without common steps: a stop that all see, and threads."""

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist

from dlkit.core.global_generators import undisturbed
from dlkit.distributed.group import Group
from dlkit.distributed.process_group import enter_group, ranks_here, run_group
from dlkit.training.interrupt import StopRequest

POLL = 0.1  # seconds between two looks

T = TypeVar("T")


def ranks_of_one_machine(strategy: Any, others: dict[str, Any]) -> Group:
    """All ranks, which talk by addresses of this machine. ValueError for ranks elsewhere, and for `others`: settings
    that are not for such a strategy.
    """
    enter_group()
    name = type(strategy).__name__
    if others := {setting: value for setting, value in others.items() if value}:
        raise ValueError(
            f"{' and '.join(f'{setting}=' for setting in others)} cannot be had with {name}, whose ranks take no "
            "common steps: leave it out."
        )
    if (ranks_here() or 1) < dist.get_world_size():
        raise ValueError(f"{name} under torchrun is for the ranks of one machine: use Cluster(...).")
    return Group(run_group())


def beside_a_run(callbacks: Sequence[Callable[[Any], Any]]) -> list[Callable[[Any], Any]]:
    """The callbacks, each of which waits while a run in another thread has lent its seed to what it may draw from."""

    def alone(callback: Callable[[Any], Any], run: Any) -> Any:
        with undisturbed():
            return callback(run)

    return [partial(alone, callback) for callback in callbacks]


class SharedStop:
    """A stop that one rank asks for, and all see. All ranks make it together."""

    def __init__(self, everyone: Group, event: threading.Event | None):
        self.own = StopRequest(event)
        name = everyone.gather_objects(os.urandom(8).hex())[0]
        self.store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())

    def __repr__(self) -> str:
        return f"SharedStop({self.own})"

    @property
    def why(self) -> str | None:
        """The first reason that any rank has told of; None while there is none."""
        told = self.store.check(["stop"])
        if self.own.why is not None and not told:
            self.store.set("stop", self.own.why)
            told = True
        return self.store.get("stop").decode() if told else None


class InThread(Generic[T]):
    """A function that runs beside this thread, on the same GPU."""

    def __init__(self, function: Callable[[], T]):
        self._function = function
        self._gpu = torch.cuda.current_device() if torch.cuda.is_initialized() else None  # a thread's own
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"InThread({'running' if self.runs() else 'ended'})"

    def _run(self) -> None:
        try:
            if self._gpu is not None:
                torch.cuda.set_device(self._gpu)
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def runs(self, wait: float = 0.0) -> bool:
        """Does it, after so many seconds?"""
        self._thread.join(wait)
        return self._thread.is_alive()

    def check(self) -> None:
        """Raise what it has raised."""
        if self._error is not None:
            raise self._error

    def result(self) -> T:
        """What it gave; waits for it, and raises what it has raised."""
        self._thread.join()
        self.check()
        return self._result  # type: ignore[return-value]
