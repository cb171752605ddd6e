"""A timeline to zoom into: a row for each rank, whose colours show what the rank did."""

import math
from html import escape

import ipywidgets as widgets

from dlkit.distributed.timeline import Timeline
from dlkit.ui.controls.elements import icon_button
from dlkit.ui.controls.zoomed_image import ZoomedImage, moved, zoomed
from dlkit.ui.draw.pictures import caption_html, png, text_html
from dlkit.ui.draw.timeline_bars import BOTTOM, LEFT, PITCH, RIGHT, TOP, WIDTH, TimelineBars, timeline_sheet
from dlkit.ui.draw.timeline_figure import describe_moment


class TimelineView(widgets.VBox):
    """The timeline to zoom into, with what the rank under the pointer did at that time.

    It is zoomed and moved by the buttons, by dragging it, or, once it has been clicked on, by the wheel, + - 0 and the
    arrow keys.
    """

    def __init__(self, timeline: Timeline):
        self.timeline, self.bars, self.begins = timeline, TimelineBars(timeline), timeline.step_begins()
        self.whole = self.shown = timeline.begin, timeline.end  # seconds
        self.rank, self._x = 0, 0.5  # the marked rank; the marked time, from 0 (left) to 1
        self.picture, self.caption = ZoomedImage(), widgets.HTML()
        self.picture.box = [LEFT / (LEFT + WIDTH + RIGHT), 1 - RIGHT / (LEFT + WIDTH + RIGHT)]
        self.picture.on_request(self.respond)
        self.buttons = [
            icon_button("search-plus", "Closer", lambda: self.respond({"zoom": 1.5})),
            icon_button("search-minus", "Further away", lambda: self.respond({"zoom": 1 / 1.5})),
            icon_button("chevron-left", "Earlier", lambda: self.respond({"pan": -0.25})),
            icon_button("chevron-right", "Later", lambda: self.respond({"pan": 0.25})),
            icon_button("arrows-h", "All of it", lambda: self.respond({"zoom": 0})),
        ]
        self._draw()
        super().__init__([widgets.HBox(self.buttons), self.picture, widgets.HTML(self._legend()), self.caption])

    def __repr__(self) -> str:
        return f"TimelineView({self.timeline!r})"

    @property
    def time(self) -> float:
        """The time, in seconds, that is marked: where the pointer is."""
        return self.shown[0] + self._x * (self.shown[1] - self.shown[0])

    def respond(self, request: dict) -> None:
        """Zoom, move and mark as the request says; its keys are those of `ZoomedImage.on_request`."""
        if "place" in request:
            left, right = self.picture.box
            x, y = request["place"]
            self._x = min(max((x - left) / (right - left), 0.0), 1.0)
            self.rank = math.floor((y * (TOP + self.timeline.world_size * PITCH + BOTTOM) - TOP) / PITCH)
        self.rank = min(max(self.rank + int(request.get("rows", 0)), 0), self.timeline.world_size - 1)
        shown = moved(self.shown, self.whole, request.get("pan", 0.0))
        self.shown = zoomed(shown, self.whole, request.get("zoom", 1.0), shown[0] + self._x * (shown[1] - shown[0]))
        self._draw()

    def _draw(self) -> None:
        begin, end = self.shown
        text = describe_moment(self.timeline, self.rank, self.time)
        pixels = timeline_sheet(self.bars, self.begins, self.shown, self.rank, self.time)
        with self.picture.hold_sync():
            self.picture.alt = (
                f"What each of {self.timeline.world_size} ranks did when, {1e3 * begin:.6g} to {1e3 * end:.6g} "
                f"milliseconds; marked: {text}"
            )
            self.picture.value = png(pixels)
        self.caption.value = caption_html(f"<b>{1e3 * self.time:.6g} ms.</b> {escape(text)}")

    def _legend(self) -> str:
        keys = " ".join(
            f'<span style="white-space: nowrap; margin-right: 14px"><span style="display: inline-block; width: 12px; '
            f'height: 12px; background: {colour}"></span> {name}</span>'
            for name, colour in self.bars.legend().items()
        )
        how = (
            "Point at a bar; drag to move; click and turn the wheel, or use + − 0 and the arrow keys, to zoom and move."
        )
        return text_html(f"{keys}<br>{how}")
