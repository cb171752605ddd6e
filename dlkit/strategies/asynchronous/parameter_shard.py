"""What a parameter server keeps of its part of a model's parameters: values, and a ledger of the gradients applied."""

from collections import Counter, deque
from typing import NamedTuple

import torch
from torch import Tensor

from dlkit.strategies.asynchronous.rules import Rule


class Push(NamedTuple):
    """What a replica gives of a shard's values: a gradient, or the sum of several, computed at `version` of them.

    sequence: the replica's pushes, counted from 1. batches: of how many it is.
    """

    replica: int
    sequence: int
    version: int
    gradient: Tensor
    batches: int = 1


class ParameterShard:
    """`values`, of one dimension, and their `version`: how many times they have been moved.

    hold: how many pushes are held back before the oldest is applied, which makes each so much more stale.
    needed: how many gradients of one version make a step, of which their mean is taken; later ones are dropped.
    `ledger`: of each replica the sequence number of its last push that was applied or dropped. Pushes of a replica
    arrive in order, so that one number says of each of them whether it has been: each is once or, where it is lost,
    not at all. `staleness`: of how many pushes each was, that is, how many were applied since their values were
    fetched. `batches`: of all that was applied.
    """

    def __init__(self, values: Tensor, rule: Rule, *, hold: int = 0, needed: int = 1):
        self.values, self.rule, self.hold, self.needed = values.detach().clone(), rule, hold, needed
        self.version = self.batches = self.dropped = 0
        self.ledger: dict[int, int] = {}
        self.staleness: Counter[int] = Counter()
        self.held: deque[Push] = deque()
        self.gathered: list[Push] = []

    def __repr__(self) -> str:
        replicas = f"{len(self.ledger)} replicas" if self.ledger else "no replica yet"
        return f"ParameterShard({len(self.values):,} values, version {self.version}, {replicas})"

    def accepted(self, replica: int) -> int:
        """The sequence number of the replica's last push that is here, applied or not."""
        here = self.ledger.get(replica, 0)
        if self.held or self.gathered:
            here = max([here, *(p.sequence for p in (*self.held, *self.gathered) if p.replica == replica)])
        return here

    def push(self, push: Push, lr: float) -> bool:
        """Take the push, and say so; False if it is here already. ValueError for one that cannot be applied."""
        self.check(push)
        if push.sequence <= self.accepted(push.replica):
            return False
        self.held.append(push)
        if len(self.held) > self.hold:
            self._apply(self.held.popleft(), lr)
        return True

    def check(self, push: Push) -> None:
        """ValueError, with the reason, for a push of another net or of another run."""
        gradient = push.gradient
        if gradient.shape != self.values.shape or gradient.dtype != self.values.dtype:
            raise ValueError(
                f"replica {push.replica} sent {tuple(gradient.shape)} numbers of {gradient.dtype} to a shard of "
                f"{tuple(self.values.shape)} of {self.values.dtype}: its net is another one."
            )
        if not 0 <= push.version <= self.version:
            raise ValueError(
                f"replica {push.replica} sent a gradient of version {push.version}, and there are {self.version}: it "
                "has fetched from another run."
            )

    def _apply(self, push: Push, lr: float) -> None:
        staleness = self.version - push.version
        if self.needed > 1:
            if staleness:
                self.dropped += 1
                self.ledger[push.replica] = push.sequence
                return
            self.gathered.append(push)
            if len(self.gathered) < self.needed:
                return
            gradient = torch.stack([push.gradient for push in self.gathered]).sum(0) / self.needed
        else:
            self.gathered = [push]
            gradient = push.gradient
        self.rule.step(self.values, gradient, lr, staleness)
        for done in self.gathered:
            self.ledger[done.replica] = done.sequence
            self.batches += done.batches
            self.staleness[staleness] += 1
        self.gathered = []
        self.version += 1

    # As a checkpoint keeps it. What is held or gathered is not in it: replicas send it again.

    def state(self) -> dict[str, Tensor]:
        ledger = torch.tensor(sorted(self.ledger.items()), dtype=torch.int64).view(-1, 2)
        staleness = torch.tensor(sorted(self.staleness.items()), dtype=torch.int64).view(-1, 2)
        counts = torch.tensor([self.version, self.batches, self.dropped])
        kept = {"values": self.values, "counts": counts, "ledger": ledger, "staleness": staleness}
        return {name: value.clone() for name, value in kept.items()} | {
            f"rule.{name}": value.clone() for name, value in self.rule.state.items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self.values.copy_(state["values"])
        self.version, self.batches, self.dropped = (int(count) for count in state["counts"])
        self.ledger = {int(replica): int(sequence) for replica, sequence in state["ledger"]}
        self.staleness = Counter({int(staleness): int(count) for staleness, count in state["staleness"]})
        self.held, self.gathered = deque(), []
        self.rule.state = {
            name.removeprefix("rule."): value.clone() for name, value in state.items() if name.startswith("rule.")
        }
