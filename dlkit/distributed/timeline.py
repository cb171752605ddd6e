"""What all ranks did when: computed, communicated or waited."""

import copy
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlkit.core.text_table import as_html, as_text, format_bytes, format_seconds
from dlkit.distributed.recorder import Span
from dlkit.distributed.segments import Arrivals, Segment, lanes, resolve, without_overlap

KINDS = ("compute", "communicate", "wait")


@dataclass(frozen=True)
class RankTotals:
    """What a rank spent its time on, in seconds, and the bytes that it sent; `overlapped` is a part of `compute`."""

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
        """Of its whole time, from 0 to 1."""
        return getattr(self, kind) / self.seconds if self.seconds else 0.0

    def describe(self, kind: str) -> str:
        """Time and share, such as `4.2 s (40%)`."""
        return f"{format_seconds(getattr(self, kind))} ({self.share(kind):.0%})"

    def __repr__(self) -> str:
        spent = ", ".join(f"{kind} {self.describe(kind)}" for kind in (*KINDS, "other"))
        return f"RankTotals(rank {self.rank}: {spent}, {format_bytes(self.bytes_sent)} sent)"


class Totals(tuple[RankTotals, ...]):
    """The RankTotals of each rank, shown as a table."""

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        kinds = [*KINDS, "other", *["overlapped"] * any(totals.overlapped for totals in self)]
        rows = [
            [str(totals.rank), *(totals.describe(kind) for kind in kinds), format_bytes(totals.bytes_sent)]
            for totals in self
        ]
        return ["rank", *kinds, "sent"], rows

    def __repr__(self) -> str:
        return as_text(*self._cells())

    def _repr_html_(self) -> str:
        return as_html(*self._cells())


