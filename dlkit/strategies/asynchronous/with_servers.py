"""What strategies with parameter servers have in common: which ranks serve, which learn, and what is refused.

A strategy says what replicas push, when they fetch, and what servers do with it; how it is carried out is not here.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

from dlkit.strategies.asynchronous.client import Member
from dlkit.strategies.asynchronous.replica import Parameters, Replica, refuse_optimizer_state
from dlkit.strategies.asynchronous.rules import Plain, Rule
from dlkit.strategies.asynchronous.server import Plan, split_values
from dlkit.training.run import Run
from dlkit.training.schedules import Schedule


@dataclass(frozen=True)
class Roles:
    """Which ranks do what. servers: the rank of each. replicas: the ranks of each, the first of which leads."""

    servers: tuple[int, ...]
    replicas: tuple[tuple[int, ...], ...]

    def servers_of(self, rank: int) -> list[int]:
        """The servers that this rank holds."""
        return [number for number, place in enumerate(self.servers) if place == rank]

    def member_of(self, rank: int) -> int | None:
        """The replica that this rank is of."""
        return next((number for number, ranks in enumerate(self.replicas) if rank in ranks), None)


@dataclass(frozen=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}
        return f"{type(self).__name__}({', '.join(f'{name}={told(value)}' for name, value in given.items())})"

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

    @property
    def hold(self) -> int:
        """How many pushes a server holds back."""
        return 0

    @property
    def needed(self) -> int:
        """How many gradients make a step."""
        return 1

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
            replicas=replicas,
        )


def told(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)
