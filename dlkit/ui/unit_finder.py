"""Find the unit whose value alone tells a class from the rest best: by hand, and then by trying all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ipywidgets as widgets
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.analysis.single_units import BestUnits, best_units
from dlkit.ui.controls.elements import FULL_LABEL, WRAP, WRAP_TOP
from dlkit.ui.controls.named_sliders import NamedSliders
from dlkit.ui.draw.overlay import histograms
from dlkit.ui.draw.pictures import Picture, caption_html, png, text_html, tile

STRONGEST, ACROSS = 24, 8  # images that are shown, and how many of them in a row
STEPS = 200  # of the threshold's slider


class UnitFinder(widgets.VBox):
    """A unit, a sign and a threshold are chosen; shown is how well they tell one class of images from all others.

    values: of each set of units, by name, what each unit gives for each image, (images, units). The accuracy is the
    mean of two shares, in percent: of the class that is found, and of the rest that is not. best: the largest so
    far, by set and class. ValueError if there are no units, or if values and labels are not of the same images.
    """

    def __init__(
        self,
        images: Float[Tensor, "images height width"],
        labels: Int64[Tensor, " labels"],
        values: Mapping[str, Float[Tensor, "..."]],
    ):
        if not values:
            raise ValueError("no units: give the values of some for each image, by name.")
        for name, x in values.items():
            if x.ndim != 2 or len(x) != len(images) or len(labels) != len(images):
                raise ValueError(
                    f"{name}: values {tuple(x.shape)} and {len(labels)} labels for {len(images)} images: "
                    "(images, units), and a label for each image."
                )
        self.images, self.labels = images.cpu(), labels.cpu()
        self.values = {name: x.detach().cpu().float() for name, x in values.items()}
        self.best: dict[tuple[str, int], float] = {}
        self._found: dict[str, BestUnits] = {}
        self._waits = False
        self.units = widgets.Dropdown(
            options=list(values), description="Units", style=FULL_LABEL, layout={"width": "220px"}
        )
        self.label = widgets.Dropdown(
            options=range(int(labels.max()) + 1),
            description="Class to tell",
            style=FULL_LABEL,
            layout={"width": "170px"},
        )
        self.unit = widgets.IntSlider(0, 0, 1, description="Unit", style=FULL_LABEL, layout={"width": "400px"})
        self.threshold = widgets.FloatSlider(
            0.0, description="Threshold", style=FULL_LABEL, layout={"width": "340px"}, readout_format=".3g"
        )
        self.above = widgets.ToggleButtons(options={"above it": 1.0, "below it": -1.0}, style={"button_width": "90px"})
        self.button = widgets.Button(description="Show the best", tooltip="Try all units and thresholds", icon="search")
        self.button.on_click(lambda _: self.show_best())
        self.chart, self.caption, self.strongest, self.record = (widgets.HTML() for _ in range(4))
        self.units.observe(self._choose, "value")
        self.unit.observe(self._measure, "value")
        for control in (self.label, self.threshold, self.above):
            control.observe(self._draw, "value")
        self._choose()
        super().__init__([
            widgets.HBox([self.units, self.label, self.button], layout=WRAP),
            self.unit,
            widgets.HBox([self.threshold, widgets.Label("the class is"), self.above], layout=WRAP),
            self.caption,
            widgets.HBox([widgets.VBox([self.chart]), self.strongest], layout=WRAP_TOP),
            self.record,
            NamedSliders(),
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"UnitFinder({', '.join(f'{name}: {x.shape[1]} units' for name, x in self.values.items())})"

    def show_best(self) -> None:
        """Choose the best unit, sign and threshold of this set for this class; it is tried on the images shown."""
        name, label = self.units.value, self.label.value
        if name not in self._found:
            self._found[name] = best_units(self.values[name], self.labels)
        found = self._found[name]
        sign = float(found.sign[label])
        with self._drawn_once():
            self.unit.value = int(found.unit[label])
            self.above.value = sign
            self._set_threshold(sign * float(found.threshold[label]))

    def _choose(self, change: object = None) -> None:
        """Another set of units: look at the one whose values differ most."""
        values = self.values[self.units.value]
        with self._drawn_once():
            self.unit.max = values.shape[1] - 1
            self.unit.value = int(values.std(0, correction=0).argmax())
            self._measure()

    def _measure(self, change: object = None) -> None:
        """Another unit: the threshold begins at its mean."""
        with self._drawn_once():
            self._set_threshold(float(self._shown.mean()))

    def _set_threshold(self, value: float) -> None:
        low, high = float(self._shown.min()), float(self._shown.max())
        high = high if high > low else low + 1
        with self.threshold.hold_trait_notifications():
            # Wide first, so that the old value is never out of bounds.
            self.threshold.min = min(low, self.threshold.min)
            self.threshold.max = max(high, self.threshold.max)
            self.threshold.value = value
            self.threshold.min, self.threshold.max, self.threshold.step = low, high, (high - low) / STEPS

    @contextmanager
    def _drawn_once(self) -> Iterator[None]:
        """Controls may change in it one after the other; what they say together is drawn at its end."""
        inner, self._waits = self._waits, True
        try:
            yield
        finally:
            self._waits = inner
        self._draw()

    @property
    def _shown(self) -> Tensor:
        """This unit's value for each image."""
        return self.values[self.units.value][:, self.unit.value]

    def accuracy(self) -> tuple[float, float]:
        """In percent: how much of the class is found, and how much of the rest is not; the accuracy is their mean."""
        x, sign = self._shown, self.above.value
        found, is_class = sign * x >= sign * self.threshold.value, self.labels == self.label.value
        return 100 * float(found[is_class].float().mean()), 100 * float((~found)[~is_class].float().mean())

    def _draw(self, change: object = None) -> None:
        if self._waits:
            return
        x, label, name = self._shown, self.label.value, self.units.value
        is_class = self.labels == label
        found, passed = self.accuracy()
        mean = (found + passed) / 2
        key = name, label
        self.best[key] = max(mean, self.best.get(key, 0.0))
        parts = {f"class {label}": x[is_class], "all others": x[~is_class]}
        self.chart.value = histograms(parts, "value of the unit", "images (%)", self.threshold.value)
        self.caption.value = caption_html(
            f"<b>{mean:.1f} %</b>: unit {self.unit.value} finds {found:.1f} % of class {label}, and leaves out "
            f"{passed:.1f} % of the rest. Chance is 50 %."
        )
        sign = self.above.value
        order = (sign * x).topk(min(STRONGEST, len(x))).indices
        words = "largest" if sign > 0 else "smallest"
        shown = ", ".join(map(str, self.labels[order].tolist()))
        alt = f"The images with the {words} values; their classes are {shown}."
        self.strongest.value = Picture(png(tile(self.images[order], ACROSS), 2), alt).html()
        best = "; ".join(f"{units}, class {which}: {value:.1f} %" for (units, which), value in self.best.items())
        self.record.value = text_html(
            f"On the right are the {len(order)} images with the {words} values. The best so far: {best}."
        )
