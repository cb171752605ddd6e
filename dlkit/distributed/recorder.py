"""What one rank notes down while it trains: who computed, or exchanged what with whom, when."""

import time
from collections import deque
from typing import NamedTuple

KEPT = 20_000  # spans; older ones make room


class Span(NamedTuple):
    """From `begin` to `end`, in seconds of this machine's monotonic clock, which all its processes share.

    kind: "step", "compute" (where a strategy has it apart), or "exchange". `number` counts the exchanges of one group,
    alike on all its ranks: what belongs together has the same group and number. `size` is in bytes sent by this rank.
    `waited`: when the rank began to do nothing but wait for the exchange, if it computed on after its beginning.
    """

    kind: str
    name: str
    begin: float
    end: float
    group: str = ""
    number: int = 0
    size: int = 0
    waited: float | None = None


class Recorder:
    """The spans of one rank, the last `KEPT` of them, and the bytes that it has sent.

    While `counts` is False nothing is added: what a checkpoint gathers between steps is no part of a step's bill.
    """

    def __init__(self):
        self.spans: deque[Span] = deque(maxlen=KEPT)
        self.bytes_sent = 0
        self.counts = True

    def add(self, span: Span) -> None:
        if self.counts:
            self.spans.append(span)
            self.bytes_sent += span.size


now = time.perf_counter
