"""What Sandblaster's servers answer: those that hold vectors, and the one that hands out portions."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.sandblaster.portions import PortionQueue
from dlkit.strategies.sandblaster.searching import Counted
from dlkit.strategies.sandblaster.vectors import VectorShard


class VectorServer:
    """Holds parts of vectors. Carries out the coordinator's commands, each message once; gives workers a vector's
    values, and keeps what they contribute until it is asked for.
    """

    def __init__(self, values: Tensor):
        self.shard = VectorShard(values)
        self.expected = {len(values): values.dtype}
        self.ended = False
        self._latest: tuple[int, list[float]] = (-1, [])  # message of commands, and its numbers

    def __repr__(self) -> str:
        return f"VectorServer({self.shard})"

    def hurry(self) -> None:
        """Nobody is waited for."""

    def handle(self, sender: Any, message: Message) -> Iterator[tuple[Any, Message]]:
        kind, fields = message.kind, message.fields
        told: dict[str, Any] = {"request": fields.get("request", 0)}
        values = None
        if kind == "commands":
            if fields["message"] != self._latest[0]:
                self._latest = fields["message"], self.shard.carry_out(fields["commands"])
            told["numbers"] = self._latest[1]
        elif kind == "get":
            values = self.shard.vectors.get(fields["vector"])  # gone, when a worker asks too late
        elif kind == "contribute" and message.values is not None:
            self.shard.contributions[fields["key"]] = message.values
        elif kind == "end":
            self.ended = True
        yield sender, Message(kind, told, values)


class PortionServer:
    """Hands out the portions of one batch after the other. `counted`: the sums that count, of the one that is going on.

    The coordinator's thread calls `begin`, waits for `changed` until `done`, and takes `counted`.
    """

    def __init__(self):
        self.expected: dict[int, torch.dtype] = {}
        self.ended = False
        self.changed = threading.Condition()
        self.evaluation, self.step, self.point = -1, 0, ""
        self.queue: PortionQueue | None = None
        self.counted: list[Counted] = []
        self.wasted = 0
        self._now = 0.0

    def __repr__(self) -> str:
        return f"PortionServer(evaluation {self.evaluation}, {self.queue})"

    def hurry(self) -> None:
        """Nobody is waited for."""

    @property
    def done(self) -> bool:
        return self.queue is not None and self.queue.done

    def begin(self, queue: PortionQueue, step: int, point: str) -> None:
        """A batch, by its step, at a point, by its vector's name."""
        with self.changed:
            self.evaluation += 1
            self.step, self.point, self.queue, self.counted = step, point, queue, []

    def lose(self, worker: int) -> None:
        with self.changed:
            if self.queue is not None:
                self.queue.lose(worker)

    def handle(self, sender: Any, message: Message) -> Iterator[tuple[Any, Message]]:
        kind, fields = message.kind, message.fields
        told: dict[str, Any] = {"request": fields.get("request", 0)}
        with self.changed:
            if kind == "take":
                told |= self._take(fields["worker"], fields["evaluation"], fields["kept"])
            elif kind == "now":
                told["evaluation"] = self.evaluation
            elif kind == "deliver":
                self._deliver(fields)
            elif kind == "end":
                self.ended = True
        yield sender, Message(kind, told)

    def _take(self, worker: int, evaluation: int, kept: list[int]) -> dict[str, Any]:
        """What a worker is to do next, which has computed these portions of an evaluation and not sent them."""
        if self.queue is None or self.queue.done:
            return {"wait": True}
        told = {"evaluation": self.evaluation, "step": self.step, "point": self.point}
        kept = kept if evaluation == self.evaluation else []
        if kept and self.queue.should_send(len(kept)):
            return told | {"send": True}
        self._now += 1.0  # an order is all that is needed of the time
        portion = self.queue.take(worker, self._now, kept)
        return {"wait": True} if portion is None else told | {"portion": portion}

    def _deliver(self, fields: dict[str, Any]) -> None:
        if self.queue is None or fields["evaluation"] != self.evaluation:
            return
        portions: Sequence[int] = fields["portions"]
        if any(each.key == fields["key"] for each in self.counted):
            return  # asked again
        if self.queue.deliver(fields["worker"], portions):
            self.counted.append(Counted(list(portions), fields["key"], fields["metrics"]))
        else:
            self.wasted += len(portions)
        self.changed.notify_all()
