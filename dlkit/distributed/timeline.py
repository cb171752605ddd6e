"""Who computed, sent or waited, when: what the spans of all ranks say together."""

import copy
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlkit.core import text_table
from dlkit.distributed.recorder import KEPT, Recorder, Span, now
from dlkit.distributed.segments import Came, Segment, flat, lanes, resolved

__all__ = ["KEPT", "RankTotals", "Recorder", "Segment", "Span", "Timeline", "Totals", "now"]

KINDS = ("compute", "communicate", "wait")


@dataclass(frozen=True)
class RankTotals:
    """Seconds that a rank spent, and the bytes of the exchanges that ended in them; `overlapped` is in `compute`."""

    rank: int
    compute: float
    communicate: float
    wait: float
    other: float
    overlapped: float
    bytes_sent: int

    @property
    def seconds(self) -> float:
        return self.compute + self.communicate + self.wait + self.other

    def share(self, kind: str) -> float:
        return getattr(self, kind) / self.seconds if self.seconds else 0.0

    def said(self, kind: str) -> str:
        return f"{text_table.format_seconds(getattr(self, kind))} ({self.share(kind):.0%})"


class Totals(tuple[RankTotals, ...]):
    """One of RankTotals for each rank; shown, it is a table."""

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        kinds = [*KINDS, "other", *["overlapped"] * any(row.overlapped for row in self)]
        rows = [
            [str(row.rank), *(row.said(kind) for kind in kinds), text_table.format_bytes(row.bytes_sent)]
            for row in self
        ]
        return ["rank", *kinds, "sent"], rows

    def __repr__(self) -> str:
        return text_table.as_text(*self._cells())

    def _repr_html_(self) -> str:
        return text_table.as_html(*self._cells())


