"""A run on disk: tensors in a safetensors file, all else in JSON; written atomically, never pickled.

A folder holds the newest checkpoint and the one before it, for the case that the newest is damaged one day.
"""

import tempfile
import zlib
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from dlkit.core.storage import in_a_sentence, read_json, read_tensors, replacing, write_json, write_tensors
from dlkit.training.history import History

STATE = "checkpoint.json"
BEFORE = "checkpoint-before.json"  # the state of the checkpoint before that
FORMAT = 3  # of the JSON; 2 had no checksums, 1 had other keys


def save_run(run: Any, folder: Path) -> None:
    """Write all that a run needs to go on with the same bits. All ranks call it; rank 0 writes.

    FloatingPointError if a tensor is no longer finite. OSError, on all ranks, if it cannot be written.
    """
    tensors, state = pack(run)
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(
                f"{name} is no longer finite at step {run.step}, so no checkpoint was written: try a smaller lr."
            )
    state = {"fingerprint": run.fingerprint, **state}
    run.shard.on_first_rank(lambda: write(folder, tensors, state))


def pack(run: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a run needs to go on: tensors, and what JSON holds."""
    shard = run.shard
    optimizer, numbers = shard.optimizer_state(run.optimizer)
    tensors = {f"model.{name}": value for name, value in shard.model_state().items()}
    tensors |= {f"learner.{name}": value for name, value in shard.learner_state().items()}
    tensors |= {f"sum.{name}": shard.gather(f"sum.{name}", value) for name, value in run._sums.items()}
    tensors |= optimizer | {"generator": run.generator.get_state()}
    return tensors, {
        "step": run.step,
        "seconds": run.seconds,
        "images": run._images,
        "row_start": run._row_start,
        "optimizer": numbers,
        "history": run.history.rows,
    }


def load_run(run: Any, folder: Path) -> None:
    """Take up the run that is kept in `folder`, if one is. ValueError if it is another's, or damaged."""
    checkpoint = read(folder)
    if checkpoint is None:
        return
    tensors, state = checkpoint
    refuse_another(run.fingerprint, state["fingerprint"], folder)
    unpack(run, tensors, state)


def refuse_another(here: dict[str, Any], there: dict[str, Any], folder: Path) -> None:
    """ValueError unless what is in the folder is of the run that is here, by their fingerprints."""
    if found := difference(here, there):
        raise ValueError(
            f"the checkpoint in {folder} is of another run ({found}): give another folder, or delete that one."
        )


def difference(here: dict[str, Any], there: dict[str, Any]) -> str:
    """The first difference of two fingerprints, in words; "" if there is none."""
    for name in here | there:
        if name != "layers" and there.get(name) != here.get(name):
            return f"{name}: {there.get(name)} there, {here.get(name)} here"
    for layer, own in here.get("layers", {}).items():
        kept = there.get("layers", {}).get(layer, {})  # an earlier version kept none, and torch's next one has others
        for name in own.keys() & kept.keys():
            if kept[name] != own[name]:
                return f"{layer}.{name}: {kept[name]} there, {own[name]} here".removeprefix(".")
    return ""


def unpack(run: Any, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Let the run go on from what `pack` gave."""

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
        "layers": run.layers,
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


def layers_of(model: nn.Module) -> dict[str, dict[str, str]]:
    """What each module of a net is made with beside its parameters, such as its stride: its public attributes that are
    plain values, or functions.
    """
    return {
        layer: {
            name: settings(value)
            for name, value in vars(module).items()
            if name != "training" and not name.startswith("_") and _is_plain(value)
        }
        for layer, module in model.named_modules()
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | FunctionType | BuiltinFunctionType)


def settings(value: Any) -> str:
    """A learner, or what it is made with, in words that are the same in each process: no address is in them."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(settings(item) for item in value)})"
    if isinstance(value, Tensor):
        return f"tensor({tuple(value.shape)}, checksum {_checksum(value)})"
    if isinstance(value, np.ndarray):
        return f"array({value.shape}, checksum {zlib.crc32(value.tobytes())})"
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


def prepare(folder: Path) -> None:
    """Make the folder, and try whether a file can be written in it: OSError now, and not after a training."""
    with in_a_sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint into `folder`, and keep the one before it, if it is of the same run.

    checkpoint.json names its tensor file and is moved over last: whenever the machine stops, one whole checkpoint
    is there. OSError, with the mend, if it cannot be written: the newest checkpoint is then as it was.
    """
    newest, before = _state_in(folder / STATE), _state_in(folder / BEFORE)
    taken = [kept["tensors"] for kept in (newest, before) if kept]
    names = (f"step-{state['step']:09d}{again}.safetensors" for again in ("", "-again", "-once-more"))
    name = next(name for name in names if name not in taken)
    try:
        write_tensors(tensors, folder / name, {})
        if newest and newest["step"] != state["step"]:
            with replacing(folder / BEFORE) as partial:
                partial.write_bytes((folder / STATE).read_bytes())
        write_json({"format": FORMAT, **state, "tensors": name}, folder / STATE)
    except OSError as error:
        kept = f"; the checkpoint of step {newest['step']} is still there, to go on from" if newest else ""
        raise type(error)(f"{str(error).removesuffix('.')}{kept}.") from error
    before = _state_in(folder / BEFORE)
    if before is None or before["fingerprint"] != state["fingerprint"]:
        before = None
        (folder / BEFORE).unlink(missing_ok=True)
    for old in folder.glob("step-*.safetensors"):
        if old.name not in (name, before and before["tensors"]):
            old.unlink(missing_ok=True)


def _state_in(path: Path) -> dict[str, Any] | None:
    """The JSON of a checkpoint, or None if there is none that is whole and of this version."""
    try:
        state = read_json(path)
    except (OSError, ValueError):
        return None
    return state if state.get("format") == FORMAT else None


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint in `folder`, or None if there is none. ValueError if it is damaged, or of another version.

    Where the newest has been deleted, it is the one before.
    """
    with in_a_sentence(folder, "read"):
        path = next((path for path in (folder / STATE, folder / BEFORE) if path.is_file()), None)
        if path is None:
            return None
        try:
            return _whole(path)
        except _Damaged as damage:
            mend = f"delete {folder} to start again"
            if path.name == STATE and (before := _step_before(folder)) is not None:
                mend = f"delete {path} to go on from step {before}, the newest that is whole"
            raise ValueError(f"{damage}: {mend}.") from None


class _Damaged(Exception):
    pass


def _whole(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The checkpoint whose JSON is at `path`. _Damaged, with what is, if its files are not as they were written."""
    try:
        state = read_json(path)
        version, tensor_file = state.get("format", 1), path.parent / state["tensors"]
    except (ValueError, KeyError, TypeError):
        raise _Damaged(f"{path} is damaged") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} was written by another version of dlkit (format {version}, and this one reads {FORMAT}): "
            f"delete {path.parent} to start again."
        )
    try:
        tensors, _ = read_tensors(tensor_file)
    except (FileNotFoundError, ValueError):
        raise _Damaged(f"{tensor_file} is missing or damaged") from None
    return tensors, state


def _step_before(folder: Path) -> int | None:
    """The step of the checkpoint before the newest, if it is there and whole."""
    try:
        return _whole(folder / BEFORE)[1]["step"]
    except (_Damaged, ValueError, OSError):
        return None
