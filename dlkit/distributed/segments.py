"""What a rank did, one thing at a time: from its spans, and from when other ranks began the same exchanges."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from dlkit.distributed.recorder import Span


class Segment(NamedTuple):
    """What a rank did for a while, in seconds from the timeline's beginning.

    kind: "compute", "communicate" or "wait"; or "overlapped", an exchange that goes on while the rank computes.
    span: what the segment is a part of.
    last_rank: the last rank to begin the exchange; outside of exchanges, the rank itself.
    """

    kind: str
    begin: float
    end: float
    span: Span
    last_rank: int

    def __repr__(self) -> str:
        return f"Segment({self.kind}: {self.span.name} {self.span.number}, {self.begin:.6f} to {self.end:.6f} s)"


Arrivals = dict[tuple[str, int], list[tuple[float, int]]]  # (group, number): (begin, rank) of each rank, sorted


def resolve(spans: Iterable[Span], rank: int, arrivals: Arrivals, zero: float) -> tuple[list[Segment], list[Segment]]:
    """The rank's segments without overlap, and its overlapped exchanges.

    arrivals: when each rank began each exchange. zero: the timeline's beginning, in seconds of the spans' clock.
    """
    steps, computes, waits, communicates, overlapped = [], [], [], [], []
    for span in spans:
        begin, end = span.begin - zero, span.end - zero
        if span.kind == "step":
            steps.append(Segment("compute", begin, end, span, rank))
        elif span.kind == "compute":
            computes.append(Segment("compute", begin, end, span, rank))
        else:
            peers = arrivals[span.group, span.number]
            last_arrival, last_rank = peers[bisect_right(peers, (span.end, math.inf)) - 1]
            wait_begin = max(span.begin, span.wait_begin or span.begin) - zero
            transfer_begin = max(last_arrival - zero, begin)
            waits.append(Segment("wait", wait_begin, min(max(transfer_begin, wait_begin), end), span, last_rank))
            communicates.append(Segment("communicate", max(transfer_begin, wait_begin), end, span, last_rank))
            overlapped.append(Segment("overlapped", transfer_begin, wait_begin, span, last_rank))
    waits = without_overlap(waits)
    segments = waits if computes else overlay(waits, without_overlap(steps))
    segments = overlay(without_overlap(computes), overlay(without_overlap(communicates), segments))
    return segments, [segment for segment in overlapped if segment.begin < segment.end]


def without_overlap(segments: Iterable[Segment]) -> list[Segment]:
    """In order of time, each cut where an earlier one still goes on: what threads did at once counts once."""
    cut, reached = [], float("-inf")
    for segment in sorted(segments, key=lambda segment: segment.begin):
        begin = max(segment.begin, reached)
        if begin < segment.end:
            cut.append(segment._replace(begin=begin))
            reached = segment.end
    return cut


def overlay(top: list[Segment], base: list[Segment]) -> list[Segment]:
    """All of `top`, and what it leaves free of `base`, in order of time. Neither may overlap itself."""
    merged, i = list(top), 0
    for segment in base:
        begin = segment.begin
        while i < len(top) and top[i].begin < segment.end:
            if top[i].begin > begin:
                merged.append(segment._replace(begin=begin, end=top[i].begin))
            begin = max(begin, top[i].end)
            if top[i].end > segment.end:
                break
            i += 1
        if begin < segment.end:
            merged.append(segment._replace(begin=begin))
    return sorted(merged, key=lambda segment: segment.begin)


def lanes(segments: Iterable[Segment]) -> list[list[Segment]]:
    """The segments in lanes, such that those of one lane do not overlap."""
    filled: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda segment: segment.begin):
        lane = next((lane for lane in filled if lane[-1].end <= segment.begin), None)
        if lane is None:
            filled.append(lane := [])
        lane.append(segment)
    return filled
