"""What an Experiment's `data` may be: a name, a Dataset, images, (images, labels), or what other libraries have."""

from typing import Any

import torch
from torch import Tensor

from dlkit.data.batch import Batch
from dlkit.data.checks import check
from dlkit.data.conversion import as_images, as_labels
from dlkit.data.images import Dataset, Split, load
from dlkit.data.items import images_and_labels


def resolve(source: Any, dtype: torch.dtype = torch.float32) -> Batch:
    """The training images, of this dtype, and the int64 labels that an Experiment's `data` stands for, checked.

    What has another form is converted where its meaning is clear, and a line that says so is printed once. Images that
    are of this dtype already are shared with the source, those in a mapped file too, but for their graph.
    TypeError or ValueError, with the mend, for data that are not clear or cannot be trained on.
    """
    images, labels = take_apart(source)
    images = as_images(images, dtype)
    labels = None if labels is None else as_labels(labels)
    check(images, labels, values=None)  # the range is for the learner to judge
    return Batch(images, labels)


def take_apart(source: Any) -> tuple[Any, Any]:
    """The images, and the labels or None, that a source holds, each in the form that it has there."""
    if isinstance(source, str):
        source = load(source)
    if isinstance(source, Dataset):
        source = source.train
    holds_both = hasattr(source, "images") and hasattr(source, "labels") and not hasattr(source, "__getitem__")
    if isinstance(source, Split | Batch) or holds_both:
        return source.images, source.labels
    return images_and_labels(source)


def describe(source: Any) -> str:
    """The same in a few words, without its tensors."""
    if isinstance(source, str | Dataset | Split):
        return repr(source.name) if isinstance(source, Dataset) and source.name else repr(source)
    if isinstance(source, Batch):
        source = (source.images, source.labels)
    if isinstance(source, Tensor):
        return f"images {tuple(source.shape)}"
    if isinstance(source, tuple) and isinstance(source[0], Tensor):
        return f"{describe(source[0])}, {'labelled' if len(source) > 1 and source[1] is not None else 'no labels'}"
    return type(source).__name__
