"""A timeline as a picture: a row a rank, its colours what the rank did; and one to zoom into."""

import math
from html import escape

import ipywidgets as widgets
from matplotlib.patches import Patch

from dlkit.core.text_table import format_bytes, format_seconds
from dlkit.distributed.recorder import Span
from dlkit.distributed.timeline import Timeline
from dlkit.ui.controls.zoomed_image import ZoomedImage, moved, zoomed
from dlkit.ui.draw.pictures import Picture, caption_html, figure, png, show
from dlkit.ui.draw.timeline_bars import BAR, BOTTOM, LEFT, PITCH, RIGHT, TOP, WIDTH, Rows, sheet


def draw(timeline: Timeline) -> Picture:
    """The timeline, or a part such as `timeline.steps(3, 6)`, with the beginnings of its steps."""
    rows = Rows(timeline)
    fig, ax = figure(8.5, 1.2 + timeline.world_size * PITCH / 96)
    begin, end = 1e3 * timeline.begin, 1e3 * timeline.end
    extent = (begin, end, timeline.world_size * PITCH, 0)
    shown = rows.picture(timeline.begin, timeline.end, 1000)
    ax.imshow(shown, extent=extent, aspect="auto", interpolation="nearest")
    middles = [rank * PITCH + BAR / 2 for rank in range(timeline.world_size)]
    ax.set(xlabel="milliseconds", yticks=middles, yticklabels=[f"rank {rank}" for rank in range(timeline.world_size)])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    steps = timeline.step_begins()
    few = dict(list(steps.items())[:: -(-len(steps) // 12) or 1])
    above = ax.secondary_xaxis("top")
    above.set_xticks([1e3 * at for at in few.values()], [f"step {number}" for number in few], fontsize=8)
    above.spines[:].set_visible(False)
    patches = [Patch(color=colour, label=name) for name, colour in rows.legend().items()]
    fig.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    return show(fig, _alt(timeline))


def _alt(timeline: Timeline) -> str:
    steps, totals = list(timeline.step_begins()), timeline.totals()
    which = f", steps {steps[0]} to {steps[-1]}" if steps else ""
    sentences = [
        f"rank {row.rank} computes {row.share('compute'):.0%}, communicates {row.share('communicate'):.0%} and waits "
        f"{row.share('wait'):.0%} of the time"
        for row in totals[:8]
    ]
    more = f"; and {len(totals) - 8} more ranks" if len(totals) > 8 else ""
    span = f"{1e3 * timeline.begin:.6g} to {1e3 * timeline.end:.6g} milliseconds"
    return f"What each of {timeline.world_size} ranks did when, {span}{which}: {'; '.join(sentences)}{more}."


def words(timeline: Timeline, rank: int, at: float) -> str:
    """What a rank was doing at a time, in seconds."""
    step = timeline.step_at(rank, at)
    where = f"Rank {rank}" + (f", step {step}" if step is not None else "")
    segment = timeline.segment_at(rank, at)
    if segment is None:
        return f"{where}: other: between steps, or not noted down."
    span, took = segment.span, format_seconds(segment.end - segment.begin)
    if segment.kind == "compute":
        name = "computes" if span.kind == "step" else f"computes: {span.name}"
        under_way = [each.span for each in timeline.overlapped(rank) if each.begin <= at < each.end]
        meanwhile = f"; meanwhile {' and '.join(map(_named, under_way))} under way" if under_way else ""
        return f"{where}: {name}, {took}{meanwhile}."
    if segment.kind == "wait":
        return f"{where}: waits {took} for rank {segment.last_rank}, the last to come to {_named(span)}."
    return f"{where}: communicates, {took}: {_named(span)}, of which it sends {format_bytes(span.bytes_sent)}."


def _named(span: Span) -> str:
    return f"{span.name} {span.number} of group {span.group}"


class TimelineView(widgets.VBox):
    """The timeline to zoom into, with what each rank did under the pointer.

    By the buttons, by dragging it, or, once it has been clicked on, by the wheel, + - 0 and the arrow keys.
    """

    def __init__(self, timeline: Timeline):
        self.timeline, self.rows, self.begins = timeline, Rows(timeline), timeline.step_begins()
        self.whole = self.shown = timeline.begin, timeline.end
        self.rank, self._x = 0, 0.5
        self.picture, self.caption = ZoomedImage(), widgets.HTML()
        self.picture.box = [LEFT / (LEFT + WIDTH + RIGHT), 1 - RIGHT / (LEFT + WIDTH + RIGHT)]
        self.picture.on_ask(self.ask)
        self.buttons = [
            self._button("search-plus", "Closer", zoom=1.5),
            self._button("search-minus", "Further away", zoom=1 / 1.5),
            self._button("chevron-left", "Earlier", pan=-0.25),
            self._button("chevron-right", "Later", pan=0.25),
            self._button("arrows-h", "All of it", zoom=0),
        ]
        self.ask({})
        super().__init__([widgets.HBox(self.buttons), self.picture, widgets.HTML(self._legend()), self.caption])

    def __repr__(self) -> str:
        return f"TimelineView({self.timeline!r})"

    def _button(self, icon: str, tooltip: str, **asked: float) -> widgets.Button:
        button = widgets.Button(icon=icon, tooltip=tooltip, layout={"width": "40px"})
        button.on_click(lambda _: self.ask(asked))
        return button

    @property
    def at(self) -> float:
        """The time, in seconds, that is marked: where the pointer is."""
        return self.shown[0] + self._x * (self.shown[1] - self.shown[0])

    def ask(self, asked: dict) -> None:
        """Do as `ZoomedImage.on_ask` says."""
        if "place" in asked:
            left, right = self.picture.box
            x, y = asked["place"]
            self._x = min(max((x - left) / (right - left), 0.0), 1.0)
            self.rank = math.floor((y * (TOP + self.rows.world_size * PITCH + BOTTOM) - TOP) / PITCH)
        self.rank = min(max(self.rank + int(asked.get("rows", 0)), 0), self.rows.world_size - 1)
        shown = moved(self.shown, self.whole, asked.get("pan", 0.0))
        self.shown = zoomed(shown, self.whole, asked.get("zoom", 1.0), shown[0] + self._x * (shown[1] - shown[0]))
        self._draw()

    def _draw(self) -> None:
        begin, end = self.shown
        says = words(self.timeline, self.rank, self.at)
        pixels = sheet(self.rows, self.begins, self.shown, self.rank, self.at)
        with self.picture.hold_sync():
            self.picture.alt = (
                f"What each of {self.rows.world_size} ranks did when, {1e3 * begin:.6g} to {1e3 * end:.6g} "
                f"milliseconds; marked: {says}"
            )
            self.picture.value = png(pixels)
        self.caption.value = caption_html(f"<b>{1e3 * self.at:.6g} ms.</b> {escape(says)}")

    def _legend(self) -> str:
        keys = " ".join(
            f'<span style="white-space: nowrap; margin-right: 14px"><span style="display: inline-block; width: 12px; '
            f'height: 12px; background: {colour}"></span> {name}</span>'
            for name, colour in self.rows.legend().items()
        )
        how = (
            "Point at a bar; drag to move; click and turn the wheel, or use + − 0 and the arrow keys, to zoom and move."
        )
        return f'<div style="line-height: 1.5">{keys}<br>{how}</div>'
