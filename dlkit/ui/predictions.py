"""Predictions before the result is shown, what became of them, and how well the reader's sureness was calibrated."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from dlkit.core.text_table import as_html, as_text
from dlkit.ui.controls.prediction_card import PredictionCard
from dlkit.ui.draw.pictures import caption_html
from dlkit.ui.prediction_file import PredictionFile, Record

BINS = ((0, "below 60 %"), (60, "60 to 79 %"), (80, "80 % or more"))  # of sureness, in percent, from so many on
FEW = 8  # predictions, below which chance decides how the sureness compares
CLOSE = 10  # percent points between sureness and share of right ones that count as well calibrated


class Said:
    """Lines of text, and a table below them, as a notebook shows them; screen readers read them out."""

    def __init__(self, *lines: str, columns: Sequence[str] = (), rows: Sequence[Sequence[str]] = ()):
        self.lines, self.columns, self.rows = lines, columns, rows

    def __repr__(self) -> str:
        return "\n".join([*self.lines, *([as_text(self.columns, self.rows)] if self.rows else [])])

    def _repr_html_(self) -> str:
        lines = caption_html("<br>".join(escape(line) for line in self.lines))
        return lines + (as_html(self.columns, self.rows) if self.rows else "")


class Predictions:
    """The predictions of one notebook, kept in a file beside it: `folder` is by default where the kernel runs.

    `choice` and `number` ask, `was` says what came out, `tally` sums up at the end. One that is kept before its result
    is shown can be changed until then; one that is kept later is told what came out, and is not counted.
    """

    def __init__(self, notebook: str, folder: str | Path = "."):
        self.file = PredictionFile(notebook, Path(folder).resolve())
        self.cards: dict[str, PredictionCard] = {}
        self.within: dict[str, float] = {}
        self.outcomes: dict[str, str | float] = {}

    def __repr__(self) -> str:
        return f"Predictions({len(self.file.records)} of {len(self.cards)} kept in {self.file.path.name})"

    def choice(self, key: str, question: str, *choices: str) -> PredictionCard:
        """Ask which of the choices it will be. ValueError for fewer than two, or two alike."""
        if len(set(choices)) < max(2, len(choices)):
            raise ValueError(f"a prediction is a choice of two or more different answers, not of {choices}.")
        return self._card(key, question, choices, "")

    def number(self, key: str, question: str, unit: str = "", within: float = 0.1) -> PredictionCard:
        """Ask for a number; right is one that is off by no more than `within` of the true one, a tenth by default."""
        self.within[key] = within
        return self._card(key, question, (), unit)

    def was(self, key: str, outcome: Any) -> Said:
        """Say what came out, a choice or a number, beside what the reader has predicted.

        KeyError if nothing was asked by that name, ValueError if the outcome is none of the choices.
        """
        if key not in self.cards:
            raise KeyError(f"nothing was asked by the name of {key!r}: run the cell with the question first.")
        card = self.cards[key]
        if card.choices and outcome not in card.choices:
            raise ValueError(f"{outcome!r} is none of the choices of {key!r}: {', '.join(map(repr, card.choices))}.")
        self.outcomes[key] = outcome if card.choices else float(outcome)
        record = self.file.records.get(key)
        if record is None:
            return Said(f"No prediction was kept. It was {_quoted(self._in_words(key), card.choices)}.")
        self._judge(key, record)
        card.status, card.locked = _judged(record, card.choices), record.counts
        return Said(card.status)

    def tally(self) -> Said:
        """How many predictions were right, and whether the reader was as sure as that."""
        counted = [record for record in self.file.records.values() if record.counts]
        if not counted:
            return Said("No prediction was kept before its result was shown: there is nothing to sum up.")
        lines = [
            f"You predicted {len(counted)} of {max(len(self.cards), len(counted))} results. {_calibration(counted)}"
        ]
        everywhere = [record for record in self.file.all_here() if record.counts]
        if len(everywhere) > len(counted):
            lines.append(f"In all notebooks here you made {len(everywhere)} predictions. {_calibration(everywhere)}")
        rows = []
        for (least, name), (above, _) in zip(BINS, (*BINS[1:], (101, "")), strict=True):
            if among := [record for record in everywhere if least <= record.sure < above]:
                rows.append((name, str(len(among)), str(_right(among)), f"{_right(among) / len(among):.0%}"))
        return Said(*lines, columns=("how sure", "predictions", "right", "share right"), rows=rows)

    def forget(self) -> None:
        """Delete the file of this notebook's predictions; run it again to be asked anew."""
        self.file.forget()
        self.outcomes.clear()

    def _card(self, key: str, question: str, choices: Sequence[str], unit: str) -> PredictionCard:
        record = self.file.records.get(key)
        if record and (record.question != question or (choices and record.said not in choices)):
            record = self.file.records.pop(key) and None  # the notebook asks another question by now
        kept: dict[str, Any] = {}
        if record:
            status = _kept(record, choices) if record.right is None else _judged(record, choices)
            kept = {"said": record.said, "sure": record.sure, "status": status, "locked": record.counts}
        self.outcomes.pop(key, None)
        card = PredictionCard(question, choices, unit, lambda said, sure: self._keep(key, said, sure), **kept)
        self.cards[key] = card
        return card

    def _keep(self, key: str, said: str, sure: int) -> str:
        """Keep what the reader says; the sentence to show below."""
        card, before = self.cards[key], self.file.records.get(key)
        if not card.choices:
            try:
                said = _number(float(said.replace(",", "").replace(" ", "")))
            except ValueError:
                return f"{said!r} is no number: write it as 1200, 1,200 or 1.2e3."
        late = key in self.outcomes or (before is not None and before.right is not None)
        record = Record(card.question, said, sure, late)
        card.said, card.sure = said, sure
        if key in self.outcomes:
            self._judge(key, record)
        else:
            self.file.keep(key, record)
        status = _kept(record, card.choices) if record.right is None else _judged(record, card.choices)
        return status if self.file.is_written else f"{status} (Until the kernel ends: this folder cannot be written.)"

    def _judge(self, key: str, record: Record) -> None:
        """Hold the record against what came out, and keep that."""
        outcome = self.outcomes[key]
        if isinstance(outcome, str):
            record.right = record.said == outcome
        else:
            off = abs(float(record.said.replace(",", "")) - outcome)
            record.right = off <= self.within[key] * abs(outcome) * (1 + 1e-9)
        record.was = self._in_words(key)
        self.file.keep(key, record)

    def _in_words(self, key: str) -> str:
        outcome, unit = self.outcomes[key], self.cards[key].unit
        return outcome if isinstance(outcome, str) else f"{_number(outcome)} {unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _quoted(words: str, choices: Sequence[str]) -> str:
    return f"“{words}”" if choices else words


def _kept(record: Record, choices: Sequence[str]) -> str:
    said = _quoted(record.said, choices)
    return f"Kept: you say {said}, {record.sure} % sure. You can change it until the result is shown."


def _judged(record: Record, choices: Sequence[str]) -> str:
    said, was = _quoted(record.said, choices), _quoted(record.was or "", choices)
    verdict = "right" if record.right else "not as you thought"
    late = " The result had been shown before, so this one does not count." * record.late
    return f"You said {said}, {record.sure} % sure. It was {was}: {verdict}.{late}"


def _right(records: Sequence[Record]) -> int:
    return sum(bool(record.right) for record in records)


def _calibration(records: Sequence[Record]) -> str:
    """The share of right ones against the mean sureness, in sentences."""
    right = 100 * _right(records) / len(records)
    sure = sum(record.sure for record in records) / len(records)
    if len(records) < FEW:
        verdict = "so few say little of how well you judge yourself"
    elif abs(sure - right) <= CLOSE:
        verdict = "you were about as sure as you could be"
    else:
        verdict = "you were surer than you could be" if sure > right else "you could have been surer"
    of = f"{_right(records)} of {len(records)}"
    return f"Right: {of} ({right:.0f} %); on average you were {sure:.0f} % sure: {verdict}."
