"""What each rank did over time, as bars of colours: pure functions that make pixels in a few milliseconds."""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from dlkit.distributed.segments import Segment, without_overlap
from dlkit.distributed.timeline import KINDS, Timeline
from dlkit.ui.draw.pictures import BLACK, BLUE, ORANGE, SKY, VERMILION

# The four colours that differ most with any colour vision, and in grey.
KIND_COLOURS = {"compute": BLUE, "communicate": ORANGE, "wait": BLACK, "other": "#E4E4E4"}
OVERLAPPED = SKY
WIDTH = 760  # pixels: the width of all bars
BAR, UNDER, PITCH = 26, 6, 40  # pixels: the height of a bar, of the strip under it, and from bar to bar
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 20, 38  # pixels around the bars


class TimelineBars:
    """What each rank of a timeline spent its time on, prepared so that any part of it is drawn fast."""

    def __init__(self, timeline: Timeline):
        self.world_size = timeline.world_size
        self._spent = []
        for rank in range(timeline.world_size):
            segments = timeline.segments(rank)
            kinds = [_spent([segment for segment in segments if segment.kind == kind]) for kind in KINDS]
            self._spent.append([*kinds, _spent(without_overlap(timeline.overlapped(rank)))])
        self.overlapped = any(timeline.overlapped(rank) for rank in range(timeline.world_size))

    def __repr__(self) -> str:
        return f"TimelineBars({self.world_size} ranks)"

    def legend(self) -> dict[str, str]:
        """The colour of each kind of activity, by its name."""
        return KIND_COLOURS | ({"overlapped exchange": OVERLAPPED} if self.overlapped else {})

    def shares(self, rank: int, edges: Float[np.ndarray, " edges"]) -> Float[np.ndarray, "kinds columns"]:
        """The shares of each kind of KINDS, and of overlapped exchanges, between each two edges (times in seconds)."""
        spent = [np.interp(edges, times, seconds) for times, seconds in self._spent[rank]]
        return np.diff(np.array(spent), axis=1) / np.diff(edges)

    def picture(self, begin: float, end: float, columns: int) -> UInt8[np.ndarray, "height columns 3"]:
        """All ranks' bars on white, PITCH apart, from `begin` to `end`; a column of several kinds is stacked."""
        edges = np.linspace(begin, end, columns + 1)
        sheet = np.full((self.world_size * PITCH, columns, 3), 255, dtype=np.uint8)
        for rank in range(self.world_size):
            *kinds, overlapped = self.shares(rank, edges)
            top = rank * PITCH
            sheet[top : top + BAR] = _stacked(
                np.array(kinds), [KIND_COLOURS[kind] for kind in KINDS], KIND_COLOURS["other"], BAR
            )
            under = _stacked(overlapped[None], [OVERLAPPED], "#FFFFFF", UNDER)
            sheet[top + BAR + 1 : top + BAR + 1 + UNDER] = under
        return sheet


def _spent(segments: list[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """Times, and the seconds that the segments before each time had taken."""
    times = np.array([[segment.begin, segment.end] for segment in segments]).reshape(-1, 2)
    reached = np.cumsum(times[:, 1] - times[:, 0])
    seconds = np.stack([reached - (times[:, 1] - times[:, 0]), reached], axis=1)
    return (times.ravel(), seconds.ravel()) if len(times) else (np.zeros(1), np.zeros(1))


def _stacked(
    shares: Float[np.ndarray, "kinds columns"], colours: list[str], rest: str, height: int
) -> UInt8[np.ndarray, "height columns 3"]:
    """Columns of stacked colours, the first at the bottom, each as high as its share."""
    reached = np.cumsum(shares, axis=0)
    levels = (np.arange(height)[::-1] + 0.5) / height
    index = (levels[:, None, None] > reached.T[None]).sum(2)
    return np.array([ImageColor.getrgb(colour) for colour in [*colours, rest]], dtype=np.uint8)[index]


def ticks(begin: float, end: float, most: int = 8) -> list[float]:
    """Round numbers from begin to end, at most `most`."""
    rough = (end - begin) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(begin / step - 1e-9), math.floor(end / step + 1e-9) + 1)]


def timeline_sheet(
    timeline_bars: TimelineBars, steps: dict[int, float], shown: tuple[float, float], rank: int, time: float
) -> UInt8[np.ndarray, "height width 3"]:
    """The bars with their axes, from shown[0] to shown[1], and a mark on the rank at the time; times are in seconds.

    `steps` has the time at which each step begins.
    """
    begin, end = shown
    bars = timeline_bars.picture(begin, end, WIDTH)
    canvas = Image.new("RGB", (LEFT + WIDTH + RIGHT, TOP + len(bars) + BOTTOM), "white")
    canvas.paste(Image.fromarray(bars), (LEFT, TOP))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)

    def x(at: float) -> float:
        return LEFT + (at - begin) / (end - begin) * WIDTH

    for number in range(timeline_bars.world_size):
        pen.text((LEFT - 8, TOP + number * PITCH + BAR / 2), f"rank {number}", "black", font, anchor="rm")
    free = 0.0
    for number, start in steps.items():
        text = f"step {number}"
        if begin <= start <= end and x(start) >= free:
            pen.text((x(start), 2), text, "black", font)
            pen.line([x(start), TOP - 4, x(start), TOP], fill="black")
            free = x(start) + pen.textlength(text, font) + 8
    bottom = TOP + len(bars)
    pen.line([LEFT, bottom, LEFT + WIDTH, bottom], fill="black")
    milliseconds = ticks(1e3 * begin, 1e3 * end)
    apart = milliseconds[1] - milliseconds[0] if len(milliseconds) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(apart) + 1e-9))
    for tick in milliseconds:
        pen.line([x(tick / 1e3), bottom, x(tick / 1e3), bottom + 4], fill="black")
        pen.text((x(tick / 1e3), bottom + 6), f"{tick:.{digits}f}", "black", font, anchor="mt")
    pen.text((LEFT + WIDTH / 2, bottom + 22), "milliseconds", "black", font, anchor="mt")
    if begin <= time <= end:
        top = TOP + rank * PITCH
        pen.line([x(time), top - 3, x(time), top + BAR + UNDER + 3], fill=VERMILION, width=2)
    return np.array(canvas)
