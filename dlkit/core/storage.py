"""Models on disk: one safetensors file whose header names the model; nothing is ever unpickled."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn


class Saved(Protocol):
    """A module that can say which arguments make one of its shape."""

    def config(self) -> dict: ...


M = TypeVar("M", bound=nn.Module)


def save(model: nn.Module, path: str | Path) -> None:
    """Write `model` to `path`: into a file beside it first, then moved over in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"model": type(model).__name__, "config": json.dumps(model.config())}  # type: ignore[operator]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, path, header)


def load(cls: type[M], path: str | Path, make: Callable[..., M] | None = None) -> M:
    """A `cls` made from the file that `save` wrote, by `make` (the class itself by default) from its config.

    FileNotFoundError if there is none, ValueError if it is damaged or holds another kind of model.
    """
    tensors, header = read_tensors(path)
    found = header.get("model", "no dlkit model")
    if found != cls.__name__:
        raise ValueError(f"{path} holds {found}, not {cls.__name__}: load it with the class that saved it.")
    model = (make or cls)(**json.loads(header["config"]))
    try:
        model.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    except (RuntimeError, StopIteration):
        what = f"{cls.__name__}({header['config']})"
        raise ValueError(f"{path} does not hold the tensors of {what}: save it again.") from None
    return model


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, header: dict[str, str]) -> None:
    """One safetensors file, atomically: a reader finds the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata=header)
        partial.chmod(mode)  # safetensors lets only its writer read it, and not the writer's students
        into_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def into_place(partial: Path, path: Path) -> None:
    """Move a whole file over `path`, once it is on the disk: after a power cut, too, the old or the new is there."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: give the path of a file that `save` wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): save it again.") from None
