"""Checks of images and labels, made before training starts."""

from math import prod

import numpy as np
import torch
from torch import Tensor

WHITE = (16, 100, 255, 1023, 4095, 65535)  # of scans of 4 bits, percent, and 8, 10, 12 and 16 bits


def check(
    images: object,
    labels: object = None,
    *,
    shape: tuple[int, ...] | None = None,
    values: tuple[float, float] | None = (0.0, 1.0),
    classes: int | None = None,
) -> None:
    """Raise TypeError or ValueError, with a message that says what to do, for data that cannot be trained on.

    images: float32 or float64 (n, pixels), (n, height, width) or (n, channels, height, width), all finite. shape: the
    shape of an image that the model takes; (784,) allows 784 pixels in any shape. values: the allowed range, both ends
    included; None for real-valued units. labels: int64 (n,), from 0 to classes - 1.
    """
    images = _tensor(images, "images")
    _check_dtype(images)
    _check_shape(images, shape)
    _check_values(images, values)
    if labels is not None:
        _check_labels(_tensor(labels, "labels"), len(images), classes)


def dtype_name(dtype: torch.dtype) -> str:
    """As numpy has it: float32."""
    return str(dtype).removeprefix("torch.")


def full_scale(low: float, high: float) -> int | None:
    """The number that is most probably white in images from `low` to `high`, or None: 16, 100, 255, 4095…"""
    return next((white for white in WHITE if low >= 0 and white / 2 < high <= white), None)


def _tensor(value: object, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise TypeError(f"{name} are of type {type(value).__name__}, not a tensor: `{_how_to_tensor(value).format(name)}`.")


def _how_to_tensor(value: object) -> str:
    if isinstance(value, list | tuple):
        return "torch.stack({})" if value and isinstance(value[0], Tensor) else "torch.tensor({})"
    if isinstance(value, np.ndarray) and value.dtype.isnative and min(value.strides, default=0) >= 0:
        return "torch.from_numpy({})"
    return "torch.tensor(numpy.asarray({}).tolist())"


def _check_dtype(images: Tensor) -> None:
    if images.dtype in (torch.float32, torch.float64):
        return
    dtype = dtype_name(images.dtype)
    if images.dtype.is_floating_point or images.numel() == 0 or images.max() <= 1:
        raise ValueError(f"images are {dtype}, not float32: `images.float()`.")
    low, high = int(images.min()), int(images.max())
    white = full_scale(low, high)
    mend = f"`images.float() / {white}`" if white else f"`(images.float() - {low}) / {high - low}`"
    raise ValueError(f"images are {dtype} from {low} to {high}, not float32 in [0, 1]: {mend}.")


def _check_shape(images: Tensor, shape: tuple[int, ...] | None) -> None:
    size = tuple(images.shape)
    if not 2 <= len(size) <= 4:
        mend = "`images[None]` is a batch of one" if len(size) < 4 else "`images.flatten(0, -4)` is one batch"
        raise ValueError(
            f"images have shape {size}, not (count, pixels), (count, height, width) "
            f"or (count, channels, height, width): {mend}."
        )
    if images.numel() == 0:
        raise ValueError(f"images are empty, of shape {size}: give one image at least, of one pixel at least.")
    if shape is None or size[1:] == shape or (len(shape) == 1 and prod(size[1:]) == prod(shape)):
        return
    if prod(size[1:]) == prod(shape):
        raise ValueError(
            f"images have shape {size[1:]} each and the model takes {shape}: `images.reshape(-1, {str(shape)[1:-1]})`."
        )
    if prod(size) == prod(shape):
        raise ValueError(f"images have shape {size}, one image without its batch: `images[None]`.")
    raise ValueError(
        f"images have shape {size[1:]}, {prod(size[1:]):,} values each, and the model takes {prod(shape):,}: "
        f"resize the images to {shape}, or build the model for {prod(size[1:]):,}."
    )


def _check_values(images: Tensor, values: tuple[float, float] | None) -> None:
    low, high = (bound.item() for bound in images.aminmax())  # NaN if any pixel is
    if not (abs(low) < torch.inf and abs(high) < torch.inf):
        kind = "NaN" if images.isnan().any() else "infinite"
        bad = ~images.isfinite().flatten(1).all(1)
        raise ValueError(
            f"images hold {kind} pixels in {_where(bad)}: keep the others, and their labels, by the mask "
            "`images.isfinite().flatten(1).all(1)`."
        )
    if values is None or (values[0] <= low and high <= values[1]):
        return
    bad = ((images < values[0]) | (images > values[1])).flatten(1).any(1)
    if values != (0, 1):
        mend = f"`images.clamp{values}`"
    elif white := full_scale(low, high):
        mend = f"`images / {white}`"
    else:
        mend = "`(images - images.min()) / (images.max() - images.min())`, or a model with Gaussian visible units"
    raise ValueError(
        f"images run from {low:.4g} to {high:.4g}, outside [{values[0]:g}, {values[1]:g}], in {_where(bad)}: {mend}."
    )


def _where(bad: Tensor) -> str:
    return f"{int(bad.sum()):,} of {len(bad):,} images, first in images[{int(bad.nonzero()[0])}]"


def _check_labels(labels: Tensor, count: int, classes: int | None) -> None:
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] > 1:
        raise ValueError(f"labels have shape {shape}, not ({count},): of one-hot rows, `labels.argmax(1)`.")
    if len(shape) != 1:
        raise ValueError(f"labels have shape {shape}, not ({count},): `labels.flatten()`.")
    if len(labels) != count:
        raise ValueError(f"{count:,} images but {len(labels):,} labels: give each image one label.")
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {dtype_name(labels.dtype)}, not int64: `labels.long()`.")
    low, high = (int(bound) for bound in labels.aminmax())
    if low >= 0 and (classes is None or high < classes):
        return
    allowed = "0 and up" if classes is None else f"0 to {classes - 1} for {classes} classes"
    first = int(((labels < 0) | (labels >= (high + 1 if classes is None else classes))).nonzero()[0])
    mend = (
        "they are counted from 1, `labels - 1`"
        if low == 1 and high == classes
        else "drop those images, or mend their labels"
    )
    raise ValueError(
        f"labels run from {low} to {high}, not {allowed}, first in labels[{first}] = {int(labels[first])}: {mend}."
    )
