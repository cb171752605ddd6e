"""The codes of a deep autoencoder as a map to walk on: what is decoded at a place, and between two digits."""

import io

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dlkit.ui.controls.pointed_image import PointedImage
from dlkit.ui.draw.pictures import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    caption_html,
    captioned,
    grey,
    png,
    put,
)

COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, "#8A6D00", "#7F7F7F", "#5D3A9B")  # and the glyphs
MAP, STEPS = 520, 200  # pixels a side; steps of a slider from end to end
SIDE, STATION, STATIONS = 168, 56, 11  # pixels of an image beside the map, and on a walk; images decoded on it


class Codes:
    """The codes of labelled images, `codes` (images, code), and the map they lie on, `places` (images, 2).

    A code of two numbers is its own place. Of longer ones the map shows the first two principal components: no place
    on it says what the whole code is, so that only codes can be decoded, and not places.
    ValueError if this is no Sequential(encoder, decoder) of the images, or its code has fewer than two numbers.
    """

    def __init__(
        self,
        autoencoder: nn.Sequential,
        images: Float[Tensor, "images height width"],
        labels: Int64[Tensor, " labels"],
    ):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels: give one label an image.")
        if len(images) < 2:
            raise ValueError(f"{len(images)} images make no map: give two at least, better some thousands.")
        if len(autoencoder) != 2:
            raise ValueError(
                f"a Sequential of {len(autoencoder)} parts: give Sequential(encoder, decoder), such as "
                "dbn.autoencoder()."
            )
        first = _first_linear(autoencoder[0])
        if first is not None and first.in_features != images[0].numel():
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels for an encoder of {first.in_features}: "
                "give images of the size it was trained on."
            )
        self.encoder, self.decoder = autoencoder
        self.images, self.labels = images.cpu(), labels.cpu()
        self.shape = images.shape[1], images.shape[2]
        self._device = next((p.device for p in autoencoder.parameters()), images.device)
        with torch.no_grad():
            self.codes = torch.cat([self.encoder(part.to(self._device)).cpu() for part in images.split(1000)])
        if self.codes.shape[1] < 2:
            raise ValueError("a code of one number makes no map: train an autoencoder whose code has two or more.")
        entrance = _first_linear(self.decoder)
        if entrance is not None and entrance.in_features != self.codes.shape[1]:
            raise ValueError(
                f"codes of {self.codes.shape[1]} numbers and a decoder of codes of {entrance.in_features} numbers: "
                "give the encoder and the decoder of one autoencoder."
            )
        self.places = self.codes
        if not self.flat:
            centred = self.codes - self.codes.mean(0)
            _, variance, axes = np.linalg.svd(centred.double().numpy(), full_matrices=False)
            axes *= np.where(axes.sum(1, keepdims=True) < 0, -1.0, 1.0)  # else their signs are the library's whim
            self.places = centred @ torch.from_numpy(axes[:2].T).float()
            self.explained = float((variance[:2] ** 2).sum() / (variance**2).sum())

    @property
    def flat(self) -> bool:
        """Is each place of the map a code?"""
        return self.codes.shape[1] == 2

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "codes code"]) -> Float[Tensor, "codes height width"]:
        """What the decoder makes of these codes."""
        return self.decoder(codes.to(self._device)).cpu().view(-1, *self.shape)

    def nearest(self, x: float, y: float) -> int:
        """The image whose place on the map is nearest."""
        return int((self.places - torch.tensor([x, y])).square().sum(1).argmin())

    def between(self, first: int, second: int, t: Float[Tensor, " steps"]) -> Float[Tensor, "steps code"]:
        """The codes on the straight line from the code of image `first` (t = 0) to that of `second` (t = 1)."""
        return torch.lerp(self.codes[first], self.codes[second], t[:, None])


def _first_linear(net: nn.Module) -> nn.Linear | None:
    return next((part for part in net.modules() if isinstance(part, nn.Linear)), None)


