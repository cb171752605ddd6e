"""The images and the labels in what holds both: pairs, dicts, data frames, torch's Datasets and DataLoaders."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from dlkit.data.conversion import as_array, say
from dlkit.data.mapped import gather

IMAGES = ("images", "image", "img", "pixel_values", "data", "x")
LABELS = ("labels", "label", "targets", "target", "class", "y")
TWICE = 32  # items of a Dataset that are asked for twice: are they the same?

Pair = tuple[Any, Any]


def images_and_labels(source: Any) -> Pair:
    """The images, and the labels or None. ValueError or TypeError, with the mend, if which is which is not clear."""
    if isinstance(source, tuple | list):
        return _of_sequence(source)
    if isinstance(source, Mapping):
        return _of_mapping(source)
    if isinstance(source, torch_data.DataLoader):
        return _of_loader(source)
    if type(source) is torch_data.TensorDataset:
        return _of_sequence(source.tensors)
    if isinstance(source, torch_data.IterableDataset):
        raise TypeError(f"a {type(source).__name__} gives its images only one after another: `list(data)` reads them.")
    if isinstance(source, torch_data.Dataset):  # by its items, whatever else it holds
        return _of_dataset(source)
    if hasattr(source, "columns"):
        return _of_columns(source)
    holds_numbers = isinstance(source, Tensor) or any(
        hasattr(source, name) for name in ("__array__", "to_numpy", "toarray", "values")
    )
    if not holds_numbers and hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _of_dataset(source)
    return source, None


def _of_sequence(source: Any) -> Pair:
    if len(source) == 1 and isinstance(source, tuple):
        return source[0], None
    if len(source) == 2 and (isinstance(source, tuple) or (_ndim(source[0]) > 1 and _ndim(source[1]) == 1)):
        images, labels = source
        if isinstance(images, tuple) and isinstance(labels, tuple):
            raise ValueError("data are two tuples: give the one that is to be learnt from, such as `data[0]`.")
        if _ndim(images) == 1 and _ndim(labels) > 1:
            raise ValueError("data are labels and then images: turn them round, `data[::-1]`.")
        return images, labels
    if len(source) and isinstance(source[0], tuple | Mapping):
        return _of_dataset(source)
    if isinstance(source, tuple) and len({np.shape(one) for one in source}) > 1:
        raise ValueError(f"data are a tuple of {len(source)}, not images and labels: if they begin it, `data[:2]`.")
    return source, None


def _ndim(value: Any) -> int:
    if hasattr(value, "shape"):
        return len(value.shape)
    return 1 + _ndim(value[0]) if isinstance(value, list | tuple) and value else 0


def _of_mapping(source: Mapping) -> Pair:
    lower = {str(key).lower(): key for key in source}
    images, labels = (next((lower[name] for name in names if name in lower), None) for names in (IMAGES, LABELS))
    if images is None:
        keys = ", ".join(map(repr, list(source)[:8]))
        raise ValueError(f"which of the keys {keys} are the images is not clear: give `(data[...], data[...])`.")
    say(f"images were taken from {images!r}" + ("" if labels is None else f", labels from {labels!r}"))
    return source[images], None if labels is None else source[labels]


def _of_columns(source: Any) -> Pair:
    """A data frame's columns of pixels and, if one is called so, of labels.

    ValueError for a column that seems to be neither: its name is not one of a series, or it counts the rows.
    """
    names = list(source.columns)
    lower = [str(name).lower() for name in names]
    places = "x" in lower  # beside which y is one too
    found = [name for name, low in zip(names, lower, strict=True) if low in (LABELS[:-1] if places else LABELS)]
    without, whole = "data[[name for name in data.columns if name != {!r}]]", "to learn from it too, `data.to_numpy()`"
    if len(found) > 1:
        raise ValueError(
            f"which of the columns {', '.join(map(repr, found))} are the labels is not clear: leave one out, "
            f"`{without.format(found[-1])}`."
        )
    for name in names:
        if name not in found and _counts(np.asarray(source[name])):
            raise ValueError(
                f"the column {name!r} counts the rows: leave it out, `{without.format(name)}`, or, {whole}."
            )
    for name in _out_of_series(names):
        if name not in found:
            raise ValueError(
                f"the column {name!r} is not named as the others are, and whether it holds labels is not clear: if it "
                f"does, `({without.format(name)}, data[{name!r}])`, or, {whole}."
            )
    if not found:
        return source, None
    say(f"labels were taken from the column {found[0]!r}, images from the others")
    pixels = [np.asarray(source[name]) for name in source.columns if name != found[0]]
    return np.stack(pixels, axis=1), np.asarray(source[found[0]])


def _counts(values: np.ndarray) -> bool:
    """Are they whole numbers, each one more than the one before, of at least eight rows?"""
    return len(values) >= 8 and values.dtype.kind in "iu" and bool((np.diff(values.astype(np.int64)) == 1).all())


def _out_of_series(names: list[Any]) -> list[Any]:
    """The names that have another form than pixel0, pixel1, …, where at least three, and most, are of such a form."""
    forms = [re.sub(r"\d+", "#", str(name)) for name in names]
    form, count = Counter(forms).most_common(1)[0] if forms else ("", 0)
    if "#" not in form or count < max(3, len(names) / 2):
        return []
    return [name for name, own in zip(names, forms, strict=True) if own != form]


def _of_loader(loader: torch_data.DataLoader) -> Pair:
    sampler = loader.sampler
    shuffled = type(sampler) is torch_data.RandomSampler and sampler.num_samples == len(sampler.data_source)
    own = [
        None if shuffled or type(sampler) is torch_data.SequentialSampler else f"a {type(sampler).__name__}",
        None if loader.collate_fn is torch_data.default_collate else "a collate_fn of its own",
        None if type(loader.batch_sampler) is torch_data.BatchSampler else "a batch_sampler of its own",
    ]
    reason = next(filter(None, own), None)
    if reason:
        raise ValueError(
            f"the DataLoader has {reason}, and an Experiment makes its batches itself: read all once, "
            "`tuple(map(torch.cat, zip(*loader)))`."
        )
    say("of the DataLoader its dataset was taken: the Experiment makes batches, and shuffles, itself")
    return images_and_labels(loader.dataset)


def _of_dataset(source: Any) -> Pair:
    """Each item of a Dataset, in order: (image, label), a dict of them, or an image. Items are read once."""
    if not len(source):
        raise ValueError(f"the {type(source).__name__} is empty: give one image at least.")
    tried = [as_array(_item(source, i)[0], "images") for i in range(min(len(source), TWICE))]
    first, labels = tried[0], []

    def read() -> Iterator[Tensor]:
        for i in range(len(source)):
            image, label = _item(source, i)
            pixels = as_array(image, "images")
            if pixels.shape != first.shape:
                raise ValueError(
                    f"images differ in shape, {tuple(first.shape)} and, at {i}, {tuple(pixels.shape)}: resize or crop "
                    "them to one in the transform of the dataset."
                )
            if i < TWICE and not np.array_equal(tried[i], pixels):
                raise ValueError(
                    f"the {type(source).__name__} draws its images anew each time, and an Experiment reads them once: "
                    "give them without that, and the random part to the learner, such as "
                    "`CrossEntropy(distortion=Affine())`."
                )
            labels.append(label)
            yield _tensor(pixels)[None]

    images = gather(read(), (len(source), *first.shape), _tensor(first).dtype)
    return images if isinstance(first, Tensor) else images.numpy(), None if labels[0] is None else labels


def _item(source: Any, i: int) -> Pair:
    item = source[i]
    if isinstance(item, Mapping):
        return _of_mapping(item)
    if not isinstance(item, tuple | list):
        return item, None
    if len(item) > 2:
        raise ValueError(f"an item of the {type(source).__name__} has {len(item)} parts: give images and labels alone.")
    return item[0], item[1] if len(item) == 2 else None


def _tensor(pixels: Tensor | np.ndarray) -> Tensor:
    if isinstance(pixels, Tensor):
        return pixels
    return torch.from_numpy(np.array(pixels, pixels.dtype.newbyteorder("=")))  # a copy, which torch may write to
