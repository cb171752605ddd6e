"""A net split over ranks, in each of the strategies, with what each rank holds and sends."""

from collections.abc import Callable, Mapping
from functools import cache
from html import escape
from typing import Any

import ipywidgets as widgets
from torch import nn

from dlkit import strategies
from dlkit.core.slices import slice_of
from dlkit.core.text_table import format_bytes
from dlkit.strategies import Cost, cost
from dlkit.ui.draw.pictures import caption_html
from dlkit.ui.draw.split_diagram import split_diagram

BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def _mesh(world_size: int) -> Any:
    if world_size % 2 or world_size < 4:
        raise ValueError(f"two replicas that are split themselves need 4, 6, 8, ... ranks, and there are {world_size}.")
    return strategies.Hybrid(2, world_size // 2)


STRATEGIES: dict[str, Callable[[int], Any]] = {  # by what the widget calls them; of a number of ranks
    "data": lambda world_size: strategies.DataParallel(),
    "neurons": lambda world_size: strategies.TensorParallel(),
    "region": lambda world_size: strategies.SpatialParallel(),
    "layers": lambda world_size: strategies.Pipeline(),
    "hybrid": _mesh,
    "weird trick": lambda world_size: strategies.OneWeirdTrick(),
}


def explanation(cost: Cost, split_by: str) -> str:
    """What the split means, in a few sentences, with the numbers of the rank that holds or sends most."""
    ranks, batch = range(cost.world_size), cost.batch_size
    sent = format_bytes(max(cost.bytes_sent(rank) for rank in ranks))
    held = format_bytes(max(cost.memory_bytes(rank, optimizer_values=0) for rank in ranks))
    images = slice_of(batch, 0, len(ranks)).count
    text = {
        "data": f"Every rank has the whole net, and computes {images} of the {batch} images. When the gradients "
        "are there they are added up over all ranks: what is sent does not depend on the batch",
        "neurons": f"Every rank sees all {batch} images, and has the weights of some of each layer's units or "
        "maps. Where the next layer needs all of them they are gathered, or partial sums are added up: what is sent "
        "grows with the batch, and not with the weights",
        "region": f"Every rank computes some rows of every map, for all {batch} images, and borrows the rows "
        "just beyond its edge: the halo. A convolution's weights are on all ranks, and their gradients are added up; "
        "weights that are not shared stay with their rows",
        "hybrid": f"Two replicas, each for its part of the {batch} images, and split by neurons over "
        f"{len(ranks) // 2} ranks. A rank adds up its part's gradients with the rank that has the same part in "
        "the other replica. So gradients are sent of a part of the weights, activations of a part of the batch",
        "weird trick": f"Through the convolutions, which have few weights, every rank takes {images} of the "
        f"{batch} images. Then all have all images' features, and some units each of the layers behind, which "
        "have many weights: neither those nor their gradients are sent",
        "layers": f"Every rank has some layers. Activations of all {batch} images go from rank to rank, and their "
        "gradients come back: only neighbours talk, but a later rank waits for the ones before it",
    }[split_by]
    return f"{text}. A rank holds at most {held} of parameters and gradients, and sends at most {sent} in a step."


class Splitter(widgets.VBox):
    """Nets by name, drawn split over 2 to 4 ranks by each strategy, with what each rank holds and sends.

    `image_shape` is that of an image as the nets take it. ValueError for no nets.
    """

    def __init__(self, nets: Mapping[str, nn.Module], image_shape: tuple[int, ...] = (28, 28)):
        if not nets:
            raise ValueError("no nets to split: give one or more, by name.")
        self.nets, self.image_shape = dict(nets), tuple(image_shape)
        self.cost = cache(self._cost)
        style = {"description_width": "initial"}
        self.net = widgets.Dropdown(options=list(nets), description="Net", style=style, layout={"width": "260px"})
        self.split_by = widgets.ToggleButtons(options=list(STRATEGIES), style={"button_width": "100px"})
        self.world_size = widgets.IntSlider(2, 2, 4, description="Ranks", style=style, layout={"width": "240px"})
        self.batch_size = widgets.SelectionSlider(
            options=BATCH_SIZES, value=100, description="Batch", style=style, layout={"width": "300px"}
        )
        self.caption, self.picture, self.table = (widgets.HTML() for _ in range(3))
        for control in (self.net, self.split_by, self.world_size, self.batch_size):
            control.observe(self._draw, "value")
        self._draw()
        wrap = {"flex_flow": "row wrap"}
        controls = [
            widgets.HBox([self.net, widgets.Label("split by"), self.split_by], layout=wrap),
            widgets.HBox([self.world_size, self.batch_size], layout=wrap),
        ]
        super().__init__([*controls, self.caption, self.picture, self.table])

    def __repr__(self) -> str:
        return f"Splitter({', '.join(self.nets)})"

    def _cost(self, net: str, split_by: str, world_size: int, batch_size: int) -> Cost | str:
        """The cost, or why there is none."""
        try:
            strategy = STRATEGIES[split_by](world_size)
            return cost(self.nets[net], self.image_shape, batch_size, world_size, strategy)
        except ValueError as error:
            return str(error)

    def _draw(self, change: object = None) -> None:
        net, world_size, batch_size = self.net.value, self.world_size.value, self.batch_size.value
        split_by = self.split_by.value
        shown = self.cost(net, split_by, world_size, batch_size)
        if isinstance(shown, str):
            self.caption.value, self.picture.value, self.table.value = caption_html(escape(shown)), "", ""
            return
        costs = {name: self.cost(net, name, world_size, batch_size) for name in STRATEGIES}
        sent = {
            name: max(map(one.bytes_sent, range(world_size))) for name, one in costs.items() if isinstance(one, Cost)
        }
        least = min(sent, key=lambda name: sent[name])
        others = ", ".join(f"{name} {format_bytes(size)}" for name, size in sent.items())
        compared = f" Sent a rank a step: {others}; least by <b>{least}</b>."
        self.caption.value = caption_html(escape(explanation(shown, split_by)) + compared)
        self.picture.value = f'<div style="overflow-x: auto">{split_diagram(shown, split_by)}</div>'
        self.table.value = shown._repr_html_()
