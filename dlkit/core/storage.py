"""Models on disk: one safetensors file whose header names the model. Nothing is unpickled."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

M = TypeVar("M", bound=nn.Module)


def save(model: nn.Module, path: str | Path) -> None:
    """Write `model` to `path`, atomically. `model.config()` gives the arguments that make a model of its shape."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"model": type(model).__name__, "config": json.dumps(model.config())}  # type: ignore[operator]
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(tensors, path, header)


def load(cls: type[M], path: str | Path, make: Callable[..., M] | None = None) -> M:
    """The model in a file that `save` wrote: `make(**config)` (by default `cls(**config)`) with its parameters.

    FileNotFoundError if there is no file, ValueError if it is damaged or holds a model of another class.
    """
    tensors, header = read_tensors(path)
    kind = header.get("model", "no dlkit model")
    if kind != cls.__name__:
        raise ValueError(f"{path} holds {kind}, not {cls.__name__}: load it with the class that saved it.")
    model = (make or cls)(**json.loads(header["config"]))
    try:
        model.to(next(iter(tensors.values())).dtype).load_state_dict(tensors)
    except (RuntimeError, StopIteration):
        call = f"{cls.__name__}({header['config']})"
        raise ValueError(f"{path} does not hold the tensors of {call}: save it again.") from None
    return model


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, header: dict[str, str]) -> None:
    """Write a safetensors file atomically: a reader finds the old file or the new one, never a part of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata=header)
        partial.chmod(mode)  # safetensors makes files that only their owner can read
        replace_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_file(partial: Path, path: Path) -> None:
    """Move a finished file to `path`, after flushing it to disk, so that a power cut leaves the old file or the new."""
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
