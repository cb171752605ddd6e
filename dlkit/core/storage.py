"""Files that are whole: written aside, read back, moved into place; with a checksum that tells a single changed bit.

A model is one safetensors file whose header names it. Nothing is unpickled.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

M = TypeVar("M", bound=nn.Module)
SUM = "sha256"  # the key of the checksum, in a header and in JSON; files of earlier versions have none
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def save(model: nn.Module, path: str | Path) -> None:
    """Write `model` to `path`, atomically. `model.config()` gives the arguments that make a model of its shape.

    OSError, with the mend, if it cannot be written.
    """
    header = {"model": type(model).__name__, "config": json.dumps(model.config())}  # type: ignore[operator]
    write_tensors(model.state_dict(), Path(path), header)


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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    tensors = {name: tensor.clone() if _is_shared(tensor, tensors) else tensor for name, tensor in tensors.items()}
    header = header | {SUM: checksum(tensors, header)}
    with replacing(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata=header)
        partial.chmod(mode)  # safetensors makes files that only their owner can read
        _check_read_back(_same_tensors(partial, tensors, header))


def _is_shared(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> bool:
    """Has another of the tensors the same memory, as weights that two layers share? safetensors refuses it."""
    memory = tensor.untyped_storage().data_ptr()
    return sum(other.untyped_storage().data_ptr() == memory for other in tensors.values()) > 1


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file. ValueError if it is not whole, or not as it was written."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: give the path of a file that `save` wrote.")
    try:
        tensors, header = _read(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): save it again.") from None
    if header.pop(SUM, None) not in (None, checksum(tensors, header)):
        raise ValueError(f"{path} is damaged (its contents do not match their checksum): save it again.")
    return tensors, header


def _read(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (no dict)


def _same_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> bool:
    """Whether the file holds these tensors, to the bit, and this header."""
    found, found_header = _read(path)
    return (found_header, found.keys()) == (header, tensors.keys()) and all(
        torch.equal(_bytes(found[name]), _bytes(tensor)) for name, tensor in tensors.items()
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def checksum(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    """The SHA-256 of the header and of all tensors: their names, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(sorted(header.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor).numpy().data)
    return digest.hexdigest()


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(values | {SUM: _json_sum(values)}))
        _check_read_back(json.dumps(read_json(partial)) == json.dumps(values))  # as text: NaN is no NaN's equal


def read_json(path: Path) -> dict[str, Any]:
    """What is in a JSON file that `write_json` wrote. ValueError if it is not as it was written."""
    try:
        values = json.loads(path.read_text())
        if values.pop(SUM, None) in (None, _json_sum(values)):
            return values
    except (ValueError, AttributeError, TypeError):
        pass
    raise ValueError(f"{path} is damaged (its contents do not match their checksum).") from None


def _json_sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _check_read_back(same: bool) -> None:
    """OSError if a file that was just written is not as it was in memory."""
    if not same:
        raise OSError(errno.EIO, "what is read back is not what was written")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of `path`; after an error the old one is still there.

    It is flushed to disk first, so that a power cut leaves the old file or the new.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with in_a_sentence(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def in_a_sentence(path: Path, what: str = "written") -> Iterator[None]:
    """Context in which an OSError about `path`, and safetensors' of the same kind, becomes a sentence with the mend."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None) or int((re.findall(r"os error (\d+)", str(error)) or [0])[0])
        mend = "give a path on another disk"
        if number in FULL:
            mend = "delete what nobody needs there, or give a path on a disk with room"
        elif number in FORBIDDEN:
            mend = "give a path in a folder that is yours"
        elif number in NO_FOLDER:
            mend = "there is a file where a folder should be, so give another path, or move that file away"
        kind = type(error) if isinstance(error, OSError) else OSError
        why = os.strerror(number) if number else str(error)
        raise kind(f"{path} could not be {what} ({why}): {mend}.") from error
