"""A picture of one thing that is said in a Sandblaster run: the coordinator, the servers, the workers, and arrows."""

from collections.abc import Sequence
from html import escape

from dlkit.core.text_table import format_bytes
from dlkit.strategies.sandblaster.tape import Said
from dlkit.strategies.sandblaster.vectors import Command
from dlkit.ui.draw.pictures import BLUE, ORANGE

WIDTH, BOX, TALL, PITCH = 760, 170, 40, 118  # pixels: of the picture, of a box and its height, from row to row
HEIGHT = 2 * PITCH + TALL + 32


def tape_diagram(said: Said, servers: int, workers: int) -> str:
    """An SVG: who talks to whom, and how much; its alt text says it in words."""
    coordinator = (WIDTH / 2, 6.0)
    holders = [(x, 6.0 + PITCH) for x in _places(servers)]
    computers = [(x, 6.0 + 2 * PITCH) for x in _places(workers)]
    shapes = [ARROWS]
    if said.portions:
        size = format_bytes(said.vector_bytes)
        shapes += [_line(*holder, *computer, ORANGE, 3, top=TALL) for computer in computers for holder in holders]
        alt = f"workers fetch values from {servers} servers, compute portions of the batch, and send sums: {size}"
        label = f"values down, sums of gradients up: {size} in all"
        shapes.append(_text(WIDTH / 2, HEIGHT - 6, label))
    else:
        size = format_bytes(said.command_bytes)
        for x, y in holders:
            shapes.append(_line(*coordinator, x, y, BLUE, 2, top=TALL))
        alt = f"the coordinator sends commands to {servers} servers, which answer by numbers: {size}"
        label = f"commands down, numbers up: {size} in all"
        shapes.append(_text(WIDTH / 2, 6 + PITCH / 2 + TALL / 2 + 4, label, background=True))
    shapes += _box(*coordinator, "coordinator", "knows names and numbers")
    for number, (x, y) in enumerate(holders):
        shapes += _box(x, y, f"server {number}", f"its part of {len(said.vectors)} vectors")
    for number, (x, y) in enumerate(computers):
        shapes += _box(x, y, f"worker {number}", "computes portions" if said.portions else "waits")
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(alt)}" font-family="sans-serif" font-size="12" fill="currentColor">'
        f"{''.join(shapes)}</svg>"
    )


def in_words(command: Command, number: float | None = None) -> str:
    """A command as a formula; number: the sum, or the largest, of the servers' answers."""
    operation, name, *operands = command
    match operation:
        case "dot":
            text = f"{name} · {operands[0]}"
        case "largest":
            text = f"max |{name}|"
        case "length":
            text = f"Σ |{name}|"
        case "scaled":
            return f"{name} = {operands[1]:.4g} {operands[0]}"
        case "sum":
            return f"{name} = {operands[0]} {_signed(operands[2])} {operands[1]}"
        case "add":
            return f"{name} = {name} {_signed(operands[1])} {operands[0]}"
        case "collect":
            return f"{name} = the gradient: add up the {len(operands[0])} sums that came from workers"
        case _:  # "free"
            return f"forget {name}"
    return f"{text} = ?" if number is None else f"{text} = {number:.6g}"


def _signed(number: float) -> str:
    return f"− {-number:.4g}" if number < 0 else f"+ {number:.4g}"


def _places(count: int) -> list[float]:
    return [WIDTH * (number + 0.5) / count for number in range(count)]


ARROWS = "".join(
    f'<marker id="dlkit-tape-{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="4" markerHeight="4" '
    f'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
    for colour in (BLUE, ORANGE)
)


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, thick: int, top: float = 0.0) -> str:
    head = f'marker-start="url(#dlkit-tape-{colour[1:]})" marker-end="url(#dlkit-tape-{colour[1:]})"'
    return (
        f'<path d="M{x0:.0f},{y0 + top + 2:.0f} L{x1:.0f},{y1 - 2:.0f}" stroke="{colour}" stroke-width="{thick}" '
        f"{head}/>"
    )


def _box(x: float, y: float, name: str, does: str) -> Sequence[str]:
    return (
        f'<rect x="{x - BOX / 2:.0f}" y="{y:.0f}" width="{BOX}" height="{TALL}" rx="6" fill="none" '
        'stroke="currentColor"/>',
        _text(x, y + 17, name, bold=True),
        _text(x, y + 33, does),
    )


def _text(x: float, y: float, text: str, bold: bool = False, background: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    halo = ' stroke="var(--jp-layout-color0, white)" stroke-width="6" paint-order="stroke"' if background else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle"{weight}{halo}>{escape(text)}</text>'
