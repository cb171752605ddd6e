"""A replica's end of its talk with the servers: what it asks, what it has sent, and what it must send again."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlkit.core.slices import Slice
from dlkit.strategies.asynchronous.messages import Message

SILENCE = 0.5  # seconds without an answer, before a server is asked whether it is there
IN_FLIGHT = 2  # pushes that may be under way before a replica waits
KEPT_BYTES = 1 << 28  # of pushes that no checkpoint of the servers holds yet, before they are asked for one


class Member(NamedTuple):
    """Replica `number` of a run, which learns from part `part` of `parts` of the data. One that comes anew has a new
    number.
    """

    number: int
    part: int
    parts: int


class Fetched(NamedTuple):
    """All servers' values, and of each server the life and the version that they are of."""

    values: Tensor
    computed_at: tuple[tuple[int, int], ...]


class Contribution(NamedTuple):
    """What a replica pushes: of `batches` batches, after its step `steps`."""

    values: Tensor
    steps: int
    batches: int
    metrics: dict[str, float]


class Sent(NamedTuple):
    sequence: int
    contribution: Contribution
    computed_at: tuple[tuple[int, int], ...]
    installs: tuple[tuple[int, ...], ...]
    full: bool


@dataclass
class Line:
    """What a replica knows of one server. pending: by number, the requests without an answer, each with the sequence
    number of the last push that was sent before it.
    """

    life: int = -1
    accepted: int = 0
    durable: int = 0
    sent: int = 0
    done: bool = False
    heard: float = 0.0
    asked: float = 0.0
    pending: dict[int, int] = field(default_factory=dict)
    fetching: Message | None = None
    fetched: tuple[int, int] | None = None  # of the fetch that is under way


class Client:
    """One replica's. `outgoing` gives what is to be sent now, `receive` takes what has come; it never waits.

    bytes_sent: of all values.
    """

    def __init__(self, member: Member, parts: Sequence[Slice], dtype: torch.dtype):
        self.member, self.parts = member, parts
        self.lines = [Line() for _ in parts]
        self.outbox: deque[Sent] = deque()
        self.sequence = 0
        self.bytes_sent = 0
        self._newest: Fetched | None = None
        self._incoming = torch.empty(parts[-1].stop, dtype=dtype)
        self._requests = 0
        self._installs: list[tuple[int, ...]] = []  # since the last push
        self._installed: tuple[tuple[int, int], ...] = ()

    def __repr__(self) -> str:
        return f"Client({self.member}, {self.sequence} pushes, {len(self.outbox)} kept)"

    # What the replica does.

    @property
    def done(self) -> bool:
        """Have all servers said that they have had all their batches, or have been stopped?"""
        return all(line.done for line in self.lines)

    @property
    def in_flight(self) -> int:
        """How many pushes a server does not have yet."""
        return max((self.sequence - line.accepted for line in self.lines if not line.done), default=0)

    @property
    def may_push(self) -> bool:
        return self.in_flight < IN_FLIGHT

    @property
    def fetching(self) -> bool:
        return any(line.fetching is not None for line in self.lines)

    @property
    def has_fetched(self) -> bool:
        """Is there anything to `take`?"""
        return self._newest is not None

    def start_fetch(self, *, newer: bool = False) -> None:
        """Ask all servers for their values, unless they are asked already. newer: than those installed last."""
        if self.fetching:
            return
        for number, line in enumerate(self.lines):
            line.fetched = None
            wanted: dict[str, Any] = {}
            if newer and self._installed:
                life, version = self._installed[number]
                wanted = {"newer_than": version, "life": life}
            line.fetching = self._request("fetch", part=self.member.part, **wanted)

    def take(self, step: int) -> Tensor | None:
        """The newest values that have come, to begin this step with; None if none have since the last."""
        newest, self._newest = self._newest, None
        if newest is None:
            return None
        self._installed = newest.computed_at
        self._installs += [(step, number, *of) for number, of in enumerate(newest.computed_at)]
        return newest.values

    def push(self, contribution: Contribution) -> None:
        self.sequence += 1
        kept = len(self.outbox) * contribution.values.nbytes
        full = kept > KEPT_BYTES and self.sequence % 8 == 0
        self.outbox.append(Sent(self.sequence, contribution, self._installed, tuple(self._installs), full))
        self._installs = []

    # What goes to the servers, and comes.

    def _request(self, kind: str, values: Tensor | None = None, **fields: Any) -> Message:
        self._requests += 1
        return Message(kind, {"replica": self.member.number, "request": self._requests, **fields}, values)

    def outgoing(self, now: float) -> Iterator[tuple[int, Message]]:
        """Messages, each with the number of the server that it is for."""
        for number, line in enumerate(self.lines):
            for message in self._due(line, number, now):
                line.pending[message.fields["request"]] = line.sent
                line.asked = now
                if message.values is not None:
                    self.bytes_sent += message.values.nbytes
                yield number, message

    def _due(self, line: Line, number: int, now: float) -> Iterator[Message]:
        part = self.parts[number]
        for sent in [sent for sent in self.outbox if sent.sequence > line.sent and not line.done]:
            line.sent = sent.sequence
            contribution = sent.contribution
            yield self._request(
                "push",
                contribution.values[part.start : part.stop],
                sequence=sent.sequence,
                steps=contribution.steps,
                batches=contribution.batches,
                computed_at=sent.computed_at,
                installs=sent.installs,
                metrics=contribution.metrics,
                part=self.member.part,
                parts=self.member.parts,
                full=sent.full,
            )
        if line.fetching is not None and line.fetching.fields["request"] not in line.pending and line.fetched is None:
            yield line.fetching
        elif now - max(line.heard, line.asked) > SILENCE:
            yield self._request("hello")

    def receive(self, number: int, answer: Message, now: float) -> None:
        """Take a server's answer. ValueError, in the server's words, if it refuses what this replica sends."""
        line, told = self.lines[number], answer.fields
        earlier = set(itertools.takewhile(lambda request: request != told["request"], line.pending))
        before = line.pending.pop(told["request"], None)
        if before is None:
            return
        if "error" in told:
            raise ValueError(told["error"])
        line.heard = now
        if told["life"] != line.life:  # a server that has come back knows nothing of what was under way
            line.life, line.sent = told["life"], told["accepted"]
            line.pending.clear()
        elif told["accepted"] < before:
            line.sent = told["accepted"]  # the connection was cut, and what was sent before is lost
        kept = line.fetching.fields["request"] if line.fetching is not None and told.get("waits") else None
        for request in earlier - {kept}:  # lost likewise, as a server answers in order: a fetch is asked again
            line.pending.pop(request, None)
        line.accepted, line.durable, line.done = told["accepted"], told["durable"], told["done"]
        durable = min((line.durable for line in self.lines if not line.done), default=self.sequence)
        while self.outbox and self.outbox[0].sequence <= durable:
            self.outbox.popleft()
        if answer.kind == "fetch" and line.fetching is not None and line.fetched is None:
            part = self.parts[number]
            assert answer.values is not None
            self._incoming[part.start : part.stop] = answer.values
            line.fetched = (told["life"], told["version"])
            if all(line.fetched for line in self.lines):
                self._newest = Fetched(self._incoming, tuple(line.fetched for line in self.lines))  # type: ignore
                self._incoming = torch.empty_like(self._incoming)
                for line in self.lines:
                    line.fetching = line.fetched = None
