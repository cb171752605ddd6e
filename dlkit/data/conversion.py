"""Images and labels in the forms that other libraries give them, made tensors where their meaning is clear."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from dlkit.data.checks import dtype_name, full_scale
from dlkit.data.mapped import MappedFile, check_memory, gather

AT_A_TIME = 2**24  # pixels that are converted at a time
GREY = ("1", "L", "F", "I", "I;16")  # modes of PIL images: one number a pixel, its brightness

_said: set[str] = set()


def say(what: str) -> None:
    """Print what was done to data, once in this process."""
    if what not in _said:
        _said.add(what)
        print(f"Data: {what}.")


def as_images(value: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """The images as a tensor of `dtype`; those that are of it already are shared, and what is done to others is said.

    Floats keep their values. Integers become numbers from 0 to 1 if it is clear which one is white: all are 0 or 1, the
    largest is 255, or more than half of the range of an unsigned type is in use. Arrays (n, height, width, 3), or of
    squares (n, size, size, 1), are taken as channels last; float tensors are not, as torch has channels first.
    """
    array = as_array(value, "images")
    if isinstance(array, Tensor):
        if array.dtype == dtype:
            return array
        if dtype == torch.float32:  # float64 is what the reader has asked for
            say(f"images {dtype_name(array.dtype)} were made {dtype_name(dtype)}")
        return gather(array.split(_rows(array)), tuple(array.shape), dtype) if array.ndim else array.to(dtype)
    kind, name = array.dtype.kind, array.dtype.name
    if not array.size or not array.ndim:
        return torch.from_numpy(array.astype(dtype_name(dtype)))  # to be refused for its shape
    if name == dtype_name(dtype):
        images = _shared(array, dtype)
    else:
        scale, span = (1, "") if kind == "f" else _scale(value, array)
        images = gather(_chunks(array, dtype, scale), array.shape, dtype)
        say(f"images {name}{span} were {f'divided by {scale}' if scale > 1 else f'made {dtype_name(dtype)}'}")
    if array.ndim == 4 and _channels_last(*array.shape[1:]):
        images = images.permute(0, 3, 1, 2)
        say(f"images {array.shape[1:]}, channels last, were turned to {tuple(images.shape[1:])}")
    return images


def as_labels(value: Any) -> Tensor:
    """The labels as an int64 tensor: whole numbers of any type, also as a column, or as rows of one 1 among 0s."""
    labels = as_array(value, "labels")
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind != "f" and labels.dtype.name != "int64":
            say(f"labels {labels.dtype.name} were made int64")
        labels = torch.from_numpy(labels.astype(np.float64 if labels.dtype.kind == "f" else np.int64))
    shape = tuple(labels.shape)
    if labels.ndim == 2 and shape[1] == 1:
        labels = labels.flatten()
    elif labels.ndim == 2 and bool((((labels == 0) | (labels == 1)).all(1) & (labels.sum(1) == 1)).all()):
        labels = labels.argmax(1)
        say(f"labels {shape}, rows of one 1 among 0s, were made the numbers of their classes")
    if labels.ndim == 1 and labels.is_floating_point():
        wrong = (labels != labels.floor()) | labels.isinf()  # NaN is not equal to itself
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise ValueError(
                f"labels[{first}] = {float(labels[first]):g} is no class, and labels are numbers of classes: "
                "`labels.round()`, or keep the images whose labels are whole, `labels == labels.round()`."
            )
        say(f"labels {dtype_name(labels.dtype)} were made int64")
        labels = labels.long()
    return labels


def as_array(value: Any, name: str) -> Tensor | np.ndarray:
    """The numbers in `value`: floats that torch has as a tensor without a graph, all else as an array.

    TypeError or ValueError, with a mend for its kind, if it holds no numbers, or not in one shape.
    """
    array = _opened(value, name)
    if isinstance(array, Tensor) or array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "c":
        raise ValueError(f"{name} are {array.dtype.name}: give their magnitude, `abs({name})`.")
    if name == "labels":
        raise TypeError(
            "labels are text or objects, and a class is a whole number: `numpy.unique(labels, return_inverse=True)[1]` "
            "numbers them in their order."
        )
    if array.dtype.kind == "U" and array.ndim == 1:
        raise TypeError("images are text: if these are files, `[PIL.Image.open(name) for name in images]`.")
    raise TypeError(f"images are of dtype {array.dtype.name}: `numpy.array(images.tolist(), dtype=float)`.")


def _opened(value: Any, name: str) -> Tensor | np.ndarray:
    """What holds the numbers, whatever kind they are."""
    if isinstance(value, MappedFile):
        return value.open()
    if isinstance(value, Tensor):
        return _from_tensor(value, name)
    if isinstance(value, Image):
        return _from_pil(value)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} are masked in {np.ma.count_masked(value):,} places: fill those, `{name}.filled(0)`.")
    if isinstance(value, list | tuple):
        return _from_list(value, name)
    for to_array in ("to_numpy", "toarray"):  # of data frames, and of scipy's sparse matrices
        if hasattr(value, to_array):
            return np.asarray(getattr(value, to_array)())
    if isinstance(getattr(value, "values", None), np.ndarray):
        return value.values
    if hasattr(value, "__array__"):
        return np.asarray(value)
    mend = f": `list({name})`" if hasattr(value, "__next__") else "; a tensor, an array or a list of them does"
    raise TypeError(f"{name} are of type {type(value).__name__}, which is not known to hold numbers{mend}.")


def _from_tensor(tensor: Tensor, name: str) -> Tensor | np.ndarray:
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        check_memory(tensor.numel() * tensor.element_size(), f"sparse {name}, made dense,")
        say(f"sparse {name} were made dense")
        tensor = tensor.to_dense()
    if tensor.is_complex():
        raise ValueError(f"{name} are {dtype_name(tensor.dtype)}: give their magnitude, `abs({name})`.")
    return tensor if tensor.is_floating_point() else tensor.cpu().numpy()


def _from_pil(image: Image) -> np.ndarray:
    if image.mode in GREY:
        return np.asarray(image)
    if image.mode != "RGB":
        raise ValueError(f'an image has PIL\'s mode "{image.mode}", not "L" or "RGB": `image.convert("RGB")`.')
    return np.asarray(image).transpose(2, 0, 1)


def _from_list(values: Any, name: str) -> Tensor | np.ndarray:
    if not len(values) or isinstance(values[0], int | float | str):
        return np.asarray(values)
    arrays = [as_array(one, name) for one in values]
    for i, one in enumerate(arrays):
        if one.shape != arrays[0].shape:
            shapes, size = (
                (tuple(arrays[0].shape), tuple(one.shape)),
                "size" if isinstance(values[i], Image) else "shape",
            )
            raise ValueError(
                f"{name} differ in shape, {shapes[0]} and, at {i}, {shapes[1]}: resize or crop them to one, or keep "
                f"those of the first's, `[one for one in {name} if one.{size} == {name}[0].{size}]`."
            )
    if all(isinstance(one, Tensor) for one in arrays):
        return torch.stack(arrays)  # type: ignore[arg-type]
    return np.stack([np.asarray(one) for one in arrays])


def _scale(value: Any, integers: np.ndarray) -> tuple[int, str]:
    """What the integers are to be divided by, to be from 0 to 1, and their range in words. ValueError if not clear."""
    low, high = int(integers.min()), int(integers.max())
    span = f" from {low} to {high}"
    if low >= 0 and high <= 1:
        return 1, span
    if low >= 0 and high == 255:
        return 255, span
    if integers.dtype.kind == "u" and high > np.iinfo(integers.dtype).max // 2:
        return int(np.iinfo(integers.dtype).max), span
    name = "images" if isinstance(value, Tensor | np.ndarray) else "numpy.asarray(images)"
    white = full_scale(low, high)
    mend = f"{name} / {white}" if white else f"({name} * 1.0 - {low}) / {high - low}"
    raise ValueError(
        f"images are {integers.dtype.name}{span}, and which number is white is not clear: `{mend}`, or, "
        f"to keep them for a learner that takes any numbers, `{name} * 1.0`."
    )


def _rows(array: Tensor | np.ndarray) -> int:
    return max(1, AT_A_TIME // max(1, prod(array.shape[1:])))


def _chunks(array: np.ndarray, dtype: torch.dtype, scale: int) -> Iterator[Tensor]:
    rows = _rows(array)
    for row in range(0, len(array), rows):
        part = np.ascontiguousarray(array[row : row + rows]).astype(dtype_name(dtype))
        yield torch.from_numpy(part / np.asarray(scale, part.dtype) if scale > 1 else part)


def _shared(array: np.ndarray, dtype: torch.dtype) -> Tensor:
    """The array as a tensor of the same memory, where torch takes it and may write to it; else a copy."""
    if not array.dtype.isnative or min(array.strides) < 0:
        return gather(_chunks(array, dtype, 1), array.shape, dtype)
    if array.flags.writeable:
        return torch.from_numpy(array)
    file = MappedFile.of(array)
    return torch.from_numpy(file.open() if file else array.copy())


def _channels_last(height: int, width: int, channels: int) -> bool:
    return min(height, width) > 4 and (channels == 3 or (channels == 1 and height == width))
