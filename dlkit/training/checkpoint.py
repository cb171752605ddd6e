"""A run on disk: tensors in a safetensors file, all else in JSON; written atomically, never pickled."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlkit.core.storage import read_tensors, replace_file, write_tensors

STATE = "checkpoint.json"


def write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint into `folder`, in place of the one before it.

    checkpoint.json names its tensor file and is moved over last: whenever the machine stops, one whole checkpoint
    is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{state['step']:09d}.safetensors"
    write_tensors({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / name, {})
    partial = folder / f".{STATE}.{os.getpid()}"
    try:
        partial.write_text(json.dumps(state | {"tensors": name}))
        replace_file(partial, folder / STATE)
    finally:
        partial.unlink(missing_ok=True)
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint in `folder`, or None if there is none. ValueError if it is damaged."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text())
        tensors = folder / state["tensors"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: delete {folder} to start again.") from None
    try:
        return read_tensors(tensors)[0], state
    except (FileNotFoundError, ValueError):
        raise ValueError(f"{tensors} is missing or damaged: delete {folder} to start again.") from None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state by parameter index, its tensors apart from its numbers."""
    tensors, numbers = {}, {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Put back what `pack_optimizer` took."""
    state: dict[int, dict[str, Any]] = {}
    found = {key.removeprefix("optimizer."): value for key, value in tensors.items() if key.startswith("optimizer.")}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in (found | numbers).items():
        index, name = key.split(".", 1)
        like = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == like.shape:  # fused optimizers go by the order in memory
            value = torch.empty_like(like).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
