"""What an Experiment's `data` may be: a name, a Dataset, a Split, images, or (images, labels)."""

from typing import Any

from torch import Tensor

from dlkit.data.batch import Batch
from dlkit.data.checks import check
from dlkit.data.images import Dataset, Split, load


def resolve(source: Any) -> Batch:
    """The training images and labels that an Experiment's `data` names, checked. ValueError as for `check`."""
    if isinstance(source, str):
        source = load(source)
    source = getattr(source, "train", source)
    if hasattr(source, "images"):
        source = (source.images, source.labels)
    images, labels = source if isinstance(source, tuple) else (source, None)
    check(images, labels, values=None)  # the range is for the learner to judge
    return Batch(images, labels)


def describe(source: Any) -> str:
    """The same in a few words, without its tensors."""
    if isinstance(source, str | Dataset | Split):
        return repr(source.name) if isinstance(source, Dataset) and source.name else repr(source)
    if isinstance(source, Batch):
        source = (source.images, source.labels)
    if isinstance(source, Tensor):
        return f"images {tuple(source.shape)}"
    if isinstance(source, tuple) and isinstance(source[0], Tensor):
        return f"{describe(source[0])}, {'no labels' if source[1] is None else 'labelled'}"
    return type(source).__name__
