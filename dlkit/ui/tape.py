"""L-BFGS by commands, played message by message: what the coordinator says, what it hears, and who sends the bytes."""

from html import escape
from itertools import accumulate

import ipywidgets as widgets

from dlkit.core.text_table import format_bytes
from dlkit.strategies.sandblaster.sandblaster import Sandblaster
from dlkit.strategies.sandblaster.tape import Said, tape
from dlkit.strategies.sandblaster.vectors import ASKS, put_together
from dlkit.training.experiment import Experiment
from dlkit.ui.controls.elements import FULL_LABEL, WRAP, icon_button
from dlkit.ui.controls.named_sliders import NamedSliders
from dlkit.ui.draw.pictures import caption_html, text_html
from dlkit.ui.draw.tape_diagram import in_words, tape_diagram


class CommandTape(widgets.VBox):
    """The first batch of `experiment` by Sandblaster and so many simulated workers, one message after the other.

    `said` has all of them; `at` is the slider. ValueError as for a run.
    """

    def __init__(self, experiment: Experiment, strategy: Sandblaster, workers: int = 2):
        self.strategy, self.workers = strategy, workers
        self.said = tape(experiment, strategy, workers)
        self.command_bytes = list(accumulate(said.command_bytes for said in self.said))
        self.vector_bytes = list(accumulate(said.vector_bytes for said in self.said))
        self.at = widgets.IntSlider(
            1, 1, len(self.said), description="Message", style=FULL_LABEL, layout={"width": "420px"}
        )
        self.caption, self.picture, self.bill = (widgets.HTML() for _ in range(3))
        buttons = [
            icon_button("chevron-left", "The message before", lambda: self._go(-1)),
            icon_button("chevron-right", "The next message", lambda: self._go(1)),
            icon_button("forward", "The next batch that workers compute", self._next_evaluation),
        ]
        self.at.observe(self._draw, "value")
        self._draw()
        controls = widgets.HBox([self.at, *buttons], layout=WRAP)
        super().__init__([controls, self.picture, self.caption, self.bill, NamedSliders()])

    def __repr__(self) -> str:
        return f"CommandTape({len(self.said)} messages, {self.strategy})"

    def _go(self, messages: int) -> None:
        self.at.value = min(max(self.at.value + messages, 1), len(self.said))

    def _next_evaluation(self) -> None:
        later = [number for number, said in enumerate(self.said, 1) if said.portions and number > self.at.value]
        self.at.value = later[0] if later else len(self.said)

    def _draw(self, change: object = None) -> None:
        number = self.at.value - 1
        said = self.said[number]
        self.picture.value = tape_diagram(said, self.strategy.servers, self.workers)
        when = f"iteration {said.iteration}" if said.iteration else "before the first iteration"
        lines = "<br>".join(map(escape, _lines(said)))
        self.caption.value = caption_html(f"<b>Message {number + 1}, {when}.</b> {lines}")
        commands, vectors = self.command_bytes[number], self.vector_bytes[number]
        self.bill.value = text_html(
            f"So far: commands and their answers <b>{format_bytes(commands)}</b>; values and gradients, between "
            f"servers and workers, <b>{format_bytes(vectors)}</b>. On the servers now: "
            f"{escape(', '.join(said.vectors))}."
        )


def _lines(said: Said) -> list[str]:
    """What is said, in words, and below it what each server answers."""
    if said.portions:
        sums = "; ".join(", ".join(map(str, portions)) for portions in said.portions)
        what = f"{len(said.portions)} sums of gradients: of portions {sums}"
        return [f"Workers ask for portions, and send {what}. The coordinator hears the loss: {said.loss:.4f}."]
    answers = iter(zip(*said.numbers, strict=True))
    lines = []
    for command in said.commands:
        if command[0] not in ASKS:
            lines.append(in_words(command))
            continue
        parts = next(answers)
        how = "the largest of" if command[0] == "largest" else "the sum of"
        told = f"  ({how} {', '.join(f'{part:.4g}' for part in parts)})" if len(parts) > 1 else ""
        lines.append(in_words(command, put_together(command, parts)) + told)
    return lines
