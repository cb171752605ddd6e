"""What a rank did, one thing at a time: from its spans, and from when the others came to the same exchanges."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from dlkit.distributed.recorder import Span


class Segment(NamedTuple):
    """What a rank did for a while, in seconds from the timeline's beginning.

    kind: "compute", "communicate" or "wait"; or "overlapped" for an exchange that goes on while the rank computes.
    `span` is what it is a piece of; `last` is the rank that came to an exchange last, else the rank itself.
    """

    kind: str
    begin: float
    end: float
    span: Span
    last: int


Came = dict[tuple[str, int], list[tuple[float, int]]]  # of an exchange: when each rank began, in order


def resolved(spans: Iterable[Span], rank: int, came: Came, zero: float) -> tuple[list[Segment], list[Segment]]:
    """What a rank did, one thing at a time; and its overlapped exchanges. `zero`: the clock at the beginning."""
    steps, computes, waits, communicates, overlapped = [], [], [], [], []
    for span in spans:
        begin, end = span.begin - zero, span.end - zero
        if span.kind == "step":
            steps.append(Segment("compute", begin, end, span, rank))
        elif span.kind == "compute":
            computes.append(Segment("compute", begin, end, span, rank))
        else:
            those = came[span.group, span.number]
            all_in, last = those[bisect_right(those, (span.end, math.inf)) - 1]
            blocked = max(span.begin, span.waited or span.begin) - zero
            begun = max(all_in - zero, begin)
            waits.append(Segment("wait", blocked, min(max(begun, blocked), end), span, last))
            communicates.append(Segment("communicate", max(begun, blocked), end, span, last))
            overlapped.append(Segment("overlapped", begun, blocked, span, last))
    segments = flat(waits) if computes else laid(flat(waits), flat(steps))
    segments = laid(flat(computes), laid(flat(communicates), segments))
    return segments, [segment for segment in overlapped if segment.begin < segment.end]


def flat(segments: Iterable[Segment]) -> list[Segment]:
    """In order, and none in another's time: what threads did at once counts once."""
    found, reached = [], float("-inf")
    for segment in sorted(segments, key=lambda segment: segment.begin):
        begin = max(segment.begin, reached)
        if begin < segment.end:
            found.append(segment._replace(begin=begin))
            reached = segment.end
    return found


def laid(top: list[Segment], base: list[Segment]) -> list[Segment]:
    """All of `top`, and of `base` what it leaves free; both are flat."""
    found, place = list(top), 0
    for segment in base:
        begin = segment.begin
        while place < len(top) and top[place].begin < segment.end:
            over = top[place]
            if over.begin > begin:
                found.append(segment._replace(begin=begin, end=over.begin))
            begin = max(begin, over.end)
            if over.end > segment.end:
                break
            place += 1
        if begin < segment.end:
            found.append(segment._replace(begin=begin))
    return sorted(found, key=lambda segment: segment.begin)


def lanes(segments: Iterable[Segment]) -> list[list[Segment]]:
    """Shared out so that those of one lane do not overlap."""
    found: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda segment: segment.begin):
        free = next((lane for lane in found if lane[-1].end <= segment.begin), None)
        if free is None:
            found.append(free := [])
        free.append(segment)
    return found