class Timeline:
    """What each rank did when, from the spans that they noted down: `Timeline([spans_of_rank_0, ...])`.

    In an exchange a rank *waits* until the last rank has begun it, and then *communicates* until its end. In the rest
    of a step it *computes*; where it has "compute" spans, it computes in these only. What is left is *other*: picking
    batches, rows of the history, checkpoints. Where an exchange goes on while the rank computes, only the time in which
    it does nothing else is waiting or communicating. The time before, from when the last rank has begun, is
    *overlapped*, a part of the computing. Among neighbours, the last rank is the last to begin before the span's end.

    Times are in seconds from the beginning of the first step that all ranks have; the end is that of the last step.
    Under NCCL they are the times of Python, which hands a GPU its work. ValueError if nothing was noted down.
    """

    def __init__(self, spans: Sequence[Sequence[Span]]):
        if not any(spans):
            raise ValueError("no spans: a rank notes them down from its first step on.")
        self.world_size = len(spans)
        self._spans = [sorted(of_rank, key=lambda span: span.end) for of_rank in spans]
        self._rank_steps = [[span for span in of_rank if span.kind == "step"] for of_rank in self._spans]
        by_number = [{span.number: span for span in steps} for steps in self._rank_steps if steps]
        numbers = sorted(set(by_number[0]).intersection(*by_number)) if by_number else []
        self._steps = {number: [steps[number] for steps in by_number] for number in numbers}  # that all ranks have
        all_spans = [span for of_rank in spans for span in of_rank]
        self._zero = min(span.begin for span in (self._steps[numbers[0]] if numbers else all_spans))
        self.begin = 0.0
        self.end = max(span.end for span in all_spans if span.kind == "step" or not by_number) - self._zero
        arrivals: Arrivals = defaultdict(list)
        for rank, of_rank in enumerate(spans):
            for span in of_rank:
                if span.kind == "exchange":
                    arrivals[span.group, span.number].append((span.begin, rank))
        for begins in arrivals.values():
            begins.sort()
        resolved = [resolve(of_rank, rank, arrivals, self._zero) for rank, of_rank in enumerate(self._spans)]
        self._segments = [segments for segments, _ in resolved]
        self._overlapped = [overlapped for _, overlapped in resolved]

    def between(self, begin: float, end: float) -> "Timeline":
        """The part from `begin` to `end`, in seconds. ValueError unless `begin` is before `end`."""
        if not begin < end:
            raise ValueError(f"from {begin:g} to {end:g} s: the end must come after the beginning.")
        part = copy.copy(self)
        part.begin, part.end = begin, end
        return part

    def steps(self, first: int, last: int) -> "Timeline":
        """The part from when the first rank begins step `first` to when the last rank ends step `last`.

        ValueError for steps that are not there: a rank keeps its last `MAX_SPANS` spans.
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
        """What the rank did, in order of time and without overlap; the time between two segments is other."""
        return self._within(self._segments[rank])

    def overlapped(self, rank: int) -> list[Segment]:
        """Exchanges that went on while the rank computed; they may overlap each other."""
        return self._within(self._overlapped[rank])

    def step_begins(self) -> dict[int, float]:
        """The number of each step of this part that all ranks have, and when the first rank began it, in seconds."""
        begins = {number: min(span.begin for span in spans) - self._zero for number, spans in self._steps.items()}
        return {number: begin for number, begin in begins.items() if self.begin <= begin < self.end}

    def segment_at(self, rank: int, time: float) -> Segment | None:
        """What the rank was doing at a time, in seconds; None for other."""
        i = bisect_right(self._segments[rank], time, key=lambda segment: segment.begin) - 1
        segment = self._segments[rank][i] if i >= 0 else None
        return segment if segment is not None and time < segment.end else None

    def step_at(self, rank: int, time: float) -> int | None:
        """The number of the step that the rank was in at a time, in seconds; None between steps."""
        steps = self._rank_steps[rank]
        i = bisect_right(steps, time + self._zero, key=lambda span: span.begin) - 1
        return steps[i].number if i >= 0 and time + self._zero <= steps[i].end else None

    def totals(self) -> Totals:
        """Seconds, shares and bytes sent of each rank."""
        return Totals(self._rank_totals(rank) for rank in range(self.world_size))

    def _rank_totals(self, rank: int) -> RankTotals:
        spent = dict.fromkeys(KINDS, 0.0)
        for segment in self.segments(rank):
            spent[segment.kind] += segment.end - segment.begin
        overlapped = sum(segment.end - segment.begin for segment in without_overlap(self.overlapped(rank)))
        bytes_sent = sum(s.bytes_sent for s in self._spans[rank] if self.begin < s.end - self._zero <= self.end)
        other = max(self.end - self.begin - sum(spent.values()), 0.0)
        return RankTotals(rank, **spent, other=other, overlapped=overlapped, bytes_sent=bytes_sent)

    def _within(self, segments: Sequence[Segment]) -> list[Segment]:
        """Those between begin and end, cut off there."""
        inside = (segment for segment in segments if segment.end > self.begin and segment.begin < self.end)
        return [s._replace(begin=max(s.begin, self.begin), end=min(s.end, self.end)) for s in inside]

    def write_chrome_trace(self, path: str | Path) -> None:
        """Write a trace that chrome://tracing and ui.perfetto.dev open, with a process for each rank.

        Its threads: the steps, what the rank did in them, and, if there are any, overlapped exchanges.
        Source: Google 2016, Trace event format, complete events.
        """
        events: list[dict[str, Any]] = []
        for rank in range(self.world_size):
            steps = [Segment("step", s.begin - self._zero, s.end - self._zero, s, rank) for s in self._rank_steps[rank]]
            threads = {"steps": self._within(steps), "what it did": self.segments(rank)}
            threads |= {f"overlapped {i}": lane for i, lane in enumerate(lanes(self.overlapped(rank)))}
            events.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}})
            for thread, (name, segments) in enumerate(threads.items()):
                events.append({"ph": "M", "name": "thread_name", "pid": rank, "tid": thread, "args": {"name": name}})
                events += [chrome_event(segment, rank, thread) for segment in segments]
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")

    def __repr__(self) -> str:
        numbers = list(self.step_begins())
        steps = f", steps {numbers[0]:,} to {numbers[-1]:,}" if numbers else ""
        return f"Timeline({self.world_size} ranks{steps}, {format_seconds(self.end - self.begin)})"


def chrome_event(segment: Segment, rank: int, thread: int) -> dict[str, Any]:
    """The segment as a complete event of Chrome's format; times in microseconds."""
    span = segment.span
    name = f"step {span.number}" if segment.kind == "step" else "compute" if span.kind == "step" else span.name
    args: dict[str, Any] = {}
    if span.kind == "exchange":
        args = {"group": span.group, "number": span.number, "bytes sent": span.bytes_sent}
        args["last rank"] = segment.last_rank
    return {
        "ph": "X",
        "name": f"wait: {name}" if segment.kind == "wait" else name,
        "cat": segment.kind,
        "ts": 1e6 * segment.begin,
        "dur": 1e6 * (segment.end - segment.begin),
        "pid": rank,
        "tid": thread,
        "args": args,
    }
