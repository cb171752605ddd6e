"""A parameter server: what it answers to each message, and what it keeps on disk. Sockets are another module's."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dlkit.core.slices import Slice, slice_of
from dlkit.core.storage import read_tensors, write_tensors
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.parameter_shard import ParameterShard, Push
from dlkit.strategies.asynchronous.record import Kind, RecordWriter, Row, path_of
from dlkit.strategies.asynchronous.rules import Rule
from dlkit.training.history import Row as HistoryRow
from dlkit.training.schedules import Schedule, at

Answers = Iterator[tuple[Any, Message]]  # to whom, and what


@dataclass(frozen=True)
class Plan:
    """What the servers of a run are to do.

    parts: of all values, each server's. batches: after so many the run ends. warm_start: so many the first replica
    takes alone. checkpoint_every: so many updates. images: of all the data. replicas: that begin together.
    """

    parts: tuple[Slice, ...]
    rule: Callable[[], Rule]
    lr: float | Schedule
    batches: int
    batch_size: int
    images: int
    row_every: int
    hold: int = 0
    needed: int = 1
    warm_start: int = 0
    checkpoint_every: int = 100
    replicas: int = 1


class Server:
    """Number `number` of the plan's servers, of a run whose values were `initial`.

    folder: where it keeps its record and its checkpoints, from which it goes on if there are any; None keeps none.
    life: how many times it has begun, less one. stopped: why the run ends before its end.
    """

    def __init__(
        self,
        plan: Plan,
        number: int,
        initial: Tensor,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.plan, self.number, self.folder, self.clock = plan, number, folder, clock
        part = plan.parts[number]
        values = initial[part.start : part.stop]
        self.shard = ParameterShard(values, plan.rule(), hold=plan.hold, needed=plan.needed)
        self.expected = {part.count: values.dtype}
        self.rows: list[HistoryRow] = []
        self.stopped: str | None = None
        self.ended = False
        self._sums: dict[str, float] = {}
        self._counted = self._row_start = 0  # batches in the sums, and done at the last row
        self._row_began = self._began = clock()  # of the row, and of the first
        self._waiting: dict[Any, Message] = {}  # fetches, by whom
        self._asked: set[int] = set()  # replicas that have fetched
        self._hurried = False
        self._kept = 0  # version of the last checkpoint
        self.record = RecordWriter(None if folder is None else path_of(folder, number))
        begun = [row for row in self.record.rows if row.kind == Kind.BEGIN]
        self.joined = {row.who for row in self.record.rows if row.kind == Kind.JOIN}
        self.life = len(begun)
        before, version = -1, 0
        if folder is not None and (kept := checkpoints(folder, number)):
            before, version = self._load(kept[max(kept)])
        self.durable = dict(self.shard.ledger)
        self.record.add([Row(Kind.BEGIN, self.life, before, version)])

    def __repr__(self) -> str:
        return f"Server({self.number} of {len(self.plan.parts)}, life {self.life}, {self.shard})"

    @property
    def epoch(self) -> float:
        """Of all replicas together."""
        return self.shard.batches * self.plan.batch_size / self.plan.images

    @property
    def done(self) -> bool:
        """Has the run had all its batches, or been stopped?"""
        return self.stopped is not None or self.shard.batches >= self.plan.batches

    def handle(self, sender: Any, message: Message) -> Answers:
        """What there is to answer to this message, and to others that waited for what it brought."""
        kind, fields = message.kind, message.fields
        if kind == "fetch":
            if "replica" in fields:
                self._asked.add(fields["replica"])
            if self._must_wait(fields):
                self._waiting[sender] = message
            else:
                yield sender, self._fetched(message)
                yield from self._answer_waiting()
            return
        if kind == "push":
            try:
                self._push(message)
            except ValueError as error:
                yield sender, self._answer(message, error=str(error))
                return
        elif kind == "stop":
            self.stopped = self.stopped or fields["why"]
        elif kind == "end":
            self.ended = True
        told: dict[str, Any] = {}
        if kind == "rows":
            told = {"rows": self.rows[fields["since"] :], "rows_in_all": len(self.rows)}
        yield sender, self._answer(message, waits=sender in self._waiting, **told)
        yield from self._answer_waiting()

    def _answer_waiting(self) -> Answers:
        for other, fetch in [(other, fetch) for other, fetch in self._waiting.items() if not self._must_wait(fetch[1])]:
            del self._waiting[other]
            yield other, self._fetched(fetch)

    def hurry(self) -> None:
        """Wait no longer for replicas that are to begin with the others."""
        self._hurried = True

    def _must_wait(self, fetch: dict[str, Any]) -> bool:
        if self.done:
            return False
        if not (self._hurried or self.shard.version or self.life) and len(self._asked) < self.plan.replicas:
            return "part" in fetch
        warm = self.shard.batches >= self.plan.warm_start or fetch.get("part", 0) == 0
        return not warm or (fetch.get("life") == self.life and self.shard.version <= fetch.get("newer_than", -1))

    def _fetched(self, message: Message) -> Message:
        return self._answer(message, values=self.shard.values)

    def _answer(self, message: Message, values: Tensor | None = None, **fields: Any) -> Message:
        shard, replica = self.shard, message.fields.get("replica", -1)
        told = {
            "request": message.fields.get("request", 0),
            "life": self.life,
            "version": shard.version,
            "batches": shard.batches,
            "accepted": shard.accepted(replica),
            "durable": shard.accepted(replica) if self.folder is None else self.durable.get(replica, 0),
            "done": self.done,
        }
        return Message(message.kind, told | fields, values)

    def _push(self, message: Message) -> None:
        """Apply a push, unless it is here already, or comes too early, or after the end. ValueError as a shard's."""
        fields, shard = message.fields, self.shard
        replica, sequence = fields["replica"], fields["sequence"]
        if self.done or sequence != shard.accepted(replica) + 1:
            return
        life, version = fields["computed_at"][self.number]
        if life != self.life:  # that life's values are lost, from a version on
            version = min(version, shard.version)
        assert message.values is not None
        push = Push(replica, sequence, version, message.values, fields["batches"])
        shard.check(push)
        rows = [Row(Kind.INSTALL, replica, *install) for install in fields["installs"]]
        if replica not in self.joined:
            self.joined.add(replica)
            rows.insert(0, Row(Kind.JOIN, replica, fields["part"], fields["parts"]))
        if not shard.version and not shard.ledger:
            self._row_began = self._began = self.clock()
        self.record.add([*rows, Row(Kind.PUSH, replica, sequence, fields["steps"])])
        shard.push(push, at(self.plan.lr, self.epoch))
        for name, value in fields.get("metrics", {}).items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._counted += fields["batches"]
        if shard.batches // self.plan.row_every > self._row_start // self.plan.row_every or self.done:
            self._add_row()
        due = shard.version % self.plan.checkpoint_every == 0 or fields.get("full") or self.done
        if self.folder is not None and due and shard.version != self._kept:
            self.write_checkpoint()

    def _add_row(self) -> None:
        if not self._counted:
            return
        means = {name: value / self._counted for name, value in self._sums.items()}
        now, lr = self.clock(), float(at(self.plan.lr, self.epoch))
        rate = (self.shard.batches - self._row_start) * self.plan.batch_size / max(now - self._row_began, 1e-9)
        row: HistoryRow = {"step": self.shard.batches, "epoch": self.epoch, **means, "lr": lr}
        row |= {"images_per_second": rate, "seconds": now - self._began}
        self._row_began = now
        self.rows.append(row)
        for name, value in means.items():
            if not math.isfinite(value):
                self.stopped = self.stopped or f"{name} is {value}: try a smaller lr, fewer replicas or another rule"
        self._sums, self._counted, self._row_start = {}, 0, self.shard.batches

    # On disk.

    def write_checkpoint(self) -> None:
        """Keep what there is now. Those before the last that all servers have are deleted."""
        assert self.folder is not None
        version = self.shard.version
        header = {"life": str(self.life), "version": str(version), "rows": json.dumps(self.rows)}
        write_tensors(self.shard.state(), checkpoint_of(self.folder, self.number, version), header)
        self.durable, self._kept = dict(self.shard.ledger), version
        own = checkpoints(self.folder, self.number)
        common = last_common(self.folder, len(self.plan.parts))
        for older in own:
            if older < min(common or 0, version):
                own[older].unlink(missing_ok=True)

    def _load(self, path: Path) -> tuple[int, int]:
        """The life and the version of a checkpoint, which is what the shard is now."""
        state, header = read_tensors(path)
        self.shard.load(state)
        self._row_start, self.rows = self.shard.batches, json.loads(header["rows"])
        if self.rows:
            self._began -= self.rows[-1]["seconds"] or 0.0  # time goes on where it was, but for what it was away
        return int(header["life"]), int(header["version"])


def checkpoint_of(folder: Path, server: int, version: int) -> Path:
    return folder / f"shard-{server}-{version:09d}.safetensors"


def checkpoints(folder: Path, server: int) -> dict[int, Path]:
    """A server's checkpoints, by version."""
    found = folder.glob(f"shard-{server}-*.safetensors")
    return {int(path.stem.rsplit("-", 1)[1]): path for path in found}


def last_common(folder: Path, servers: int) -> int | None:
    """The newest version of which all servers have a checkpoint."""
    versions = [set(checkpoints(folder, number)) for number in range(servers)]
    return max(set.intersection(*versions), default=None)


def go_back_to_common(folder: Path, servers: int) -> int | None:
    """Let all servers go on from the newest version of which all have a checkpoint, which is returned."""
    common = last_common(folder, servers)
    for number in range(servers):
        for version, path in checkpoints(folder, number).items():
            if common is None or version > common:
                path.unlink()
    return common


def split_values(total: int, servers: int) -> tuple[Slice, ...]:
    """Each server's part of all values."""
    return tuple(slice_of(total, number, servers) for number in range(servers))
