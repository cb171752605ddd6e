"""What each unit of a stack looks for, which digits excite it, and what fine-tuning made of it."""

import copy
from collections.abc import Sequence
from functools import reduce

import ipywidgets as widgets
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from dlkit.models import DBN, LabelledRBM
from dlkit.models.unrolled import check_stack
from dlkit.ui.draw.pictures import GAP, LINE, bars, caption_html, captioned, grey, put

Net = DBN | nn.Sequential | Sequence[nn.Module]

SHOWN, COLUMNS, SIDE = 60, 10, 40  # units in the grid, in a row of it; pixels of each
EXCITING, IN_A_ROW, DIGIT = 16, 8, 56  # digits shown, in a row, pixels of each
LARGE = 168  # pixels: the chosen unit's picture
FRAME = np.array([230, 159, 0], dtype=np.uint8)  # Okabe and Ito's orange


class Features:
    """The units of each layer of a net: `weights` (visible, hidden) and `activity` (images, hidden) of each layer.

    A labelled top is read without its labels, a plain net at each of its Linear layers, as what the next one gets.
    ValueError for layers that do not fit each other or the images.
    """

    def __init__(self, net: Net, images: Float[Tensor, "images height width"]):
        self.shape = images.shape[1], images.shape[2]
        self.weights = [W.detach().float().cpu() for W in _weights(net)]
        check_stack([(W.shape[0], W.shape[1]) for W in self.weights])
        if self.shape[0] * self.shape[1] != len(self.weights[0]):
            raise ValueError(
                f"images of {self.shape[0]}x{self.shape[1]} pixels for a first layer of {len(self.weights[0])} visible "
                "units: give images of the size it was trained on."
            )
        with torch.no_grad():
            self.activity = [h.float().cpu() for h in _activity(net, images)]
        self._pictures: dict[int, Tensor] = {}

    @property
    def sizes(self) -> list[int]:
        return [W.shape[1] for W in self.weights]

    def pictures(self, layer: int) -> Float[Tensor, "units height width"]:
        """What each unit of the layer (from 0) looks for: W¹W²…, the sum of the pictures below, weighted by its W.

        It leaves out that units saturate, so that it says which pixels count for a unit and not how they combine.
        Source: Lee, Ekanadham, Ng 2008, Sparse deep belief net model for visual area V2; judged against other ways in
        Erhan, Bengio, Courville, Vincent 2009, Visualizing higher-layer features of a deep network.
        """
        if layer not in self._pictures:
            self._pictures[layer] = reduce(torch.matmul, self.weights[: layer + 1]).T.reshape(-1, *self.shape)
        return self._pictures[layer]


def _weights(net: Net) -> list[Tensor]:
    """W (visible, hidden) of each layer, the lowest first."""
    if isinstance(net, nn.Sequential):
        found = [module.weight.T for module in net.modules() if isinstance(module, nn.Linear)]
    else:
        layers = list(net.layers) if isinstance(net, DBN) else list(net)
        for place, layer in enumerate(layers, 1):
            if not hasattr(layer, "recognition"):
                raise ValueError(
                    f"layer {place} is a {type(layer).__name__}, with no way up: give a DBN, or its layers, like RBMs."
                )
        found = [layer.recognition()[0] for layer in layers]  # type: ignore[operator]
    if not found:
        raise ValueError("a net without layers: give a DBN, a list of RBMs, or dbn.classifier().")
    return found


def _activity(net: Net, images: Tensor) -> list[Tensor]:
    """What each layer makes of the images."""
    v = images.flatten(1).to(_weights(net)[0])
    found = []
    if isinstance(net, nn.Sequential):
        linear = False
        for module in copy.deepcopy(net).eval().modules():
            if isinstance(module, nn.Linear) and linear:
                found.append(v)
            if not list(module.children()):
                linear = linear or isinstance(module, nn.Linear)
                v = module(v)
        return [*found, v]
    for layer in net.layers if isinstance(net, DBN) else net:
        if isinstance(layer, LabelledRBM):
            W, b = layer.recognition()
            v = layer.hidden_mean(v @ W + b)
        else:
            v = layer.hidden_given(v)  # type: ignore[operator]
        found.append(v)
    return found


def class_means(
    activity: Float[Tensor, "images units"], labels: Int64[Tensor, " images"]
) -> Float[Tensor, "classes units"]:
    """Mean activity of each unit over the images of each class; 0 for a class of none."""
    members = nn.functional.one_hot(labels).to(activity.dtype)
    return members.T @ activity / members.sum(0).clamp_min(1)[:, None]


def order(
    activity: Float[Tensor, "images units"], labels: Int64[Tensor, " images"], by: str | int
) -> Int64[Tensor, " units"]:
    """The units by "index", by mean "activity", or by what a class (a number) excites them more than all others do."""
    if by == "index":
        return torch.arange(activity.shape[1])
    if by == "activity":
        return activity.mean(0).argsort(descending=True, stable=True)
    of_it = labels == by
    return (activity[of_it].mean(0) - activity[~of_it].mean(0)).argsort(descending=True, stable=True)


def most_exciting(activity: Float[Tensor, "images units"], unit: int, count: int = EXCITING) -> Int64[Tensor, " found"]:
    """The images that excite the unit most, the first one most of all."""
    return activity[:, unit].argsort(descending=True, stable=True)[:count]


