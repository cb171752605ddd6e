"""What a parameter server keeps of its part of a model's parameters: values, and a ledger of the gradients applied."""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from dlkit.strategies.asynchronous.rules import Rule


class Push(NamedTuple):
    """A replica's gradient of a shard's values, as it was computed at `version` of them.

    sequence: the replica's pushes, counted from 1.
    """

    replica: int
    sequence: int
    version: int
    gradient: Tensor


class ParameterShard:
    """`values`, of one dimension, and their `version`: how many gradients have been applied.

    `ledger`: of each replica the sequence number of its last push. Pushes of a replica arrive in order, so that one
    number says of each of them whether it has been applied: it is applied once or, where it is lost, not at all.
    `staleness`: of how many gradients each staleness was, that is, how many were applied since their values were
    fetched.
    """

    def __init__(self, values: Tensor, rule: Rule):
        self.values, self.rule = values.detach().clone(), rule
        self.version = 0
        self.ledger: dict[int, int] = {}
        self.staleness: Counter[int] = Counter()

    def __repr__(self) -> str:
        replicas = f"{len(self.ledger)} replicas" if self.ledger else "no replica yet"
        return f"ParameterShard({len(self.values):,} values, version {self.version}, {replicas})"

    def fetch(self) -> tuple[int, Tensor]:
        """The version, and the values, as they are now."""
        return self.version, self.values.clone()

    def push(self, push: Push, lr: float) -> bool:
        """Apply the gradient, and say so; False if it is applied already. ValueError for one that cannot be."""
        if push.gradient.shape != self.values.shape or push.gradient.dtype != self.values.dtype:
            raise ValueError(
                f"replica {push.replica} sent {tuple(push.gradient.shape)} numbers of {push.gradient.dtype} to a shard "
                f"of {tuple(self.values.shape)} of {self.values.dtype}: its net is another one."
            )
        if not 0 <= push.version <= self.version:
            raise ValueError(
                f"replica {push.replica} sent a gradient of version {push.version}, and there are {self.version}: it "
                "has fetched from another run."
            )
        if push.sequence <= self.ledger.get(push.replica, 0):
            return False
        staleness = self.version - push.version
        self.rule.step(self.values, push.gradient, lr, staleness)
        self.ledger[push.replica] = push.sequence
        self.staleness[staleness] += 1
        self.version += 1
        return True

    # As a checkpoint keeps it.

    def state(self) -> dict[str, Tensor]:
        ledger = torch.tensor(sorted(self.ledger.items()), dtype=torch.int64).view(-1, 2)
        staleness = torch.tensor(sorted(self.staleness.items()), dtype=torch.int64).view(-1, 2)
        kept = {"values": self.values, "version": torch.tensor(self.version), "ledger": ledger, "staleness": staleness}
        return {name: value.clone() for name, value in kept.items()} | {
            f"rule.{name}": value.clone() for name, value in self.rule.state.items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self.values.copy_(state["values"])
        self.version = int(state["version"])
        self.ledger = {int(replica): int(sequence) for replica, sequence in state["ledger"]}
        self.staleness = Counter({int(staleness): int(count) for staleness, count in state["staleness"]})
        self.rule.state.update(
            {name.removeprefix("rule."): value.clone() for name, value in state.items() if name.startswith("rule.")}
        )
