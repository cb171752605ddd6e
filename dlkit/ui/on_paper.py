"""A net of any size over a grid of ranks, on paper: what each would hold and send, without a number of it allocated."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

import ipywidgets as widgets
import torch
from torch import nn

from dlkit.core.text_table import format_bytes
from dlkit.strategies.spatial.memory import RankMemory, memory_on_paper
from dlkit.ui.controls.background import InBackground
from dlkit.ui.controls.elements import FULL_LABEL, WRAP
from dlkit.ui.controls.named_sliders import NamedSliders
from dlkit.ui.draw.memory_bar import memory_bars
from dlkit.ui.draw.pictures import text_html

GIB = 2**30
CARDS = (2, 4, 8, 16, 24, 80)  # GiB
BATCHES = (1, 10, 32, 96, 256)


class NetOnPaper(InBackground[list[RankMemory]]):
    """What the rank at a corner and one in the middle hold of `net(side)`, a net for images of side x side pixels.

    channels: the maps of an image. sides: what the slider offers. In a thread, as often as a control is moved; `run`
    are the two, or the one, of the last count. ValueError for no sides.
    """

    def __init__(self, net: Callable[[int], nn.Module], channels: int = 3, sides: Sequence[int] = range(60, 321, 20)):
        if not len(sides):
            raise ValueError("no sides of images: give some, such as range(60, 321, 20).")
        super().__init__("Count again", "")
        self._become_current()
        self.net, self.channels = net, channels
        self._wanted: tuple[int, int, int] | None = None
        self._lock, self._counts = threading.Lock(), False
        layout = {"width": "300px"}
        self.side = widgets.SelectionSlider(
            options=sides, value=sides[len(sides) // 2], description="Side of images", style=FULL_LABEL, layout=layout
        )
        self.across = widgets.IntSlider(4, 1, 16, description="Ranks a side", style=FULL_LABEL, layout=layout)
        self.batch = widgets.SelectionSlider(
            options=BATCHES, value=32, description="Images a batch", style=FULL_LABEL, layout=layout
        )
        self.card = widgets.Dropdown(
            options=[(f"{size} GiB", size) for size in CARDS], value=4, description="Memory a rank", style=FULL_LABEL,
            layout={"width": "190px"},
        )  # fmt: skip
        self.bars, self.text = widgets.HTML(), widgets.HTML()
        for control in (self.side, self.across, self.batch):
            control.observe(lambda _: self.start(), "value")
        self.card.observe(lambda _: self._draw(), "value")
        self.children = [
            widgets.HBox([self.side, self.across], layout=WRAP),
            widgets.HBox([self.batch, self.card], layout=WRAP),
            self.status,
            self.bars,
            self.text,
            NamedSliders(),
        ]
        self.start()

    def __repr__(self) -> str:
        return f"NetOnPaper(images of {self.side.value}x{self.side.value}, {self.across.value**2} ranks)"

    def start(self) -> None:
        """Count, in a thread; if one counts already, it goes on with what the controls say now."""
        with self._lock:
            self._wanted = self.side.value, self.across.value, self.batch.value
            if self._counts:
                return
            self._counts = True
        self._idle.wait()  # for the end of a thread that has counted its last
        self._begin(self._count, "Counting ...")

    # In the thread.

    def _count(self) -> None:
        try:
            while (wanted := self._next()) is not None:
                self._say("Counting ...")
                try:
                    self._count_once(*wanted)
                except ValueError as error:  # of a net that cannot be made, or cut so
                    self.run, self.bars.value, self.text.value = None, "", ""
                    self._say(str(error), failed=True)
        finally:
            with self._lock:
                self._counts = False

    def _count_once(self, side: int, across: int, batch: int) -> None:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in self.net(side).parameters())
        numbers = sorted({0, across * (across // 2) + across // 2})
        shape = self.channels, side, side
        self.run = memory_on_paper(partial(self.net, side), shape, batch, (across, across), numbers)
        self._counted = side, across, batch, parameters
        self._draw()

    def _next(self) -> tuple[int, int, int] | None:
        with self._lock:
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                self._counts = False
            return wanted

    def _draw(self) -> None:
        if self.run is None:
            return
        side, across, batch, parameters = self._counted
        names = ["at a corner", "in the middle"][: len(self.run)] if across > 1 else ["the rank"]
        parts = {
            name: {"weights": rank.parameters, "gradients": rank.gradients, "kept for the backward pass": rank.kept}
            for name, rank in zip(names, self.run, strict=True)
        }
        limit = self.card.value * GIB
        self.bars.value = memory_bars(parts, limit, f"{self.card.value} GiB")
        most, sent = max(rank.total for rank in self.run), max(rank.sent for rank in self.run)
        fits = "fits" if most <= limit else "does not fit"
        self._say(
            f"{parameters:,} parameters over {across}x{across} ranks. The fullest rank needs {format_bytes(most)}: "
            f"that {fits} into {self.card.value} GiB."
        )
        self.text.value = text_html(
            f"Images of {side}x{side}, {batch} a batch. All weights together are {format_bytes(4 * parameters)} in "
            f"float32 and {format_bytes(8 * parameters)} in float64. A rank sends at most {format_bytes(sent)} a step."
        )
