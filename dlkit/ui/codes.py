"""The codes of a deep autoencoder as a map: what is decoded at the cursor, and on the way from digit to digit."""

import ipywidgets as widgets
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dlkit.analysis.codes import Codes
from dlkit.ui.controls.elements import TOP, WRAP, number_box, put
from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.code_chart import CodeChart
from dlkit.ui.draw.pictures import caption_html, captioned, grey, png

POSITIONS = 200  # of a slider, from end to end
SIDE, SMALL = 168, 56  # pixels: an image beside the map, and on the walk
DECODED = 11  # images decoded on the walk


class CodeMap(widgets.VBox):
    """The map of an autoencoder's codes, with a cursor, and a walk from the code of one image to that of another.

    The pointer on the map, or the sliders x and y, move the cursor. Beside the map are the image decoded at the cursor,
    and the digit whose code is nearest. If codes have more than two numbers, the map shows their first two principal
    components, and beside it are the nearest digit and its reconstruction. The walk is between whole codes.
    ValueError as for `Codes`.
    """

    def __init__(
        self,
        autoencoder: nn.Sequential,
        images: Float[Tensor, "images height width"],
        labels: Int64[Tensor, " labels"],
    ):
        self.codes = Codes(autoencoder, images, labels)
        self.chart = CodeChart(self.codes)
        other = (self.codes.labels != self.codes.labels[0]).nonzero()[:, 0].tolist() or [1]
        x, y = self.codes.positions[0].tolist()
        self.x, self.y = self._slider("x", *self.chart.x, x), self._slider("y", *self.chart.y, y)
        last = len(images) - 1
        self.first = number_box("Walk from image", last, "200px")
        self.second = number_box("to image", last, "200px", other[0])
        self.t = widgets.FloatSlider(min=0, max=1, step=0.02, value=0.5, description="t", layout={"width": "420px"})
        self.map = PointedImage(alt=f"Map of the codes of {len(images)} digits, each a numeral in its class's colour.")
        self.picture, self.walk_picture, self.strip = (widgets.Image(format="png") for _ in range(3))
        self.caption, self.walk_caption = widgets.HTML(), widgets.HTML()
        for slider in (self.x, self.y):
            slider.observe(self._look, "value")
        for number in (self.first, self.second):
            number.observe(self._walk, "value")
        self.t.observe(self._go, "value")
        self.map.observe(self._point, "place")
        self._walk()
        self._look()
        walk = [widgets.HBox([self.first, self.second, self.t], layout=WRAP), self.walk_caption]
        beside = widgets.HBox([self.picture, self.walk_picture], layout={"margin": "0 0 0 16px", **TOP})
        super().__init__(
            [
                widgets.HBox([self.x, self.y], layout=WRAP),
                self.caption,
                widgets.HBox([self.map, beside], layout=TOP),
                *walk,
                self.strip,
            ]
        )

    def __repr__(self) -> str:
        return f"CodeMap({len(self.codes.images)} images, codes of {self.codes.codes.shape[1]} numbers)"

    @staticmethod
    def _slider(name: str, least: float, most: float, value: float) -> widgets.FloatSlider:
        step = (most - least) / POSITIONS
        options = {"min": least, "max": most, "step": step, "description": name, "layout": {"width": "420px"}}
        return widgets.FloatSlider(value=_snapped(value, least, step), **options)

    def _point(self, change: dict) -> None:
        """Move both sliders, and so the cursor, to the pointer."""
        (left, right), (bottom, top), (across, down) = self.chart.x, self.chart.y, change["new"]
        for slider, value in ((self.x, left + across * (right - left)), (self.y, top + down * (bottom - top))):
            slider.unobserve(self._look, "value")
            slider.value = _snapped(value, slider.min, (slider.max - slider.min) / POSITIONS)
            slider.observe(self._look, "value")
        self._look()

    def _look(self, change: object = None) -> None:
        """Show what is at the cursor."""
        codes, cursor = self.codes, (self.x.value, self.y.value)
        near = codes.nearest(*cursor)
        digit = _with_article(codes.labels[near])
        if codes.two_dimensional:
            shown = torch.stack([codes.decode(torch.tensor([cursor]))[0], codes.images[near]])
            texts = ["decoded at the cursor", f"nearest: {digit}"]
            text = (
                f"Decoded at the cursor ({cursor[0]:.2f}, {cursor[1]:.2f}), and the digit whose code is nearest "
                f"(ringed): image {near}, {digit}."
            )
        else:
            shown = torch.stack([codes.images[near], codes.decode(codes.codes[near : near + 1])[0]])
            texts = [f"nearest: {digit}", "its reconstruction"]
            text = (
                f"Of its {codes.codes.shape[1]} numbers the map shows the first two principal components, "
                f"{codes.explained:.0%} of the variance, so that a place has no code to decode. Nearest to the cursor "
                f"on the map (ringed): image {near}, {digit}, and its reconstruction."
            )
        put(captioned(grey(shown), texts, 1, SIDE), self.picture)
        self.caption.value = caption_html(
            f"Point at the map, or move x and y. Each numeral is the code of a digit. {text}"
        )
        self._draw_map()

    def _walk(self, change: object = None) -> None:
        """Decode a row of images on the walk between two digits."""
        first, second = self.first.value, self.second.value
        t = torch.linspace(0, 1, DECODED)
        decoded = self.codes.decode(self.codes.between(first, second, t))
        ends = self.codes.images[[first, second]]
        texts = [f"image {first}", *(f"t = {x:.1f}" for x in t.tolist()), f"image {second}"]
        pictures = grey(torch.cat([ends[:1], decoded, ends[1:]]))
        put(captioned(pictures, texts, DECODED + 2, SMALL), self.strip)
        self._go()

    def _go(self, change: object = None) -> None:
        """Decode the point t of the walk."""
        first, second, t = self.first.value, self.second.value, self.t.value
        decoded = self.codes.decode(self.codes.between(first, second, torch.tensor([t])))
        put(captioned(grey(decoded), [f"on the walk, t = {t:.2f}"], 1, SIDE), self.walk_picture)
        ends = [f"image {image}, {_with_article(self.codes.labels[image])}," for image in (first, second)]
        self.walk_caption.value = caption_html(
            f"The walk (red) is the straight line between two codes: from {ends[0]} at t = 0 to {ends[1]} at t = 1; "
            f"decoded at t = {t:.2f} above, and at {DECODED} points below, between the two digits themselves."
        )
        self._draw_map()

    def _draw_map(self) -> None:
        positions = self.codes.positions
        cursor = self.x.value, self.y.value
        nearest = tuple(positions[self.codes.nearest(*cursor)].tolist())
        ends = tuple(positions[self.first.value].tolist()), tuple(positions[self.second.value].tolist())
        self.map.value = png(self.chart.picture(cursor, nearest, ends, self.t.value))


def _snapped(value: float, least: float, step: float) -> float:
    """The nearest value that a slider can show, from `least` in steps of `step`."""
    return least + round((value - least) / step) * step


def _with_article(label: Int64[Tensor, ""]) -> str:
    """The digit with its article: an 8, a 7."""
    return f"{'an' if label == 8 else 'a'} {int(label)}"
