"""Arrays in files: mapped by several processes, or in place of memory that is not there."""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import psutil
import torch
from torch import Tensor

from dlkit.core.text_table import format_bytes


@dataclass(frozen=True)
class MappedFile:
    """An array that lies in a file as in memory: it can be pickled in place of the array, and mapped by any process."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, array: object) -> "MappedFile | None":
        """The file of an array that was mapped by numpy, or None if it holds something else than the array.

        It does for arrays in memory, those mapped copy-on-write, and parts that are not in one piece.
        """
        mapped = mapping = array
        while isinstance(mapping, np.ndarray):
            mapped, mapping = mapping, mapping.base
        if not isinstance(array, np.ndarray) or not isinstance(mapped, np.memmap) or not isinstance(mapping, mmap.mmap):
            return None
        if mapped.mode == "c" or mapped.filename is None or not array.flags.c_contiguous or not array.size:
            return None
        begin = np.frombuffer(mapping, np.uint8).ctypes.data
        of_mapping = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY
        path = os.path.abspath(mapped.filename)
        file = cls(path, array.dtype.str, array.shape, of_mapping + array.ctypes.data - begin)
        try:
            same = np.array_equal(file.open()[[0, -1]], array[[0, -1]], equal_nan=True)
        except (OSError, ValueError):  # it was deleted, or cut
            return None
        return file if same else None

    def open(self) -> np.ndarray:
        """The array, mapped: what is written to it stays with this process."""
        return np.memmap(self.path, self.dtype, "c", self.offset, self.shape)


def check_memory(size: int, what: str, device: torch.device | None = None) -> None:
    """MemoryError if so many bytes are more than memory, or that of a GPU, has free."""
    free = psutil.virtual_memory().available
    if device is not None and device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for later use
        free = torch.cuda.mem_get_info(device)[0] + kept
    if size > free:
        raise MemoryError(
            f"{what} would take {format_bytes(size)}, and {format_bytes(free)} of memory are free: give a part of them."
        )


def gather(parts: Iterable[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The parts, one after another, as one tensor of this shape: in memory, or in a file if they take half of it.

    The file is mapped, and has no name: it goes with the tensor. MemoryError, before any part is made, if neither
    memory nor disk has the room.
    """
    size = prod(shape) * dtype.itemsize
    if size <= psutil.virtual_memory().available // 2:
        whole, row = torch.empty(shape, dtype=dtype), 0
        for part in parts:
            whole[row : row + len(part)] = part
            row += len(part)
        return whole
    folder = os.environ.get("TMPDIR", "/var/tmp")  # /tmp may be memory
    free = shutil.disk_usage(folder).free
    if size > 0.9 * free:
        raise MemoryError(
            f"the images take {format_bytes(size)} as {str(dtype).removeprefix('torch.')}, and neither half of the "
            f"free memory nor {folder}, {format_bytes(free)} free, has room: give a part of them, or set TMPDIR to a "
            "folder on a larger disk."
        )
    with tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            file.write(part.to(dtype).contiguous().numpy().data)
        file.flush()
        numpy_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        return torch.from_numpy(np.memmap(file, numpy_dtype, "c", shape=shape))
