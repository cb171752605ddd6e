"""Training with parameter servers: replicas fetch values, learn from their own data, and push; none waits for another.

A strategy says what replicas push, when they fetch, and what servers do with it; how it is carried out is not here.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from dlkit.strategies.asynchronous.client import Member
from dlkit.strategies.asynchronous.elastic import ElasticReplica
from dlkit.strategies.asynchronous.replica import Parameters, Replica, refuse_optimizer_state
from dlkit.strategies.asynchronous.rules import Adagrad, Plain, Rule
from dlkit.strategies.asynchronous.server import Plan, split_values
from dlkit.training.run import Run
from dlkit.training.schedules import Schedule


@dataclass(frozen=True)
class Roles:
    """Which ranks do what. servers: the rank of each. replicas: the ranks of each, the first of which leads."""

    servers: tuple[int, ...]
    replicas: tuple[tuple[int, ...], ...]

    def member_of(self, rank: int) -> int | None:
        """The replica that this rank is of."""
        return next((number for number, ranks in enumerate(self.replicas) if rank in ranks), None)


@dataclass(frozen=True, kw_only=True)
class WithServers:
    """What all these strategies have.

    servers: over how many engines the parameters are cut. share: whether these engines also hold replicas; else they
    are apart, and the other engines hold the replicas. partitions: over how many engines a replica is split, by
    neurons. warm_start: how many batches the first replica learns from before the others begin. revive: whether an
    engine that dies is started afresh.
    """

    servers: int = 1
    share: bool = False
    partitions: int = 1
    warm_start: int = 0
    revive: bool = True

    def __post_init__(self):
        least = {"servers": 1, "partitions": 1, "fetch": 1, "push": 1, "every": 1, "warm_start": 0, "staleness": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in least and (not isinstance(value, int) or value < least[field.name]):
                raise ValueError(f"{field.name}={value!r}: a whole number, at least {least[field.name]}.")

    # What replicas and servers do.

    @property
    def fetch_every(self) -> int:
        """After how many steps a replica fetches."""
        return 1

    @property
    def waits(self) -> bool:
        """Whether a replica waits for what it fetches, else it goes on with what it has meanwhile."""
        return False

    @property
    def newer(self) -> bool:
        """Whether what it fetches must be newer than what it has."""
        return False

    hold = property(lambda self: 0)
    needed = property(lambda self: 1)

    def server_rule(self) -> Callable[[], Rule]:
        return Plain

    def server_rate(self, lr: float | Schedule) -> float | Schedule:
        return lr

    def check(self, run: Run) -> None:
        """ValueError for an optimizer with state of its own: servers take the steps."""
        refuse_optimizer_state(run.experiment, run.optimizer)

    def replica(self, run: Run, parameters: Parameters, member: Member) -> Replica:
        return Replica(run, parameters, member)

    # How a run is laid out.

    def roles(self, world_size: int) -> Roles:
        """ValueError if there are too few ranks."""
        name, taken = type(self).__name__, 0 if self.share else self.servers
        if self.servers > world_size:
            raise ValueError(f"{name}(servers={self.servers}) on {world_size} engines: take fewer servers.")
        if world_size - taken < self.partitions:
            mend = "take fewer servers, share=True" if taken else "take fewer partitions"
            raise ValueError(
                f"{self.servers} servers of {world_size} engines leave {world_size - taken} for replicas of "
                f"{self.partitions}: {mend}, or start a larger cluster."
            )
        if over := (world_size - taken) % self.partitions:
            raise ValueError(
                f"{world_size - taken} engines for replicas of {self.partitions} leave {over} with nothing to do: "
                f"start {world_size - over} engines, or take other partitions."
            )
        ranks = range(taken, world_size)
        groups = [tuple(ranks[at : at + self.partitions]) for at in range(0, len(ranks), self.partitions)]
        return Roles(tuple(range(self.servers)), tuple(groups))

    def plan(self, run: Run, parameters: Parameters, replicas: int, checkpoint_every: int | None) -> Plan:
        """ValueError for more servers than values, and for what the data cannot fill."""
        experiment, total = run.experiment, run.total_steps
        self.check(run)
        if parameters.count < self.servers:
            raise ValueError(f"{parameters.count} parameters on {self.servers} servers: take fewer servers.")
        for what, count in (("staleness", self.hold), ("warm_start", self.warm_start)):
            if count >= total:
                raise ValueError(
                    f"{what}={count} in a run of {total} batches: nothing would be learnt after it; train for more "
                    f"epochs, or make {what} smaller."
                )
        if self.needed > replicas:
            raise ValueError(f"{self.needed} gradients a step and {replicas} replicas: start a larger cluster.")
        return Plan(
            parts=split_values(parameters.count, self.servers),
            rule=self.server_rule(),
            lr=self.server_rate(experiment.lr),
            batches=total,
            batch_size=experiment.batch_size,
            images=len(run.data.images),
            row_every=experiment.row_every or run.steps_per_epoch,
            hold=self.hold,
            needed=self.needed,
            warm_start=self.warm_start,
            checkpoint_every=checkpoint_every or 100,
        )


@dataclass(frozen=True, kw_only=True)
class Downpour(WithServers):
    """Asynchronous SGD: replicas push gradients to servers, which apply each as it comes, however stale.

    fetch, push: after how many batches a replica fetches values, and pushes the sum of its gradients.
    adagrad: let servers keep a rate for each parameter; else all have the experiment's. rule: another one in place of
    both, such as ByStaleness, or a Rule of your own. overlap: whether a replica computes while it fetches; else it
    waits, and one replica alone learns what one process does. staleness: hold so many pushes back before the oldest
    is applied. With `adagrad=False` and fetch above 1, replicas take steps of their own between.
    Source: Dean and others 2012, Large scale distributed deep networks, §4.1, and its supplement's algorithm.
    """

    fetch: int = 1
    push: int = 1
    adagrad: bool = True
    rule: Callable[[], Rule] | None = None
    overlap: bool = True
    staleness: int = 0

    @property
    def fetch_every(self) -> int:
        return self.fetch

    @property
    def waits(self) -> bool:
        return not self.overlap

    @property
    def hold(self) -> int:
        return self.staleness

    def server_rule(self) -> Callable[[], Rule]:
        return self.rule or (Adagrad if self.adagrad else Plain)

    def replica(self, run: Run, parameters: Parameters, member: Member) -> Replica:
        between = self.server_rule() is Plain and self.fetch > 1
        return Replica(run, parameters, member, push=self.push, between=between)


@dataclass(frozen=True, kw_only=True)
class ElasticAveraging(WithServers):
    """Each replica trains by itself; every so many batches it and a centre are drawn towards each other.

    every: after how many batches. pull: by how much of their distance, at most 1 over the number of replicas, so that
    the centre stays among them. The experiment's momentum is each replica's own.
    Source: Zhang, Choromanska, LeCun 2015, Deep learning with elastic averaging SGD, §3.1 (Algorithm 1; with momentum
    Algorithm 2).
    """

    every: int = 10
    pull: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.pull <= 1:
            raise ValueError(f"pull={self.pull}: above 0, and at most 1.")

    @property
    def fetch_every(self) -> int:
        return self.every

    def server_rate(self, lr: float | Schedule) -> float | Schedule:
        return 1.0  # what replicas push is the centre's move

    def check(self, run: Run) -> None:
        refuse_optimizer_state(run.experiment, run.optimizer, momentum=True)

    def replica(self, run: Run, parameters: Parameters, member: Member) -> Replica:
        return ElasticReplica(run, parameters, member, self.every, self.pull)


@dataclass(frozen=True, kw_only=True)
class BackupWorkers(WithServers):
    """Synchronous SGD that waits for the first `n` gradients of a version and drops those of the `b` slowest replicas.

    Source: Chen, Pan, Monga, Bengio, Jozefowicz 2016, Revisiting distributed synchronous SGD, §3 (Algorithms 3 and 4).
    """

    n: int
    b: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.n < 1 or self.b < 0:
            raise ValueError(f"n={self.n}, b={self.b}: at least 1 gradient a step, and no fewer than 0 spare replicas.")

    waits = property(lambda self: True)  # type: ignore[assignment]
    newer = property(lambda self: True)  # type: ignore[assignment]
    needed = property(lambda self: self.n)  # type: ignore[assignment]

    def roles(self, world_size: int) -> Roles:
        roles = super().roles(world_size)
        if len(roles.replicas) != self.n + self.b:
            raise ValueError(
                f"{self.n} + {self.b} workers, and {len(roles.replicas)} replicas: start "
                f"{(self.n + self.b) * self.partitions + (0 if self.share else self.servers)} engines."
            )
        return roles
