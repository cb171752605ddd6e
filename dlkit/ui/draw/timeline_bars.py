"""Bars of colours over time, a row a rank: pure functions from a timeline to pixels, a few milliseconds a sheet."""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from dlkit.distributed.segments import Segment, without_overlap
from dlkit.distributed.timeline import KINDS, Timeline
from dlkit.ui.draw.pictures import BLACK, BLUE, ORANGE, SKY, VERMILION

# The four that are told apart best with any colour vision, and in grey.
COLOURS = {"compute": BLUE, "communicate": ORANGE, "wait": BLACK, "other": "#E4E4E4"}
OVERLAPPED = SKY
WIDTH, BAR, UNDER, PITCH = 760, 26, 6, 40  # pixels: of all columns; of a bar, the strip under it, from bar to bar
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 20, 38  # pixels around the bars


class Rows:
    """What each rank of a timeline spent its time on, as a function of time: made once, and asked often."""

    def __init__(self, timeline: Timeline):
        self.world_size = timeline.world_size
        self._spent = []
        for rank in range(timeline.world_size):
            segments = timeline.segments(rank)
            kinds = [_spent([segment for segment in segments if segment.kind == kind]) for kind in KINDS]
            self._spent.append([*kinds, _spent(without_overlap(timeline.overlapped(rank)))])
        self.overlapped = any(timeline.overlapped(rank) for rank in range(timeline.world_size))

    def legend(self) -> dict[str, str]:
        """Names, and their colours."""
        return COLOURS | ({"overlapped exchange": OVERLAPPED} if self.overlapped else {})

    def shares(self, rank: int, edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, "kinds columns"]:
        """Of each time between two edges, the share of each of KINDS, and of overlapped exchanges."""
        spent = [np.interp(edges, times, seconds) for times, seconds in self._spent[rank]]
        return np.diff(np.array(spent), axis=1) / np.diff(edges)

    def picture(self, begin: float, end: float, columns: int) -> UInt8[np.ndarray, "height columns 3"]:
        """All ranks' bars, PITCH apart on white, from `begin` to `end`; a column in which much happens is stacked."""
        edges = np.linspace(begin, end, columns + 1)
        sheet = np.full((self.world_size * PITCH, columns, 3), 255, dtype=np.uint8)
        for rank in range(self.world_size):
            *kinds, overlapped = self.shares(rank, edges)
            top = rank * PITCH
            sheet[top : top + BAR] = _stacked(np.array(kinds), [COLOURS[kind] for kind in KINDS], COLOURS["other"], BAR)
            under = _stacked(overlapped[None], [OVERLAPPED], "#FFFFFF", UNDER)
            sheet[top + BAR + 1 : top + BAR + 1 + UNDER] = under
        return sheet


def _spent(segments: list[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """Times, and the seconds that had been spent in the pieces by then."""
    times = np.array([[segment.begin, segment.end] for segment in segments]).reshape(-1, 2)
    reached = np.cumsum(times[:, 1] - times[:, 0])
    seconds = np.stack([reached - (times[:, 1] - times[:, 0]), reached], axis=1)
    return (times.ravel(), seconds.ravel()) if len(times) else (np.zeros(1), np.zeros(1))


def _stacked(
    shares: Float[np.ndarray, "kinds columns"], colours: list[str], rest: str, height: int
) -> UInt8[np.ndarray, "height columns 3"]:
    """Columns of colours, the first at the bottom, each as high as its share."""
    reached = np.cumsum(shares, axis=0)
    levels = (np.arange(height)[::-1] + 0.5) / height
    place = (levels[:, None, None] > reached.T[None]).sum(2)
    return np.array([ImageColor.getrgb(colour) for colour in [*colours, rest]], dtype=np.uint8)[place]


def ticks(begin: float, end: float, most: int = 8) -> list[float]:
    """Round numbers from begin to end, at most so many."""
    rough = (end - begin) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(begin / step - 1e-9), math.floor(end / step + 1e-9) + 1)]


def sheet(
    rows: Rows, steps: dict[int, float], shown: tuple[float, float], rank: int, at: float
) -> UInt8[np.ndarray, "height width 3"]:
    """The rows with their axes, from shown[0] to shown[1], and a mark on a rank at a time; times are in seconds."""
    begin, end = shown
    bars = rows.picture(begin, end, WIDTH)
    canvas = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + len(bars) + BOTTOM), "white")
    canvas.paste(Image.fromarray(bars), (LEFT, TOP))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)

    def x(time: float) -> float:
        return LEFT + (time - begin) / (end - begin) * WIDTH

    for number in range(rows.world_size):
        pen.text((LEFT - 8, TOP + number * PITCH + BAR / 2), f"rank {number}", "black", font, anchor="rm")
    free = 0.0
    for number, when in steps.items():
        text = f"step {number}"
        if begin <= when <= end and x(when) >= free:
            pen.text((x(when), 2), text, "black", font)
            pen.line([x(when), TOP - 4, x(when), TOP], fill="black")
            free = x(when) + pen.textlength(text, font) + 8
    bottom = TOP + len(bars)
    pen.line([LEFT, bottom, LEFT + WIDTH, bottom], fill="black")
    places = ticks(1e3 * begin, 1e3 * end)
    apart = places[1] - places[0] if len(places) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))
    for place in places:
        pen.line([x(place / 1e3), bottom, x(place / 1e3), bottom + 4], fill="black")
        pen.text((x(place / 1e3), bottom + 6), f"{place:.{digits}f}", "black", font, anchor="mt")
    pen.text((LEFT + WIDTH / 2, bottom + 22), "milliseconds", "black", font, anchor="mt")
    if begin <= at <= end:
        top = TOP + rank * PITCH
        pen.line([x(at), top - 3, x(at), top + BAR + UNDER + 3], fill=VERMILION, width=2)
    return np.array(canvas)
