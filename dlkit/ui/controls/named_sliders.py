"""Names for sliders, as those who cannot see them hear them."""

from pathlib import Path

import anywidget


class NamedSliders(anywidget.AnyWidget):
    """Shows nothing: a child of a widget, it gives all sliders there the names and values that stand beside them."""

    _esm = Path(__file__).with_name("named_sliders.js")

    def __repr__(self) -> str:
        return "NamedSliders()"
