"""Reads back what a widget shows."""

import io
from collections.abc import Callable, Collection

import numpy as np
from PIL import Image, ImageColor


def pixels(picture) -> np.ndarray:
    """The pixels of an `ipywidgets.Image`, (height, width, channels)."""
    return np.asarray(Image.open(io.BytesIO(picture.value)))


def framed(picture, colour: str) -> tuple[int, int, int, int]:
    """First and last row, first and last column of the pixels of this colour."""
    rows, columns = (pixels(picture) == ImageColor.getrgb(colour)).all(2).nonzero()
    return rows.min(), rows.max(), columns.min(), columns.max()


def changes(widget, names: Collection[str], act: Callable[[], object]) -> set[str]:
    """Which of the widget's attributes `names` have another value after `act()`."""
    before = {name: getattr(widget, name).value for name in names}
    act()
    return {name for name in names if getattr(widget, name).value != before[name]}
