"""A net split over ranks: which rank holds and computes what of every layer, and what is sent for it."""

from collections.abc import Mapping
from functools import cache
from html import escape
from itertools import pairwise

import ipywidgets as widgets
from torch import nn

from dlkit.core.slices import Slice, slice_of
from dlkit.core.text_table import format_bytes
from dlkit.strategies.cost import Cost, cost
from dlkit.strategies.layer_cost import REPLICAS, WAYS, LayerCost
from dlkit.ui.draw.pictures import BLUE, GREEN, ORANGE, VERMILION, caption_html

COLOURS = (BLUE, ORANGE, GREEN, VERMILION)
MARKS = (  # over the colour, so that ranks are told apart without it
    "",
    '<path d="M-2 2 l4 -4 M0 8 l8 -8 M6 10 l4 -4" stroke="black" stroke-width="1.4"/>',
    '<path d="M0 2 h8 M0 6 h8" stroke="black" stroke-width="1"/>',
    '<circle cx="2" cy="2" r="1.3" fill="black"/><circle cx="6" cy="6" r="1.3" fill="black"/>',
)
LEFT, COLUMN, TOP, LANE, BOX = 62, 112, 52, 128, 52  # pixels: of ranks' names, a layer, the head, a rank; of a box
SQUARES, SIDE, GAP = 6, 24, 4  # maps drawn of a layer, three in a row; pixels of each, between two
BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
PARTS = {"units": ("unit", "units"), "inputs": ("input", "inputs"), "rows": ("row", "rows")}


def drawn(found: Cost) -> str:
    """An SVG: a row a rank, a column a layer, and in front of them the batch; filled is what the rank computes.

    Under each box what that is, the bar of the layer's weights that the rank holds, and the bytes that it sends.
    """
    ranks = len(found.items)
    width, height = LEFT + COLUMN * (len(found.items[0]) + 1), TOP + LANE * ranks
    shapes = [f"<defs>{''.join(_pattern(rank) for rank in range(ranks))}{ARROW}</defs>"]
    heads = [("batch", f"{found.batch} images", "")]
    heads += [(_short(one.name), one.kind, _by(one.gives)) for one in found.items[0]]
    for column, (name, kind, shape) in enumerate(heads):
        x = LEFT + column * COLUMN
        shapes += [_text(x, 12, name, bold=True), _text(x, 26, kind), _text(x, 40, shape)]
    for rank, items in enumerate(found.items):
        y = TOP + rank * LANE
        shapes.append(_text(0, y + BOX / 2 + 4, f"rank {rank}", bold=True))
        shapes += _batch(found, rank, LEFT, y)
        for column, one in enumerate(items):
            shapes += _layer(one, rank, LEFT + (column + 1) * COLUMN, y)
    shapes += _arrows(found)
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(_alt(found), quote=True)}" font-family="sans-serif" font-size="11" '
        f'fill="currentColor">{"".join(shapes)}</svg>'
    )


ARROW = (
    '<marker id="dlkit-split-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
)


def _pattern(rank: int) -> str:
    ground = f'<rect width="8" height="8" fill="{COLOURS[rank]}"/>'
    return (
        f'<pattern id="dlkit-split-{rank}" width="8" height="8" patternUnits="userSpaceOnUse">{ground}{MARKS[rank]}'
        "</pattern>"
    )


def _text(x: float, y: float, text: str, bold: bool = False) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-weight="{700 if bold else 400}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, rank: int | None = None) -> str:
    """Filled as the rank's, or empty with an edge."""
    look = 'fill="none" stroke="#888888"' if rank is None else f'fill="url(#dlkit-split-{rank})"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {look}/>'


def _batch(found: Cost, rank: int, x: float, y: float) -> list[str]:
    """The batch as a stack of images, of which those that the rank computes from are filled."""
    one = found.items[rank][0]
    part = one.images or Slice(0, one.part.count > 0, 1)
    top, high = BOX * part.start / part.whole, BOX * part.count / part.whole
    lines = [f'<path d="M{x} {y + BOX * i / 6:.1f} h40" stroke="#888888" stroke-width="0.6"/>' for i in range(1, 6)]
    filled = [_rect(x, y + top, 40, high, rank)] * (part.count > 0)
    which = _which(part, "image", "images") if one.images else "all images" if part.count else "none"
    return [*filled, _rect(x, y, 40, BOX), *lines, _text(x, y + BOX + 12, which)]


