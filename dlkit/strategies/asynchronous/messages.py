"""What replicas and servers say to each other: a header that is signed, and a tensor as it lies in memory."""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SIGNATURE = 32  # bytes of HMAC-SHA256
LONGEST_HEADER = 1 << 16  # bytes


class Message(NamedTuple):
    """kind: fetch, push, hello, rows, stop or end, or that of the request that it answers. values: of one dimension."""

    kind: str
    fields: dict[str, Any]
    values: Tensor | None = None


class Refused(ValueError):
    """A message that is not one of this run's. fields: of its header, where that is signed."""

    def __init__(self, why: str, fields: dict[str, Any] | None = None):
        super().__init__(why)
        self.fields = fields


def pack(message: Message, key: bytes) -> list[Any]:
    """The frames of a message: its signed header, and the memory of its values, which is not copied."""
    fields = {"kind": message.kind, **message.fields}
    if message.values is not None:
        fields |= {"dtype": str(message.values.dtype).removeprefix("torch."), "count": len(message.values)}
    header = json.dumps(fields, separators=(",", ":")).encode()
    signed = hmac.digest(key, header, hashlib.sha256) + header
    return [signed] if message.values is None else [signed, memory_of(message.values)]


def unpack(frames: Sequence[Any], key: bytes, expected: dict[int, torch.dtype] | None = None) -> Message:
    """The message in these frames, whose values lie in the last one.

    expected: how many values of which type it may have. Refused if it is not signed by `key`, or is not as its header
    says: before anything is made of it.
    """
    signed = bytes(frames[0]) if frames and len(frames[0]) <= LONGEST_HEADER else b""
    header = signed[SIGNATURE:]
    if not hmac.compare_digest(signed[:SIGNATURE], hmac.digest(key, header, hashlib.sha256)):
        raise Refused("a message is not signed by this run's key.")
    fields = json.loads(header)
    kind, name, count = fields["kind"], fields.pop("dtype", None), fields.pop("count", None)
    if len(frames) != (1 if name is None else 2):
        raise Refused(f"a {kind} has {len(frames)} frames.", fields)
    if name is None:
        return Message(fields.pop("kind"), fields)
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or (expected is not None and expected.get(count) != dtype):
        wanted = " or ".join(f"{count:,} of {dtype}" for count, dtype in (expected or {}).items()) or "none"
        raise Refused(f"a {kind} has {count:,} values of {name}, and {wanted} can be: its net is another one.", fields)
    if len(frames[1]) != count * dtype.itemsize:
        raise Refused(f"a {kind} of {count:,} values of {dtype} has {len(frames[1]):,} bytes.", fields)
    return Message(fields.pop("kind"), fields, torch.frombuffer(frames[1], dtype=dtype))


def memory_of(values: Tensor) -> memoryview:
    return values.detach().contiguous().view(torch.uint8).numpy().data
