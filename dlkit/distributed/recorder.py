"""What one rank notes down while it trains: its steps, and its exchanges with other ranks, with their times."""

import time
from collections import deque
from typing import NamedTuple

MAX_SPANS = 20_000  # that a rank keeps; the oldest ones are dropped

now = time.perf_counter  # in seconds; one clock for all processes of a machine


class Span(NamedTuple):
    """One thing that a rank did, from `begin` to `end`, in seconds of the clock `now`.

    kind: "step", "exchange", or "compute" (from strategies that time their computing themselves).
    number: of a step, or of an exchange among those of its group. The spans of all ranks with one group and number are
    one exchange.
    bytes_sent: by this rank.
    wait_begin: when the rank had nothing left to do but wait for the exchange; None where that is `begin`.
    """

    kind: str
    name: str
    begin: float
    end: float
    group: str = ""
    number: int = 0
    bytes_sent: int = 0
    wait_begin: float | None = None

    def __repr__(self) -> str:
        number = f" {self.number}" if self.number else ""
        group = f" of group {self.group}, {self.bytes_sent:,} bytes sent" if self.kind == "exchange" else ""
        return f"Span({self.kind}: {self.name}{number}{group}, {self.begin:.6f} to {self.end:.6f} s)"


class Recorder:
    """The last `MAX_SPANS` spans of one rank, and the bytes that it has sent in all.

    While `enabled` is False nothing is noted down, so that what a checkpoint gathers between two steps does not count.
    While `on_trial`, which a step before the first is, exchanges are not numbered nor slowed down either.
    """

    def __init__(self):
        self.spans: deque[Span] = deque(maxlen=MAX_SPANS)
        self.bytes_sent = 0
        self.enabled = True
        self.on_trial = False

    def add(self, span: Span) -> None:
        if self.enabled and not self.on_trial:
            self.spans.append(span)
            self.bytes_sent += span.bytes_sent

    def __repr__(self) -> str:
        return f"Recorder({len(self.spans):,} spans, {self.bytes_sent:,} bytes sent)"
