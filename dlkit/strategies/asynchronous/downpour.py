"""Downpour SGD, and what came of it: elastic averaging, and workers that are spare."""

from collections.abc import Callable
from dataclasses import dataclass

from dlkit.strategies.asynchronous.client import Member
from dlkit.strategies.asynchronous.elastic import ElasticReplica
from dlkit.strategies.asynchronous.replica import Parameters, Replica, refuse_optimizer_state
from dlkit.strategies.asynchronous.rules import Adagrad, Plain, Rule
from dlkit.strategies.asynchronous.under_torchrun import OnRanks
from dlkit.strategies.asynchronous.with_servers import Roles
from dlkit.training.run import Run
from dlkit.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True, repr=False)
class Downpour(OnRanks):
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


@dataclass(frozen=True, kw_only=True, repr=False)
class ElasticAveraging(OnRanks):
    """Each replica trains by itself; every so many batches it and a centre are drawn towards each other.

    every: after how many batches. pull: by how much of their distance, at most 1 over the number of replicas, so that
    the centre stays among them. The experiment's momentum is each replica's own, as torch's SGD has it.
    Source: Zhang, Choromanska, LeCun 2015, Deep learning with elastic averaging SGD, Algorithm 1, whose form with
    momentum has Nesterov's.
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


@dataclass(frozen=True, kw_only=True, repr=False)
class BackupWorkers(OnRanks):
    """Synchronous SGD that waits for the first `n` gradients of a version and drops those of the `b` slowest replicas.

    Source: Chen, Pan, Monga, Bengio, Jozefowicz 2016, Revisiting distributed synchronous SGD.
    """

    n: int
    b: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.n < 1 or self.b < 0:
            raise ValueError(f"n={self.n}, b={self.b}: at least 1 gradient a step, and no fewer than 0 spare replicas.")

    @property
    def waits(self) -> bool:
        return True

    @property
    def newer(self) -> bool:
        return True

    @property
    def needed(self) -> int:
        return self.n

    def roles(self, world_size: int) -> Roles:
        roles = super().roles(world_size)
        if len(roles.replicas) != self.n + self.b:
            raise ValueError(
                f"{self.n} + {self.b} workers, and {len(roles.replicas)} replicas: start "
                f"{(self.n + self.b) * self.partitions + (0 if self.share else self.servers)} engines."
            )
        return roles
