"""A run on disk: tensors in a safetensors file, all else in JSON; written atomically, never pickled."""

import json
import os
import zlib
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlkit.core.storage import read_tensors, replace_file, write_tensors
from dlkit.training.history import History

STATE = "checkpoint.json"
FORMAT = 2  # of the JSON; 1 had other keys


def save_run(run: Any, folder: Path) -> None:
    """Write all that a run needs to go on with the same bits. All ranks call it; rank 0 writes.

    FloatingPointError if a tensor is no longer finite.
    """
    shard = run.shard
    optimizer, numbers = shard.optimizer_state(run.optimizer)
    tensors = {f"model.{name}": value for name, value in shard.model_state().items()}
    tensors |= {f"learner.{name}": value for name, value in shard.learner_state().items()}
    tensors |= {f"sum.{name}": shard.gather(f"sum.{name}", value) for name, value in run._sums.items()}
    tensors |= optimizer | {"generator": run.generator.get_state()}
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(
                f"{name} is no longer finite at step {run.step}, so no checkpoint was written: try a smaller lr."
            )
    state = {
        "fingerprint": run.fingerprint,
        "step": run.step,
        "seconds": run.seconds,
        "images": run._images,
        "row_start": run._row_start,
        "optimizer": numbers,
        "history": run.history.rows,
    }
    if shard.rank == 0:
        write(folder, tensors, state)


def load_run(run: Any, folder: Path) -> None:
    """Take up the run that is kept in `folder`, if one is. ValueError if it is another's, or damaged."""
    checkpoint = read(folder)
    if checkpoint is None:
        return
    tensors, state = checkpoint
    for name in run.fingerprint | state["fingerprint"]:
        here, there = run.fingerprint.get(name), state["fingerprint"].get(name)
        if there != here:
            raise ValueError(
                f"the checkpoint in {folder} is of another run ({name}: {there} there, {here} here): "
                "give another folder, or delete that one."
            )

    def named(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    shard = run.shard
    shard.load_model(named("model."))
    shard.load_learner(named("learner."), run.device)
    sums = {name: shard.scatter(f"sum.{name}", value) for name, value in named("sum.").items()}
    run._sums = {name: value.to(run.device) for name, value in sums.items()}
    shard.load_optimizer(run.optimizer, tensors, state["optimizer"])
    run.generator.set_state(tensors["generator"])
    run.step, run.seconds, run._images = state["step"], state["seconds"], state["images"]
    run._row_start = tuple(state["row_start"])
    run.history = History(state["history"])


def fingerprint(run: Any) -> dict[str, Any]:
    """What must be the same for a checkpoint to be this run's, however it is split."""
    images, labels = run.data.images, run.data.labels
    replicas = {"replicas": run.shard.replicas} if run.shard.replicas > 1 else {}
    return replicas | {
        "model": run.model_class,
        "shapes": run.shapes,
        "learner": settings(run.learner),
        "optimizer": type(run.optimizer).__name__,
        "batch_size": run.experiment.batch_size,
        "seed": run.experiment.seed,
        "dtype": str(run.experiment.dtype),
        "rng_device": run.generator.device.type,
        "images": len(images),
        "pixels": _checksum(images),
        "labels": None if labels is None else _checksum(labels),
    }


def settings(value: Any) -> str:
    """A learner, or what it is made with, in words that are the same in each process: no address is in them."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(settings(item) for item in value)})"
    if isinstance(value, Tensor):
        return f"tensor({tuple(value.shape)}, checksum {_checksum(value)})"
    if isinstance(value, partial):
        return f"partial({settings(value.func)}, {settings(value.args)}, {settings(value.keywords)})"
    if hasattr(value, "__qualname__"):
        return value.__qualname__
    if isinstance(value, dict):
        own = value
    elif is_dataclass(value):
        own = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    else:
        own = {name: item for name, item in getattr(value, "__dict__", {}).items() if name != "state"}
    return f"{type(value).__qualname__}({', '.join(f'{name}={settings(item)}' for name, item in own.items())})"


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().numpy().data)


def write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint into `folder`, in place of the one before it.

    checkpoint.json names its tensor file and is moved over last: whenever the machine stops, one whole checkpoint
    is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{state['step']:09d}.safetensors"
    write_tensors({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / name, {})
    unfinished = folder / f".{STATE}.{os.getpid()}"
    try:
        unfinished.write_text(json.dumps({"format": FORMAT, **state, "tensors": name}))
        replace_file(unfinished, folder / STATE)
    finally:
        unfinished.unlink(missing_ok=True)
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint in `folder`, or None if there is none. ValueError if it is damaged, or of another version."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text())
        tensors, version = folder / state["tensors"], state.get("format", 1)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged: delete {folder} to start again.") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} was written by another version of dlkit (format {version}, and this one reads {FORMAT}): "
            f"delete {folder} to start again."
        )
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
    prefix = "optimizer."
    packed = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in (packed | numbers).items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape:  # fused optimizers go by the order in memory
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
