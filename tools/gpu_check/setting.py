"""What a check is told, and how a part of it says that it cannot be tried here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """device: "cuda"; "cpu" tries the check's own code on a machine without a GPU. seconds: how long it may take."""

    device: str
    seconds: float

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"


class Skipped(Exception):
    """Raised by a part that cannot be tried here; its text is the reason."""


Part = tuple[str, Callable[[], str | None]]  # its name, and a function that gives what it measured, or raises
Parts = Iterator[Part]


def needs_gpu(setting: Setting) -> None:
    if not setting.is_gpu:
        raise Skipped("of a GPU alone")
