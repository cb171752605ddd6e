"""A picture of a part of something long, which mouse, finger or keyboard zoom and move from left to right."""

from collections.abc import Callable
from pathlib import Path

import anywidget
import traitlets

from dlkit.ui.controls.javascript import bundled

SHORTEST = 1e-6  # the shortest part to zoom to; of seconds, a microsecond


class ZoomedImage(anywidget.AnyWidget):
    """A PNG, `value`; its `box` (left, right; from 0 to 1) shows a part of something longer.

    `on_request` names what the reader can ask for. The wheel zooms once the picture has been clicked on, or with Ctrl;
    the keys + - 0 and the arrow keys work once it has been clicked on.
    """

    _esm = bundled(Path(__file__).with_name("zoomed_image.js"))
    _css = Path(__file__).with_name("zoomed_image.css")
    value = traitlets.Bytes().tag(sync=True)
    alt = traitlets.Unicode().tag(sync=True)
    box = traitlets.List(traitlets.Float(), default_value=[0.0, 1.0], minlen=2, maxlen=2).tag(sync=True)

    def __repr__(self) -> str:
        return f"ZoomedImage(box={self.box})"

    def on_request(self, act: Callable[[dict], object]) -> None:
        """Call `act` with each request of the reader, a dictionary.

        Its keys are zoom (a factor; 0 shows all), pan (in widths of the box), rows (how many to go down) and, if a
        pointer asked, place: (x, y) from the top left, both 0 to 1.
        """
        self.on_msg(lambda _, request, __: act(request))


def zoomed(shown: tuple[float, float], whole: tuple[float, float], factor: float, about: float) -> tuple[float, float]:
    """The part (begin, end) after zooming by `factor`, while `about` stays where it is on the picture.

    It lies within `whole`; a factor of 0 gives all of it.
    """
    begin, end = shown
    length = whole[1] - whole[0]
    wide = min(max((end - begin) / factor, min(SHORTEST, length)), length) if factor else length
    return moved((about - (about - begin) / (end - begin) * wide, about + (end - about) / (end - begin) * wide), whole)


def moved(shown: tuple[float, float], whole: tuple[float, float], by: float = 0.0) -> tuple[float, float]:
    """The part (begin, end) moved by `by` times its length, but not beyond `whole`."""
    wide = shown[1] - shown[0]
    begin = min(max(shown[0] + by * wide, whole[0]), whole[1] - wide)
    return max(begin, whole[0]), min(begin + wide, whole[1])