class Timeline:
    """What each rank did when, from what all of them have noted down: `Timeline([spans_of_rank_0, ...])`.

    A rank *waits* from when it came to an exchange until the last rank has, and *communicates* from then until the
    exchange ends; it *computes* in the rest of a step, or in "compute" spans where it has any. What is left is *other*:
    picking batches, rows of the history, checkpoints. Of an exchange that goes on while the rank computes, only the
    time in which it waits for it counts; the time before, from when the last rank has come, is *overlapped*, a part of
    what it computes. Where ranks exchange with neighbours, the last is the last that came before the exchange's end.

    Times are in seconds from the beginning of the first step that all ranks have; the end is that of the last step.
    Under NCCL they are the times of Python, which hands a GPU its work. ValueError if nothing was noted down.
    """

    def __init__(self, spans: Sequence[Sequence[Span]]):
        if not any(spans):
            raise ValueError("no spans: a rank notes them down from its first step on.")
        self.world_size = len(spans)
        self._spans = [sorted(each, key=lambda span: span.end) for each in spans]
        self._own_steps = [[span for span in each if span.kind == "step"] for each in self._spans]
        some = [{span.number: span for span in each} for each in self._own_steps if each]
        numbers = sorted(set(some[0]).intersection(*some)) if some else []
        self._steps = {number: [each[number] for each in some] for number in numbers}
        everything = [span for each in spans for span in each]
        self._zero = min(span.begin for span in (self._steps[numbers[0]] if numbers else everything))
        self.begin = 0.0
        self.end = max(span.end for span in everything if span.kind == "step" or not some) - self._zero
        came: Came = defaultdict(list)
        for rank, each in enumerate(spans):
            for span in each:
                if span.kind == "exchange":
                    came[span.group, span.number].append((span.begin, rank))
        for each in came.values():
            each.sort()
        found = [resolved(each, rank, came, self._zero) for rank, each in enumerate(self._spans)]
        self._pieces, self._overlapped = [segments for segments, _ in found], [segments for _, segments in found]

    def between(self, begin: float, end: float) -> "Timeline":
        """The part from `begin` to `end`, in seconds. ValueError if that is no time at all."""
        if not begin < end:
            raise ValueError(f"from {begin:g} to {end:g} s: the end must come after the beginning.")
        part = copy.copy(self)
        part.begin, part.end = begin, end
        return part

    def steps(self, first: int, last: int) -> "Timeline":
        """The part from the first rank's beginning of step `first` to the last rank's end of step `last`.

        ValueError for steps that are not there: a rank keeps its last `KEPT` spans.
        """
        if first > last or first not in self._steps or last not in self._steps:
            numbers = list(self._steps)
            there = f"there are {numbers[0]} to {numbers[-1]}" if numbers else "no step was noted down on all ranks"
            raise ValueError(f"steps {first} to {last}: {there}.")
        begin, end = min(s.begin for s in self._steps[first]), max(s.end for s in self._steps[last])
        part = self.between(begin - self._zero, end - self._zero)
        part._steps = {number: spans for number, spans in self._steps.items() if first <= number <= last}
        return part

    def segments(self, rank: int) -> list[Segment]:
        """What the rank did, in order, one thing at a time; the time between two of them is other."""
        return self._within(self._pieces[rank])

    def overlapped(self, rank: int) -> list[Segment]:
        """Exchanges that went on while the rank computed; they may overlap each other."""
        return self._within(self._overlapped[rank])

    def begins(self) -> dict[int, float]:
        """When the first rank began each step of this part that all ranks have."""
        begins = {number: min(span.begin for span in spans) - self._zero for number, spans in self._steps.items()}
        return {number: begin for number, begin in begins.items() if self.begin <= begin < self.end}

    def at(self, rank: int, time: float) -> Segment | None:
        """What the rank was doing at a time, in seconds; None for other."""
        place = bisect_right(self._pieces[rank], time, key=lambda segment: segment.begin) - 1
        segment = self._pieces[rank][place] if place >= 0 else None
        return segment if segment is not None and time < segment.end else None

    def step_at(self, rank: int, time: float) -> int | None:
        """The number of the step that the rank was in at a time, in seconds, if it was in one."""
        steps = self._own_steps[rank]
        place = bisect_right(steps, time + self._zero, key=lambda span: span.begin) - 1
        return steps[place].number if place >= 0 and time + self._zero <= steps[place].end else None

    def totals(self) -> Totals:
        """Seconds, shares and bytes of each rank."""
        return Totals(self._total(rank) for rank in range(self.world_size))

    def _total(self, rank: int) -> RankTotals:
        spent = dict.fromkeys(KINDS, 0.0)
        for segment in self.segments(rank):
            spent[segment.kind] += segment.end - segment.begin
        overlapped = sum(segment.end - segment.begin for segment in flat(self.overlapped(rank)))
        ended = (s.size for s in self._spans[rank] if self.begin < s.end - self._zero <= self.end)
        other = max(self.end - self.begin - sum(spent.values()), 0.0)
        return RankTotals(rank, **spent, other=other, overlapped=overlapped, bytes_sent=sum(ended))

    def _within(self, segments: Sequence[Segment]) -> list[Segment]:
        """Those between begin and end, cut off there."""
        inside = (segment for segment in segments if segment.end > self.begin and segment.begin < self.end)
        return [p._replace(begin=max(p.begin, self.begin), end=min(p.end, self.end)) for p in inside]

    def chrome(self, path: str | Path) -> None:
        """Write a trace that chrome://tracing and ui.perfetto.dev open: a process a rank.

        Its threads: the steps, what the rank did in them, and, if there are any, overlapped exchanges.
        Source: Google 2016, Trace event format, complete events.
        """
        events: list[dict[str, Any]] = []
        for rank in range(self.world_size):
            steps = [Segment("step", s.begin - self._zero, s.end - self._zero, s, rank) for s in self._own_steps[rank]]
            threads = {"steps": self._within(steps), "what it did": self.segments(rank)}
            threads |= {f"overlapped {i}": lane for i, lane in enumerate(lanes(self.overlapped(rank)))}
            events.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}})
            for thread, (name, segments) in enumerate(threads.items()):
                events.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": thread, "args": {"name": name}})
                events += [event(segment, rank, thread) for segment in segments]
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")

    def __repr__(self) -> str:
        inside = list(self.begins())
        steps = f", steps {inside[0]:,} to {inside[-1]:,}" if inside else ""
        return f"Timeline({self.world_size} ranks{steps}, {text_table.format_seconds(self.end - self.begin)})"


def event(segment: Segment, rank: int, thread: int) -> dict[str, Any]:
    """A complete event of Chrome's format, in microseconds."""
    span = segment.span
    name = f"step {span.number}" if segment.kind == "step" else "compute" if span.kind == "step" else span.name
    told: dict[str, Any] = {}
    if span.kind == "exchange":
        told = {"group": span.group, "number": span.number, "bytes sent": span.size, "last rank": segment.last}
    at = {"ts": 1e6 * segment.begin, "dur": 1e6 * (segment.end - segment.begin)}
    return {
        "ph": "X",
        "name": f"wait: {name}" if segment.kind == "wait" else name,
        "cat": segment.kind,
        **at,
        "pid": rank,
        "tid": thread,
        "args": told,
    }
