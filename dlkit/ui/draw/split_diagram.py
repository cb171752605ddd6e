"""A picture of a net split over ranks: which rank holds and computes what of every layer, and what is sent for it."""

from html import escape
from itertools import pairwise

from dlkit.core.slices import Slice
from dlkit.core.text_table import format_bytes
from dlkit.strategies import Cost, Hybrid, LayerCost
from dlkit.ui.draw.pictures import BLUE, GREEN, ORANGE, VERMILION
from dlkit.ui.draw.split_skips import skip_arcs, skips_in_words

COLOURS = (BLUE, ORANGE, GREEN, VERMILION)
MARKS = (  # over the colour, so that ranks are told apart without it
    "",
    '<path d="M-2 2 l4 -4 M0 8 l8 -8 M6 10 l4 -4" stroke="black" stroke-width="1.4"/>',
    '<path d="M0 2 h8 M0 6 h8" stroke="black" stroke-width="1"/>',
    '<circle cx="2" cy="2" r="1.3" fill="black"/><circle cx="6" cy="6" r="1.3" fill="black"/>',
)
LEFT, COLUMN, TOP, LANE, BOX = 62, 112, 52, 128, 52  # pixels: of ranks' names, a layer, the head, a rank; of a box
BAR = 48  # pixels: of all of a layer's weights; beside it their bytes, which end before the arrows
SQUARES, SIDE, GAP = 6, 24, 4  # maps drawn of a layer, three in a row; pixels of each, between two
PARTS = {
    "units": ("unit", "units"),
    "inputs": ("input", "inputs"),
    "rows": ("row", "rows"),
    "columns": ("column", "columns"),
    "tiles": ("place", "places"),
}


