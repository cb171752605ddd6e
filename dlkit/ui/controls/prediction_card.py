"""A question to which a reader commits before the result is shown: choices or a number, and how sure."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

SURE = (30, 50, 60, 70, 80, 90, 99)  # percent


class PredictionCard(anywidget.AnyWidget):
    """Shows the question; `keep(said, sure)` is called when the reader commits, and gives the sentence to show.

    choices: what can be chosen; without any a number is asked for, in `unit`. guess: percent, of one who only guesses.
    said, sure: the prediction that is kept, "" and 0 if there is none. status: the sentence below. locked: whether it
    can no longer be changed.
    """

    _esm = Path(__file__).with_name("prediction_card.js")
    _css = Path(__file__).with_name("prediction_card.css")
    question = traitlets.Unicode().tag(sync=True)
    choices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    levels = traitlets.List(traitlets.Int()).tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    sure = traitlets.Int().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    locked = traitlets.Bool().tag(sync=True)

    def __init__(self, question: str, choices: Sequence[str], unit: str, keep: Callable[[str, int], str], **kept: Any):
        guess = round(100 / len(choices)) if choices else 10
        levels = [guess, *(level for level in SURE if level - guess >= 10)]
        super().__init__(question=question, choices=list(choices), unit=unit, levels=levels, **kept)
        self._keep = keep
        self.on_msg(lambda _, message, __: self.commit(message["said"], message["sure"]))

    def commit(self, said: str, sure: int) -> None:
        """As if the reader had pressed the button."""
        if self.locked:
            return
        self.status = self._keep(said, sure)

    def __repr__(self) -> str:
        asked = " / ".join(self.choices) or f"a number{' of ' * bool(self.unit)}{self.unit}"
        return f"Prediction: {self.question} [{asked}]"