def _layer(one: LayerCost, rank: int, x: float, y: float) -> list[str]:
    """A layer's box, what is filled in words, the bar of its weights, and what is sent."""
    share = one.part.start / one.part.whole, one.part.stop / one.part.whole
    if one.along == "images":
        share = (0.0, 1.0)
    shapes = (
        _maps(one, share, rank, x, y) if len(one.gives) == 3 and one.gives[1] > 1 else _units(one, share, rank, x, y)
    )
    shapes.append(_text(x, y + BOX + 12, _here(one)))
    at = y + BOX + 17
    if one.whole:
        wide = 60 * one.parameters / one.whole
        shapes += [_rect(x, at, wide, 7, rank)] * (wide > 0) + [_rect(x, at, 60, 7)]
        shapes.append(_text(x + 64, at + 7, format_bytes(one.parameters).replace(" ", "\u2009")))
    sends = (("forward", one.forward), ("back", one.backward), ("gradients", one.exchanged))
    for line, (name, sent) in enumerate((name, sent) for name, sent in sends if sent):
        shapes.append(_text(x, at + 20 + 12 * line, f"{name} {format_bytes(sent)}"))
    return shapes


def _maps(one: LayerCost, share: tuple[float, float], rank: int, x: float, y: float) -> list[str]:
    """Some maps as squares; by rows each has the same rows filled, by maps some of them."""
    count, shapes = min(one.gives[0], SQUARES), []
    for place in range(count):
        left, top = x + place % 3 * (SIDE + GAP), y + place // 3 * (SIDE + GAP)
        if one.along == "rows":
            shapes.append(_rect(left, top + share[0] * SIDE, SIDE, (share[1] - share[0]) * SIDE, rank))
        else:
            begin, end = (min(max(part * count - place, 0), 1) * SIDE for part in share)
            shapes += [_rect(left + begin, top, end - begin, SIDE, rank)] * (end > begin)
        shapes.append(_rect(left, top, SIDE, SIDE))
    return shapes


def _units(one: LayerCost, share: tuple[float, float], rank: int, x: float, y: float) -> list[str]:
    """Units as a column, of which some are filled; where inputs are split, a box that is split the other way."""
    begin, end = (part * BOX for part in share)
    if one.along == "inputs":
        return [_rect(x + begin, y, end - begin, BOX, rank), _rect(x, y, BOX, BOX), _text(x + BOX + 6, y + 32, "+ sum")]
    filled = [_rect(x, y + begin, 24, end - begin, rank)] * (end > begin)
    return [*filled, _rect(x, y, 24, BOX)]


def _arrows(found: Cost) -> list[str]:
    """Between ranks, where they exchange: down the line of layers, or among all; dashed for gradients alone.

    In two replicas, those who have the same part of a layer exchange its gradients, and nothing else.
    """
    lines, ranks = [], len(found.items)
    middles = [TOP + rank * LANE + BOX / 2 for rank in range(ranks)]
    for i, one in enumerate(found.items[0]):
        x = LEFT + (i + 1) * COLUMN
        if found.how == "layers":
            for rank, (upper, lower) in enumerate(pairwise(middles)):
                if found.items[rank][i].forward:
                    lines.append(_line(x + 86, upper, x + COLUMN - 6, lower))
        elif any(items[i].bytes_sent for items in found.items):
            only = not any(items[i].forward or items[i].backward for items in found.items)
            at = x + COLUMN - 10 if one.along == "inputs" else x - 8
            if found.how != "hybrid":
                lines += [_line(at, upper + 4, at, lower - 4, only) for upper, lower in pairwise(middles)]
                continue
            across = ranks // REPLICAS
            for rank, (upper, lower) in enumerate(pairwise(middles)):
                if not only and (rank + 1) % across:
                    lines.append(_line(at, upper + 4, at, lower - 4))
            for rank, (upper, lower) in enumerate(zip(middles, middles[across:], strict=False)):
                if one.exchanged:
                    beside = x - 14 - 6 * (rank % across)
                    lines.append(_line(beside, upper + 4, beside, lower - 4, dashed=True))
    return lines


