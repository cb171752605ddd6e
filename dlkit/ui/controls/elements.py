"""Parts that many widgets share: their layouts, small buttons, and how an array is shown."""

from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
from jaxtyping import UInt8

from dlkit.ui.draw.pictures import png

FULL_LABEL = {"description_width": "initial"}  # style: a control's label is not cut off
WRAP = {"flex_flow": "row wrap"}  # layout: what does not fit beside the rest goes below it
WRAP_TOP = {**WRAP, "align_items": "flex-start"}
TOP = {"align_items": "flex-start"}


def icon_button(icon: str, tooltip: str, action: Callable[[], object]) -> widgets.Button:
    """A button with an icon (a name of Font Awesome) and no text."""
    button = widgets.Button(icon=icon, tooltip=tooltip, layout={"width": "40px"})
    button.on_click(lambda _: action())
    return button


def number_box(name: str, most: int, width: str, value: int = 0) -> widgets.BoundedIntText:
    """A box for a number from 0 to `most`; `width` is in CSS units."""
    return widgets.BoundedIntText(
        min=0, max=most, value=value, description=name, layout={"width": width}, style=FULL_LABEL
    )


def put(pixels: UInt8[np.ndarray, "height width *rgb"], picture: widgets.Image) -> None:
    """Show the pixels in the widget, one pixel of the page for each."""
    picture.value = png(pixels)
    picture.layout.width = f"{pixels.shape[1]}px"
