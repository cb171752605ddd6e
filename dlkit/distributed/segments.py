"""What a rank did, one thing at a time: from its spans, and from when the others came to the same exchanges."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from dlkit.distributed.recorder import Span


class Piece(NamedTuple):
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


def resolved(spans: Iterable[Span], rank: int, came: Came, zero: float) -> tuple[list[Piece], list[Piece]]:
    """What a rank did, one thing at a time; and its overlapped exchanges. `zero`: the clock at the beginning."""
    steps, computes, waits, communicates, overlapped = [], [], [], [], []
    for span in spans:
        begin, end = span.begin - zero, span.end - zero
        if span.kind == "step":
            steps.append(Piece("compute", begin, end, span, rank))
        elif span.kind == "compute":
            computes.append(Piece("compute", begin, end, span, rank))
        else:
            those = came[span.group, span.number]
            all_in, last = those[bisect_right(those, (span.end, math.inf)) - 1]
            blocked = max(span.begin, span.waited or span.begin) - zero
            begun = max(all_in - zero, begin)
            waits.append(Piece("wait", blocked, min(max(begun, blocked), end), span, last))
            communicates.append(Piece("communicate", max(begun, blocked), end, span, last))
            overlapped.append(Piece("overlapped", begun, blocked, span, last))
    pieces = flat(waits) if computes else laid(flat(waits), flat(steps))
    pieces = laid(flat(computes), laid(flat(communicates), pieces))
    return pieces, [piece for piece in overlapped if piece.begin < piece.end]


def flat(pieces: Iterable[Piece]) -> list[Piece]:
    """In order, and none in another's time: what threads did at once counts once."""
    found, reached = [], float("-inf")
    for piece in sorted(pieces, key=lambda piece: piece.begin):
        begin = max(piece.begin, reached)
        if begin < piece.end:
            found.append(piece._replace(begin=begin))
            reached = piece.end
    return found


def laid(top: list[Piece], base: list[Piece]) -> list[Piece]:
    """All of `top`, and of `base` what it leaves free; both are flat."""
    found, place = list(top), 0
    for piece in base:
        begin = piece.begin
        while place < len(top) and top[place].begin < piece.end:
            over = top[place]
            if over.begin > begin:
                found.append(piece._replace(begin=begin, end=over.begin))
            begin = max(begin, over.end)
            if over.end > piece.end:
                break
            place += 1
        if begin < piece.end:
            found.append(piece._replace(begin=begin))
    return sorted(found, key=lambda piece: piece.begin)


def lanes(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Shared out so that those of one lane do not overlap."""
    found: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.begin):
        free = next((lane for lane in found if lane[-1].end <= piece.begin), None)
        if free is None:
            found.append(free := [])
        free.append(piece)
    return found