def _line(x: float, y: float, to_x: float, to_y: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="3 3"' if dashed else ""
    ends = 'marker-start="url(#dlkit-split-head)" marker-end="url(#dlkit-split-head)"'
    return (
        f'<path d="M{x:.0f} {y:.0f} L{to_x:.0f} {to_y:.0f}" stroke="currentColor" stroke-width="1.3" fill="none" '
        f"{ends}{dash}/>"
    )


def _here(one: LayerCost) -> str:
    """Which part of a layer is here, in words."""
    if one.along == "layer":
        return "all" if one.part.count else "not here"
    if one.along == "images":
        return f"all, {one.part.count} images"
    if one.along == "units" and len(one.gives) == 3:
        return _which(one.part, "map", "maps")
    return _which(one.part, *PARTS[one.along])


def _which(part: Slice, one: str, several: str) -> str:
    if part.count < 2:
        return f"{one} {part.start}" if part.count else f"no {several}"
    return f"{several} {part.start}–{part.stop - 1}"


def _short(name: str) -> str:
    return name.removesuffix(".0")


def _by(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return f"{shape[0]} map{'s' * (shape[0] > 1)} of {shape[1]}×{shape[2]}"
    return f"{shape[0]} units" if len(shape) == 1 else "×".join(map(str, shape))


def _alt(found: Cost) -> str:
    ranks = [
        f"rank {rank}: " + ", ".join(f"{_short(one.name)} {_here(one)}" for one in items)
        for rank, items in enumerate(found.items)
    ]
    return f"Who computes what, split by {found.how}. {'; '.join(ranks)}."


def words(found: Cost) -> str:
    """What the split means, in a few sentences, with the numbers of the rank that holds or sends most."""
    ranks = range(len(found.items))
    sent, held = (
        format_bytes(max(measure(rank) for rank in ranks)) for measure in (found.bytes_sent, found.memory_bytes)
    )
    images = slice_of(found.batch, 0, len(ranks)).count
    how = {
        "data": f"Every rank has the whole net, and computes {images} of the {found.batch} images. When the gradients "
        "are there they are added up over all ranks: what is sent does not depend on the batch",
        "neurons": f"Every rank sees all {found.batch} images, and has the weights of some of each layer's units or "
        "maps. Where the next layer needs all of them they are gathered, or partial sums are added up: what is sent "
        "grows with the batch, and not with the weights",
        "region": f"Every rank computes some rows of every map, for all {found.batch} images, and borrows the rows "
        "just beyond its edge: the halo. A convolution's weights are on all ranks, and their gradients are added up; "
        "weights that are not shared stay with their rows",
        "hybrid": f"Two replicas, each for its part of the {found.batch} images, and split by neurons over "
        f"{len(ranks) // REPLICAS} ranks. A rank adds up its part's gradients with the rank that has the same part in "
        "the other replica. So gradients are sent of a part of the weights, activations of a part of the batch",
        "weird trick": f"Through the convolutions, which have few weights, every rank takes {images} of the "
        f"{found.batch} images. Then all have all images' features, and some units each of the layers behind, which "
        "have many weights: neither those nor their gradients are sent",
        "layers": f"Every rank has some layers. Activations of all {found.batch} images go down the line, and their "
        "gradients come back: only neighbours talk, but who is down the line waits for who is above it",
    }[found.how]
    return f"{how}. A rank holds at most {held} of parameters and gradients, and sends at most {sent} in a step."


class Splitter(widgets.VBox):
    """Nets by name, drawn split over 2 to 4 ranks in each of `WAYS`, with each rank's bill.

    `image_shape` is that of an image as the nets take it. ValueError for no nets.
    """

    def __init__(self, nets: Mapping[str, nn.Module], image_shape: tuple[int, ...] = (28, 28)):
        if not nets:
            raise ValueError("no nets to split: give one or more, by name.")
        self.nets, self.image_shape = dict(nets), tuple(image_shape)
        self.cost = cache(self._bill)
        style = {"description_width": "initial"}
        self.net = widgets.Dropdown(options=list(nets), description="Net", style=style, layout={"width": "260px"})
        self.how = widgets.ToggleButtons(options=list(WAYS), style={"button_width": "84px"})
        self.ranks = widgets.IntSlider(2, 2, 4, description="Ranks", style=style, layout={"width": "240px"})
        self.batch = widgets.SelectionSlider(
            options=BATCHES, value=100, description="Batch", style=style, layout={"width": "300px"}
        )
        self.caption, self.picture, self.table = (widgets.HTML() for _ in range(3))
        for control in (self.net, self.how, self.ranks, self.batch):
            control.observe(self._draw, "value")
        self._draw()
        wrap = {"flex_flow": "row wrap"}
        controls = [
            widgets.HBox([self.net, widgets.Label("split by"), self.how], layout=wrap),
            widgets.HBox([self.ranks, self.batch], layout=wrap),
        ]
        super().__init__([*controls, self.caption, self.picture, self.table])

    def __repr__(self) -> str:
        return f"Splitter({', '.join(self.nets)})"

    def _bill(self, name: str, how: str, ranks: int, batch: int) -> Cost | str:
        """The bill, or why there is none."""
        try:
            return cost(self.nets[name], self.image_shape, batch, ranks, how)
        except ValueError as error:
            return str(error)

    def _draw(self, change: object = None) -> None:
        name, ranks, batch = self.net.value, self.ranks.value, self.batch.value
        found = self.cost(name, self.how.value, ranks, batch)
        if isinstance(found, str):
            self.caption.value, self.picture.value, self.table.value = caption_html(escape(found)), "", ""
            return
        bills = [self.cost(name, how, ranks, batch) for how in WAYS]
        sent = {one.how: max(map(one.bytes_sent, range(ranks))) for one in bills if isinstance(one, Cost)}
        least = min(sent, key=lambda how: sent[how])
        others = ", ".join(f"{how} {format_bytes(size)}" for how, size in sent.items())
        compared = f" Sent a rank a step: {others}; least by <b>{least}</b>."
        self.caption.value = caption_html(escape(words(found)) + compared)
        self.picture.value = f'<div style="overflow-x: auto">{drawn(found)}</div>'
        self.table.value = found._repr_html_()
