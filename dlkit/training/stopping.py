"""Ending a run when it no longer gets better."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EarlyStop:
    """A callback that stops the run when `column` has not had a new best value for `patience` rows.

    Put it behind the callback that makes the column. It counts in the run's history, so a resumed run goes on
    counting; the model stays as it is at the end, not as it was at its best.
    Source: Prechelt 1998, Early stopping - but when?, §2, criterion UP.
    """

    column: str
    patience: int = 5
    largest: bool = False

    def __post_init__(self):
        if self.patience < 1:
            raise ValueError(f"a patience of {self.patience} rows: at least 1 is needed.")

    def __call__(self, run: Any) -> None:
        values = [value for value in run.history[self.column] if value is not None]
        best = max(values) if self.largest else min(values)
        since = len(values) - 1 - values.index(best)
        if since >= self.patience:
            run.stop(f"{self.column} has not improved on {best:.4g} for {since} rows")
