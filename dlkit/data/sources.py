"""What an Experiment's `data` may be."""

from typing import Any

from dlkit import data
from dlkit.data.batch import Batch


def resolve(source: Any) -> Batch:
    """The training images and labels of an Experiment's `data`, checked by `data.check`.

    source: the name of a data set, a Dataset, a Split, images, or (images, labels).
    """
    if isinstance(source, str):
        source = data.load(source)
    source = getattr(source, "train", source)
    if hasattr(source, "images"):
        source = (source.images, source.labels)
    images, labels = source if isinstance(source, tuple) else (source, None)
    data.check(images, labels, values=None)  # the learner checks the range
    return Batch(images, labels)
