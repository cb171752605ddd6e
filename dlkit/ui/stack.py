"""What each unit of a stack looks for, which digits excite it, and how fine-tuning changed it."""

import ipywidgets as widgets
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.analysis.unit_activity import Net, UnitActivity, class_means, most_exciting, sorted_units
from dlkit.ui.controls.elements import FULL_LABEL, TOP, WRAP, icon_button, number_box, put
from dlkit.ui.draw.charts import bars
from dlkit.ui.draw.pictures import caption_html, captioned, grey
from dlkit.ui.draw.unit_sheet import unit_picture, unit_sheet

SHOWN = 60  # units in the grid
IN_A_ROW, DIGIT = 8, 56  # exciting digits in a row; pixels of each


class StackExplorer(widgets.VBox):
    """The units of a stack one by one: what each looks for, and which of the labelled images excite it most.

    `before` is a DBN or the list of its layers. `after` is the same net fine-tuned: a DBN, or a classifier that begins
    with the stack's layers; with it there is a switch between the two. A unit's picture is that of
    `UnitActivity.pictures`. The grid has the order of `before` for both, so that a unit does not move.
    ValueError if images, labels and layers do not fit each other.
    """

    def __init__(
        self,
        before: Net,
        images: Float[Tensor, "images height width"],
        labels: Int64[Tensor, " labels"],
        after: Net | None = None,
    ):
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels: give one label an image.")
        self.images, self.labels = images.cpu(), labels.cpu()
        self.nets = {"before": UnitActivity(before, self.images)}
        sizes = self.nets["before"].sizes
        if after is not None:
            self.nets["after"] = tuned = UnitActivity(after, self.images)
            if tuned.sizes[: len(sizes)] != sizes:
                raise ValueError(
                    f"`after` has layers of {tuned.sizes} units and `before` of {sizes}: give the net that was made "
                    "of this stack, such as dbn.classifier(10)."
                )
        sorts = [("index", "index"), ("mean activity", "activity")]
        sorts += [(f"preference for {digit}", digit) for digit in self.labels.unique().tolist()]
        layers = [(f"{number}: {size} units", number - 1) for number, size in enumerate(sizes, 1)]
        self.layer = widgets.Dropdown(options=layers, description="Layer", layout={"width": "190px"}, style=FULL_LABEL)
        self.unit = number_box("Unit", sizes[0] - 1, "120px")
        self.previous = icon_button("chevron-left", "Previous unit of the grid", lambda: self._walk(-1))
        self.next = icon_button("chevron-right", "Next unit of the grid", lambda: self._walk(+1))
        self.sort = widgets.Dropdown(options=sorts, description="Sort by", layout={"width": "210px"}, style=FULL_LABEL)
        self.net = widgets.ToggleButtons(options=list(self.nets), style={"button_width": "70px"})
        self.caption, self.grid_caption, self.chart = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.grid = widgets.Image(format="png")
        self.picture = widgets.Image(format="png")
        self.digits = widgets.Image(format="png")
        self.layer.observe(self._sort, "value")
        self.sort.observe(self._sort, "value")
        self.unit.observe(self._draw, "value")
        self.net.observe(self._draw, "value")
        self._sort()
        controls = [self.layer, self.unit, self.previous, self.next, self.sort] + [self.net] * (after is not None)
        chosen_unit = widgets.VBox(
            [widgets.HBox([self.picture, self.chart], layout=TOP), self.digits],
            layout={"margin": "0 0 0 16px"},
        )
        super().__init__(
            [
                widgets.HBox(controls, layout=WRAP),
                self.caption,
                widgets.HBox([widgets.VBox([self.grid, self.grid_caption]), chosen_unit]),
            ]
        )

    def __repr__(self) -> str:
        both = ", before and after fine-tuning" if "after" in self.nets else ""
        return f"StackExplorer(layers of {self.nets['before'].sizes} units, {len(self.images)} images{both})"

    def _sort(self, change: object = None) -> None:
        """Sort the layer's units, and go to the first of them."""
        layer = self.layer.value
        self._order = sorted_units(self.nets["before"].activity[layer], self.labels, self.sort.value)
        self._means = {name: class_means(net.activity[layer], self.labels) for name, net in self.nets.items()}
        first = int(self._order[0])
        with self.unit.hold_trait_notifications():
            self.unit.max = len(self._order) - 1
            moved = self.unit.value != first
            self.unit.value = first
        if not moved:
            self._draw()

    def _walk(self, by: int) -> None:
        index = int((self._order == self.unit.value).nonzero()) + by
        self.unit.value = int(self._order[index % len(self._order)])

    def _draw(self, change: object = None) -> None:
        layer, unit, net = self.layer.value, self.unit.value, self.nets[self.net.value]
        activity, pictures, means = net.activity[layer], net.pictures(layer), self._means[self.net.value][:, unit]
        shown, best = self._order[:SHOWN], most_exciting(activity, unit)
        put(unit_sheet(pictures, shown, unit), self.grid)
        put(unit_picture(pictures[unit]), self.picture)
        texts = [f"{value:.2f}" for value in activity[best, unit].tolist()]
        put(captioned(grey(self.images[best]), texts, IN_A_ROW, DIGIT), self.digits)
        self.chart.value = bars(means.tolist(), "Mean activity by digit")
        self.grid_caption.value = (
            f"{len(shown)} of the layer's {len(self._order)} units, by {self.sort.label}; unit {unit} "
            f"{'is framed' if unit in shown else 'comes after them'}."
        )
        self.caption.value = caption_html(self._caption_text(layer, unit, activity, means, len(best)))

    def _caption_text(self, layer: int, unit: int, activity: Tensor, means: Tensor, exciting: int) -> str:
        tuned = "" if "after" not in self.nets else f" <b>{self.net.value}</b> fine-tuning"
        looks_for = "its weights" if layer == 0 else "the sum of the pictures of the layer below, by weight"
        seen = self.labels.unique()
        most, least = int(seen[means[seen].argmax()]), int(seen[means[seen].argmin()])
        text = (
            f"<b>Layer {layer + 1}, unit {unit}</b>{tuned}. What it looks for: {looks_for} (white: more than grey, 0). "
            f"The {exciting} of {len(self.images):,} images that excite it most, with its activity. Mean activity: "
            f"{float(activity[:, unit].mean()):.2f}; most for {most}s ({float(means[most]):.2f}), least for {least}s "
            f"({float(means[least]):.2f})."
        )
        if "after" in self.nets:
            both = torch.stack([net.activity[layer][:, unit] for net in self.nets.values()])
            if (both.std(1) > 0).all():
                text += f" Before and after it correlates by {float(torch.corrcoef(both)[0, 1]):.2f} over the images."
        return text