def split_diagram(cost: Cost, split_by: str) -> str:
    """An SVG: a row a rank, a column a layer, and in front of them the batch; filled is what the rank computes.

    Under each box what that is, the bar of the layer's weights that the rank holds, and the bytes that it sends; under
    all of them, arcs for values that go past layers. `split_by` names the strategy for readers of the alternative text.
    """
    ranks = range(cost.world_size)
    width, height = LEFT + COLUMN * (len(cost.layers[0]) + 1), TOP + LANE * cost.world_size
    shapes = [f"<defs>{''.join(_pattern(rank) for rank in ranks)}{ARROW}</defs>"]
    heads = [("batch", f"{cost.batch_size} images", "")]
    heads += [(short_name(layer.name), layer.kind, _shape(layer.output_shape)) for layer in cost.layers[0]]
    for column, (name, kind, shape) in enumerate(heads):
        x = LEFT + column * COLUMN
        shapes += [_text(x, 12, name, bold=True), _text(x, 26, kind), _text(x, 40, shape)]
    for rank, layers in enumerate(cost.layers):
        y = TOP + rank * LANE
        shapes.append(_text(0, y + BOX / 2 + 4, f"rank {rank}", bold=True))
        shapes += _batch(layers[0], rank, LEFT, y)
        for column, layer in enumerate(layers, 1):
            shapes += _layer(layer, rank, LEFT + column * COLUMN, y)
    shapes += _arrows(cost)
    arcs, below = skip_arcs(cost.skips, LEFT, COLUMN, height)
    shapes, height = shapes + arcs, height + below
    return (
        f'<svg width="{width}" height="{height:.0f}" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(_alt(cost, split_by), quote=True)}" font-family="sans-serif" font-size="11" '
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


def _batch(layer: LayerCost, rank: int, x: float, y: float) -> list[str]:
    """The batch as a stack of images, of which those that the rank computes from are filled."""
    part = layer.images or Slice(0, layer.part.count > 0, 1)
    top, high = BOX * part.start / part.whole, BOX * part.count / part.whole
    lines = [f'<path d="M{x} {y + BOX * i / 6:.1f} h40" stroke="#888888" stroke-width="0.6"/>' for i in range(1, 6)]
    filled = [_rect(x, y + top, 40, high, rank)] * (part.count > 0)
    which = _which(part, "image", "images") if layer.images else "all images" if part.count else "none"
    return [*filled, _rect(x, y, 40, BOX), *lines, _text(x, y + BOX + 12, which)]


def _layer(layer: LayerCost, rank: int, x: float, y: float) -> list[str]:
    """A layer's box, what is filled in words, the bar of its weights, and what is sent."""
    share = layer.part.start / layer.part.whole, layer.part.stop / layer.part.whole
    if layer.along == "images":
        share = (0.0, 1.0)
    has_maps = len(layer.output_shape) == 3 and layer.output_shape[1] > 1
    shapes = _maps(layer, share, rank, x, y) if has_maps else _units(layer, share, rank, x, y)
    shapes.append(_text(x, y + BOX + 12, part_in_words(layer)))
    below = y + BOX + 17
    if layer.whole:
        wide = BAR * layer.parameters / layer.whole
        shapes += [_rect(x, below, wide, 7, rank)] * (wide > 0) + [_rect(x, below, BAR, 7)]
        shapes.append(_text(x + BAR + 4, below + 7, _bytes(layer.parameters)))
    sends = (("forward", layer.forward), ("back", layer.backward), ("gradients", layer.exchanged))
    for line, (name, size) in enumerate((name, size) for name, size in sends if size):
        shapes.append(_text(x, below + 20 + 12 * line, f"{name} {_bytes(size)}"))
    return shapes


def _bytes(size: int) -> str:
    """With a thin space, so that it ends before the arrows."""
    return format_bytes(size).replace(" ", "\u2009")


def _maps(layer: LayerCost, share: tuple[float, float], rank: int, x: float, y: float) -> list[str]:
    """Some maps as squares; by region each has the same tile filled, by maps some of them."""
    count, shapes = min(layer.output_shape[0], SQUARES), []
    for number in range(count):
        left, top = x + number % 3 * (SIDE + GAP), y + number // 3 * (SIDE + GAP)
        if layer.tile is not None:
            (above, below), (begin, end) = layer.tile
            place = left + begin * SIDE, top + above * SIDE
            shapes.append(_rect(*place, (end - begin) * SIDE, (below - above) * SIDE, rank))
        else:
            begin, end = (min(max(part * count - number, 0), 1) * SIDE for part in share)
            shapes += [_rect(left + begin, top, end - begin, SIDE, rank)] * (end > begin)
        shapes.append(_rect(left, top, SIDE, SIDE))
    return shapes


def _units(layer: LayerCost, share: tuple[float, float], rank: int, x: float, y: float) -> list[str]:
    """Units as a column, of which some are filled; where inputs are split, a box that is split the other way."""
    begin, end = (part * BOX for part in share)
    if layer.along == "inputs":
        return [_rect(x + begin, y, end - begin, BOX, rank), _rect(x, y, BOX, BOX), _text(x + BOX + 3, y + 32, "+ sum")]
    filled = [_rect(x, y + begin, 24, end - begin, rank)] * (end > begin)
    return [*filled, _rect(x, y, 24, BOX)]


def _arrows(cost: Cost) -> list[str]:
    """Between ranks, where they exchange: down a pipeline, or among all; dashed for gradients alone."""
    middles = [TOP + rank * LANE + BOX / 2 for rank in range(cost.world_size)]
    if all(layer.along == "layer" for layers in cost.layers for layer in layers):
        return [
            _line(LEFT + (i + 1) * COLUMN + 86, upper, LEFT + (i + 2) * COLUMN - 6, lower)
            for i in range(len(cost.layers[0]))
            for rank, (upper, lower) in enumerate(pairwise(middles))
            if cost.layers[rank][i].forward
        ]
    lines = []
    for i, layer in enumerate(cost.layers[0]):
        if not any(layers[i].bytes_sent for layers in cost.layers):
            continue
        x = LEFT + (i + 1) * COLUMN
        gradients_alone = not any(layers[i].forward or layers[i].backward for layers in cost.layers)
        at = x - 5 + COLUMN * (layer.along == "inputs")
        if isinstance(cost.strategy, Hybrid):
            lines += _mesh_arrows(cost.strategy.model, layer, middles, x, at, gradients_alone)
        else:
            lines += [_line(at, upper + 4, at, lower - 4, gradients_alone) for upper, lower in pairwise(middles)]
    return lines


def _mesh_arrows(
    model: int, layer: LayerCost, middles: list[float], x: float, at: float, gradients_alone: bool
) -> list[str]:
    """Between the `model` neighbours of a replica; and, for gradients alone, between those with the same part."""
    lines = []
    for rank, (upper, lower) in enumerate(pairwise(middles)):
        if not gradients_alone and (rank + 1) % model:
            lines.append(_line(at, upper + 4, at, lower - 4))
    for rank, (upper, lower) in enumerate(zip(middles, middles[model:], strict=False)):
        if layer.exchanged:
            beside = x - 10 - 4 * (rank % model)
            lines.append(_line(beside, upper + 4, beside, lower - 4, dashed=True))
    return lines


def _line(x: float, y: float, to_x: float, to_y: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="3 3"' if dashed else ""
    ends = 'marker-start="url(#dlkit-split-head)" marker-end="url(#dlkit-split-head)"'
    return (
        f'<path d="M{x:.0f} {y:.0f} L{to_x:.0f} {to_y:.0f}" stroke="currentColor" stroke-width="1.3" fill="none" '
        f"{ends}{dash}/>"
    )


def part_in_words(layer: LayerCost) -> str:
    """Which part of a layer a rank has, such as "maps 0–2"."""
    if layer.along == "layer":
        return "all" if layer.part.count else "not here"
    if layer.along == "images":
        return f"all, {layer.part.count} images"
    if layer.along == "units" and len(layer.output_shape) == 3:
        return _which(layer.part, "map", "maps")
    return _which(layer.part, *PARTS[layer.along])


def _which(part: Slice, singular: str, plural: str) -> str:
    if part.count < 2:
        return f"{singular} {part.start}" if part.count else f"no {plural}"
    return f"{plural} {part.start}–{part.stop - 1}"


def short_name(name: str) -> str:
    return name.removesuffix(".0")


def _shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return f"{shape[0]} map{'s' * (shape[0] > 1)} of {shape[1]}×{shape[2]}"
    return f"{shape[0]} units" if len(shape) == 1 else "×".join(map(str, shape))


def _alt(cost: Cost, split_by: str) -> str:
    ranks = [
        f"rank {rank}: " + ", ".join(f"{short_name(layer.name)} {part_in_words(layer)}" for layer in layers)
        for rank, layers in enumerate(cost.layers)
    ]
    skips = skips_in_words(cost.skips, [short_name(layer.name) for layer in cost.layers[0]])
    return f"Who computes what, split by {split_by}. {'; '.join(ranks)}.{skips}"
