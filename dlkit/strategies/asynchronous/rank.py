"""What one rank of an asynchronous run does: it serves values, or learns, or both."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.recorder import Recorder, Span, now
from dlkit.strategies.asynchronous.client import Client, Member
from dlkit.strategies.asynchronous.lines import Talk
from dlkit.strategies.asynchronous.record import Row
from dlkit.strategies.asynchronous.replica import Parameters, Replica
from dlkit.strategies.asynchronous.server import Plan, Server
from dlkit.strategies.asynchronous.serving import Serving
from dlkit.strategies.asynchronous.wiring import Wiring
from dlkit.strategies.asynchronous.with_servers import Roles, WithServers
from dlkit.strategies.tensor.tensor_parallel import TensorParallel
from dlkit.training.checkpoint import fingerprint
from dlkit.training.experiment import Experiment
from dlkit.training.history import Row as HistoryRow
from dlkit.training.run import Run


@dataclass(frozen=True)
class Task:
    """What all ranks of a run are told.

    folder: where servers keep what they need to come back, and the record; None keeps nothing. steps: batches of all
    replicas together; None for the experiment's epochs.
    """

    experiment: Experiment
    strategy: WithServers
    roles: Roles
    wiring: Wiring
    steps: int | None = None
    folder: Path | None = None
    checkpoint_every: int | None = None


@dataclass(frozen=True)
class ServerResult:
    """What a server has in the end."""

    number: int
    values: Tensor
    rows: list[HistoryRow]
    record: list[Row]
    staleness: Counter[int]
    updates: int
    batches: int
    epoch: float
    dropped: int
    stopped: str | None
    refused: int


@dataclass
class RankResult:
    """What a rank has done. batches: that its replica has learnt from. spans: its steps, and its waits between them."""

    servers: list[ServerResult] = field(default_factory=list)
    batches: int = 0
    bytes_sent: int = 0
    memory_bytes: int = 0
    spans: list[Span] = field(default_factory=list)
    threads: int = 1
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        served = f"{len(self.servers)} servers, " if self.servers else ""
        return f"RankResult({served}{self.batches:,} batches, {self.bytes_sent:,} bytes sent)"


def run_rank(
    task: Task,
    rank: int,
    number: int | None,
    ended: Callable[[], object],
    asked: Callable[[], bool],
    device: torch.device,
) -> RankResult:
    """Take this rank's part of the run, to its end, or until `asked`.

    number: of this rank's replica among all that have begun; None if it has none. ended: called when a replica that
    this rank leads learns no more.
    """
    strategy, roles = task.strategy, task.roles
    split = TensorParallel() if strategy.partitions > 1 and number is not None else None
    run = Run(task.experiment, task.steps, device, None, split, capture=False)
    parameters = Parameters(run)
    plan = strategy.plan(run, parameters, len(roles.replicas), task.checkpoint_every)
    initial = parameters.get()
    result = RankResult(threads=torch.get_num_threads(), fingerprint=fingerprint(run))
    servers = [Server(plan, server, initial, task.folder) for server in roles.servers_of(rank)]
    serving = [Serving(task.wiring, server.number, server) for server in servers]

    def over() -> bool:
        for each in serving:
            each.check()
        return asked()

    try:
        part = roles.member_of(rank)
        if number is not None and part is not None:
            member = Member(number, part, len(roles.replicas))
            replica = strategy.replica(run, parameters, member)
            learn = Learning(task, plan, replica, over)
            if run.shard.rank:
                learn.follow()
            else:
                try:
                    learn.lead()
                finally:
                    ended()
            result.batches, result.bytes_sent = replica.steps, learn.bytes_sent
            result.memory_bytes, result.spans = run.memory_bytes, list(learn.recorder.spans)
        for each in serving:
            each.wait()
    finally:
        for each in serving:
            each.close()
        for server in servers:
            server.record.close()
    result.servers = [result_of(server, each.socket.refused) for server, each in zip(servers, serving, strict=True)]
    kept = [value for server in servers for value in (server.shard.values, *server.shard.rule.state.values())]
    result.memory_bytes += sum(value.nbytes for value in kept)
    result.bytes_sent += sum(each.socket.bytes_sent for each in serving)
    return result


def result_of(server: Server, refused: int) -> ServerResult:
    shard = server.shard
    return ServerResult(
        server.number,
        shard.values.clone(),
        server.rows,
        server.record.rows,
        shard.staleness,
        shard.version,
        shard.batches,
        server.epoch,
        shard.dropped,
        server.stopped,
        refused,
    )


class Learning:
    """A replica that learns until the servers say that the run is over. Of one that is split, the first rank talks."""

    def __init__(self, task: Task, plan: Plan, replica: Replica, asked: Callable[[], bool]):
        self.task, self.plan, self.replica, self.asked = task, plan, replica, asked
        self.recorder = Recorder()
        self.bytes_sent = 0

    def __repr__(self) -> str:
        return f"Learning({self.replica})"

    def lead(self) -> None:
        """Talk with the servers, and learn."""
        replica, strategy = self.replica, self.task.strategy
        client = Client(replica.member, self.plan.parts, replica.parameters.dtype)
        talk = Talk(client, self.task.wiring)
        try:
            with talk.changed:
                client.start_fetch()
                talk.wake()
                talk.wait(lambda: client.has_fetched or self._over(client))
            while not self._over(client):
                due = (replica.steps + 1) % strategy.fetch_every == 0
                with talk.changed:
                    fetched = client.take(replica.steps + 1)
                    if due and not strategy.waits:
                        client.start_fetch()
                        talk.wake()
                contribution = self._step(fetched)
                waited = now()
                with talk.changed:
                    if contribution is not None:
                        client.push(contribution)
                    if due and strategy.waits:
                        client.start_fetch(newer=strategy.newer)
                    talk.wake()
                    talk.wait(lambda: self._may_go_on(client))
                self.recorder.add(Span("exchange", "wait", waited, now(), f"replica {replica.member.part}"))
            self._tell_followers(None, goes_on=False)
        finally:
            talk.close()
            self.bytes_sent = client.bytes_sent

    def _may_go_on(self, client: Client) -> bool:
        ready = client.may_push and not (self.task.strategy.waits and client.fetching)
        return ready or self._over(client)

    def _over(self, client: Client) -> bool:
        return client.done or self.asked()

    def _step(self, fetched: Tensor | None) -> Any:
        begin = now()
        self._tell_followers(fetched, goes_on=True)
        contribution = self.replica.step(fetched)
        self.recorder.add(Span("step", "step", begin, now(), number=self.replica.steps))
        return contribution

    # A replica that is split.

    def _tell_followers(self, fetched: Tensor | None, *, goes_on: bool) -> None:
        shard: Any = self.replica.run.shard
        if shard.world_size > 1:
            shard.group.broadcast(torch.tensor([goes_on, fetched is not None], dtype=torch.float32))
            if fetched is not None:
                shard.group.broadcast(fetched)

    def follow(self) -> None:
        """Compute with the first rank, as it says."""
        replica, group = self.replica, self.replica.run.shard.group  # type: ignore[attr-defined]
        while True:
            told = torch.empty(2)
            group.broadcast(told)
            if not told[0]:
                return
            fetched = None
            if told[1]:
                fetched = torch.empty(replica.parameters.count, dtype=replica.parameters.dtype)
                group.broadcast(fetched)
            begin = now()
            replica.step(fetched)
            self.recorder.add(Span("step", "step", begin, now(), number=replica.steps))