def page(
    pictures: Float[Tensor, "units height width"], units: Int64[Tensor, " shown"], chosen: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The pictures of these units, with their numbers; `chosen` has an orange frame, if it is among them."""
    sheet = captioned(grey(pictures[units], symmetric=True), [str(unit) for unit in units.tolist()], COLUMNS, SIDE)
    rgb = np.repeat(sheet[..., None], 3, axis=2)
    for place in (units == chosen).nonzero()[:, 0].tolist():
        tall = SIDE * pictures.shape[1] // pictures.shape[2]
        y, x = place // COLUMNS * (tall + LINE), place % COLUMNS * (SIDE + GAP)
        inside = rgb[y + 3 : y + tall - 3, x + 3 : x + SIDE - 3].copy()
        rgb[y : y + tall, x : x + SIDE] = FRAME
        rgb[y + 3 : y + tall - 3, x + 3 : x + SIDE - 3] = inside
    return rgb


class StackExplorer(widgets.VBox):
    """The units of a stack one by one: what each looks for, and which of the labelled images excite it most.

    `before` is a DBN or the list of its layers; `after` the same net fine-tuned, as a DBN or a classifier whose Linear
    layers follow the stack's: it adds a switch between the two. A unit's picture is that of `Features.pictures`; the
    grid's order is always that of `before`, so that units keep their places.
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
        self.nets = {"before": Features(before, self.images)}
        sizes = self.nets["before"].sizes
        if after is not None:
            self.nets["after"] = tuned = Features(after, self.images)
            if tuned.sizes[: len(sizes)] != sizes:
                raise ValueError(
                    f"`after` has layers of {tuned.sizes} units and `before` of {sizes}: give the net that was made "
                    "of this stack, such as dbn.classifier(10)."
                )
        sorts = [("index", "index"), ("mean activity", "activity")]
        sorts += [(f"preference for {digit}", digit) for digit in self.labels.unique().tolist()]
        layers = [(f"{place + 1}: {size} units", place) for place, size in enumerate(sizes)]
        wide = {"description_width": "initial"}
        self.layer = widgets.Dropdown(options=layers, description="Layer", layout={"width": "190px"}, style=wide)
        self.unit = widgets.BoundedIntText(description="Unit", min=0, layout={"width": "120px"}, style=wide)
        self.back = widgets.Button(icon="chevron-left", tooltip="Previous unit of the grid", layout={"width": "40px"})
        self.on = widgets.Button(icon="chevron-right", tooltip="Next unit of the grid", layout={"width": "40px"})
        self.sort = widgets.Dropdown(options=sorts, description="Sort by", layout={"width": "210px"}, style=wide)
        self.net = widgets.ToggleButtons(options=list(self.nets), style={"button_width": "70px"})
        self.caption, self.grid_caption, self.chart = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.grid = widgets.Image(format="png")
        self.picture = widgets.Image(format="png")
        self.digits = widgets.Image(format="png")
        self.layer.observe(self._sort, "value")
        self.sort.observe(self._sort, "value")
        self.unit.observe(self._draw, "value")
        self.net.observe(self._draw, "value")
        self.back.on_click(lambda _: self._walk(-1))
        self.on.on_click(lambda _: self._walk(+1))
        self._sort()
        controls = [self.layer, self.unit, self.back, self.on, self.sort] + [self.net] * (after is not None)
        one = widgets.VBox(
            [widgets.HBox([self.picture, self.chart], layout={"align_items": "flex-start"}), self.digits],
            layout={"margin": "0 0 0 16px"},
        )
        super().__init__(
            [
                widgets.HBox(controls, layout={"flex_flow": "row wrap"}),
                self.caption,
                widgets.HBox([widgets.VBox([self.grid, self.grid_caption]), one]),
            ]
        )

    def __repr__(self) -> str:
        both = ", before and after fine-tuning" if "after" in self.nets else ""
        return f"StackExplorer(layers of {self.nets['before'].sizes} units, {len(self.images)} images{both})"

    def _sort(self, change: object = None) -> None:
        """Order the layer's units anew, and go to the first of them."""
        layer = self.layer.value
        self._order = order(self.nets["before"].activity[layer], self.labels, self.sort.value)
        self._means = {name: class_means(net.activity[layer], self.labels) for name, net in self.nets.items()}
        first = int(self._order[0])
        with self.unit.hold_trait_notifications():
            self.unit.max = len(self._order) - 1
            moved = self.unit.value != first
            self.unit.value = first
        if not moved:
            self._draw()

    def _walk(self, steps: int) -> None:
        place = int((self._order == self.unit.value).nonzero()) + steps
        self.unit.value = int(self._order[place % len(self._order)])

    def _draw(self, change: object = None) -> None:
        layer, unit, net = self.layer.value, self.unit.value, self.nets[self.net.value]
        activity, pictures, means = net.activity[layer], net.pictures(layer), self._means[self.net.value][:, unit]
        shown, found = self._order[:SHOWN], most_exciting(activity, unit)
        put(page(pictures, shown, unit), self.grid)
        put(_large(grey(pictures[unit : unit + 1], symmetric=True)[0]), self.picture)
        texts = [f"{value:.2f}" for value in activity[found, unit].tolist()]
        put(captioned(grey(self.images[found]), texts, IN_A_ROW, DIGIT), self.digits)
        self.chart.value = bars(means.tolist(), "Mean activity by digit")
        self.grid_caption.value = (
            f"{len(shown)} of the layer's {len(self._order)} units, by {self.sort.label}; unit {unit} "
            f"{'is framed' if unit in shown else 'comes after them'}."
        )
        self.caption.value = caption_html(self._words(layer, unit, activity, means, len(found)))

    def _words(self, layer: int, unit: int, activity: Tensor, means: Tensor, exciting: int) -> str:
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


def _large(pixels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "rows columns"]:
    zoom = max(1, LARGE // pixels.shape[1])
    return pixels.repeat(zoom, 0).repeat(zoom, 1)