class Chart:
    """The map as a picture, drawn once, on which a cursor and a walk can be drawn anew in a millisecond.

    Each image is its label's numeral in its label's colour; `x` and `y` are the ends of the axes.
    """

    def __init__(self, codes: Codes):
        fig = Figure(figsize=(MAP / 100, MAP / 100), dpi=100)
        ax = fig.add_axes((0.0, 0.0, 1.0, 1.0))
        low, high = codes.places.min(0).values, codes.places.max(0).values
        margin = 0.04 * (high - low).clamp_min(1e-6)
        self.x, self.y = zip((low - margin).tolist(), (high + margin).tolist(), strict=True)
        for label in codes.labels.unique().tolist():
            mine, colour = codes.places[codes.labels == label], COLOURS[label % len(COLOURS)]
            ax.scatter(*mine.T.numpy(), s=22, marker=f"${label}$", color=colour, linewidths=0, alpha=0.75)
            x, y = mine.median(0).values.tolist()
            halo = [withStroke(linewidth=4, foreground="white")]
            ax.text(x, y, str(label), size=20, weight="bold", color=colour, ha="center", va="center", path_effects=halo)
        ax.set(xlim=self.x, ylim=self.y)
        ax.axis("off")
        drawn = io.BytesIO()
        fig.savefig(drawn, format="png")
        self.pixels = np.array(Image.open(drawn).convert("RGB"))

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of a place on the map."""
        column = (x - self.x[0]) / (self.x[1] - self.x[0]) * (MAP - 1)
        row = (self.y[1] - y) / (self.y[1] - self.y[0]) * (MAP - 1)
        return round(min(max(row, 0), MAP - 1)), round(min(max(column, 0), MAP - 1))

    def picture(
        self,
        cursor: tuple[float, float],
        nearest: tuple[float, float],
        ends: tuple[tuple[float, float], tuple[float, float]],
        t: float,
    ) -> UInt8[np.ndarray, "rows columns 3"]:
        """The map with lines through the cursor, a ring at the nearest digit, and a walk between two ends, at t."""
        sheet = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(sheet)
        row, column = self.pixel(*cursor)
        pen.line([(column, 0), (column, MAP)], fill=BLACK)
        pen.line([(0, row), (MAP, row)], fill=BLACK)
        row, column = self.pixel(*nearest)
        pen.ellipse([column - 9, row - 9, column + 9, row + 9], outline="white", width=5)
        pen.ellipse([column - 8, row - 8, column + 8, row + 8], outline=BLACK, width=3)
        (y0, x0), (y1, x1) = (self.pixel(*end) for end in ends)
        for colour, width in (("white", 6), (VERMILION, 3)):
            pen.line([(x0, y0), (x1, y1)], fill=colour, width=width)
        x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        pen.ellipse([x - 7, y - 7, x + 7, y + 7], fill=VERMILION, outline="white", width=2)
        return np.array(sheet)


class CodeMap(widgets.VBox):
    """The map of an autoencoder's codes, with a cursor, and a walk from the code of one image to that of another.

    The pointer on the map, and the sliders x and y, move the cursor: beside the map is what is decoded there, and the
    digit whose code is nearest. Of codes longer than two numbers the map shows the first two principal components, and
    beside it the nearest digit and its reconstruction. The walk is between whole codes, of any length.
    ValueError as for `Codes`.
    """

    def __init__(
        self,
        autoencoder: nn.Sequential,
        images: Float[Tensor, "images height width"],
        labels: Int64[Tensor, " labels"],
    ):
        self.codes = Codes(autoencoder, images, labels)
        self.chart = Chart(self.codes)
        other = (self.codes.labels != self.codes.labels[0]).nonzero()[:, 0].tolist() or [1]
        x, y = self.codes.places[0].tolist()
        self.x, self.y = self._slider("x", *self.chart.x, x), self._slider("y", *self.chart.y, y)
        self.first, self.second = self._number("Walk from image", 0), self._number("to image", other[0])
        self.t = widgets.FloatSlider(min=0, max=1, step=0.02, value=0.5, description="t", layout={"width": "420px"})
        self.map = PointedImage(alt=f"Map of the codes of {len(images)} digits, each a numeral in its class's colour.")
        self.picture, self.station, self.strip = (widgets.Image(format="png") for _ in range(3))
        self.caption, self.walk_caption = widgets.HTML(), widgets.HTML()
        for slider in (self.x, self.y):
            slider.observe(self._look, "value")
        for number in (self.first, self.second):
            number.observe(self._walk, "value")
        self.t.observe(self._go, "value")
        self.map.observe(self._point, "place")
        self._walk()
        self._look()
        walk = [widgets.HBox([self.first, self.second, self.t], layout={"flex_flow": "row wrap"}), self.walk_caption]
        beside = widgets.HBox(
            [self.picture, self.station], layout={"margin": "0 0 0 16px", "align_items": "flex-start"}
        )
        super().__init__(
            [
                widgets.HBox([self.x, self.y], layout={"flex_flow": "row wrap"}),
                self.caption,
                widgets.HBox([self.map, beside], layout={"align_items": "flex-start"}),
                *walk,
                self.strip,
            ]
        )

    def __repr__(self) -> str:
        return f"CodeMap({len(self.codes.images)} images, codes of {self.codes.codes.shape[1]} numbers)"

    @staticmethod
    def _slider(name: str, least: float, most: float, value: float) -> widgets.FloatSlider:
        step = (most - least) / STEPS
        options = {"min": least, "max": most, "step": step, "description": name, "layout": {"width": "420px"}}
        return widgets.FloatSlider(value=_snapped(value, least, step), **options)

    def _number(self, name: str, value: int) -> widgets.BoundedIntText:
        options = {"layout": {"width": "200px"}, "style": {"description_width": "initial"}}
        return widgets.BoundedIntText(min=0, max=len(self.codes.images) - 1, value=value, description=name, **options)

    def _point(self, change: dict) -> None:
        """Move both sliders to the pointer's place on the map, and look there."""
        (left, right), (bottom, top), (across, down) = self.chart.x, self.chart.y, change["new"]
        for slider, value in ((self.x, left + across * (right - left)), (self.y, top + down * (bottom - top))):
            slider.unobserve(self._look, "value")
            slider.value = _snapped(value, slider.min, (slider.max - slider.min) / STEPS)
            slider.observe(self._look, "value")
        self._look()

    def _look(self, change: object = None) -> None:
        """Show what is at the cursor."""
        codes, place = self.codes, (self.x.value, self.y.value)
        near = codes.nearest(*place)
        digit = _a(codes.labels[near])
        if codes.flat:
            shown = torch.stack([codes.decode(torch.tensor([place]))[0], codes.images[near]])
            texts = ["decoded at the cursor", f"nearest: {digit}"]
            text = (
                f"Decoded at the cursor ({place[0]:.2f}, {place[1]:.2f}), and the digit whose code is nearest "
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
        """Decode the stations of a walk between two other digits."""
        first, second = self.first.value, self.second.value
        t = torch.linspace(0, 1, STATIONS)
        decoded = self.codes.decode(self.codes.between(first, second, t))
        ends = self.codes.images[[first, second]]
        texts = [f"image {first}", *(f"t = {x:.1f}" for x in t.tolist()), f"image {second}"]
        pictures = grey(torch.cat([ends[:1], decoded, ends[1:]]))
        put(captioned(pictures, texts, STATIONS + 2, STATION), self.strip)
        self._go()

    def _go(self, change: object = None) -> None:
        """Decode where the walk is now."""
        first, second, t = self.first.value, self.second.value, self.t.value
        decoded = self.codes.decode(self.codes.between(first, second, torch.tensor([t])))
        put(captioned(grey(decoded), [f"on the walk, t = {t:.2f}"], 1, SIDE), self.station)
        ends = [f"image {image}, {_a(self.codes.labels[image])}," for image in (first, second)]
        self.walk_caption.value = caption_html(
            f"The walk (red) is the straight line between two codes: from {ends[0]} at t = 0 to {ends[1]} at t = 1; "
            f"decoded at t = {t:.2f} above, and at {STATIONS} stations below, between the two digits themselves."
        )
        self._draw_map()

    def _draw_map(self) -> None:
        places = [tuple(place) for place in self.codes.places[[self.first.value, self.second.value]].tolist()]
        nearest = tuple(self.codes.places[self.codes.nearest(self.x.value, self.y.value)].tolist())
        cursor = self.x.value, self.y.value
        self.map.value = png(self.chart.picture(cursor, nearest, (places[0], places[1]), self.t.value))


def _snapped(value: float, least: float, step: float) -> float:
    """The nearest step of a slider, as the page shows no others."""
    return least + round((value - least) / step) * step


def _a(label: Int64[Tensor, ""]) -> str:
    """The digit with its article."""
    return f"{'an' if label == 8 else 'a'} {int(label)}"
