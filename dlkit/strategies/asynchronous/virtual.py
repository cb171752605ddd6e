"""Replicas and servers in one process and in simulated time: the same that run on engines, with messages by hand."""

import copy
import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch

from dlkit.strategies.asynchronous.asynchronous_run import AsynchronousRun
from dlkit.strategies.asynchronous.client import SILENCE, Client, Contribution, Member
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.record import Record
from dlkit.strategies.asynchronous.replica import Parameters, Replica, take_values
from dlkit.strategies.asynchronous.server import Server
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.checkpoint import fingerprint
from dlkit.training.experiment import Experiment
from dlkit.training.history import History, add_columns
from dlkit.training.run import Run

HANGS = 1000  # looks at all, between which no server has moved its values
SPREAD = 0.1  # of the time that a batch takes, relative

Duration = Callable[[int], float]  # of a replica's next batch, by the part of the data that it has


def durations(seed: int = 0, slowed: dict[int, float] | None = None) -> Duration:
    """Times with a mean of 1, or of `slowed[part]`, and a deviation of a tenth of that; the first ends at any time."""
    generator = torch.Generator().manual_seed(seed)
    slowed, begun = slowed or {}, set[int]()

    def drawn(part: int) -> float:
        time = max(1 + SPREAD * float(torch.randn((), generator=generator, dtype=torch.float64)), SPREAD)
        if part not in begun:
            begun.add(part)
            time *= float(torch.rand((), generator=generator))
        return time * slowed.get(part, 1.0)

    return drawn


class VirtualReplica:
    """A replica, its client, and the batch that it is at."""

    def __init__(self, replica: Replica, client: Client):
        self.replica, self.client = replica, client
        self.computed: Contribution | None = None
        self.busy = self.begun = False

    def __repr__(self) -> str:
        return f"VirtualReplica({self.replica}, {'busy' if self.busy else 'waits'})"


class Simulation:
    """A run by `replicas` replicas. `train` makes it; meanwhile replicas and servers can be killed.

    folder: where servers keep their record and checkpoints; by default they keep none. latency: of a message, where a
    batch takes 1. service: for how long a fetch or a push of all values keeps its servers busy, each with its part, one
    after the other. now: the time.
    """

    def __init__(
        self,
        experiment: Experiment,
        strategy: WithServers,
        replicas: int,
        *,
        batches: int | None = None,
        duration: Duration | None = None,
        latency: float = 0.0,
        service: float = 0.0,
        folder: Path | None = None,
        checkpoint_every: int | None = None,
    ):
        """ValueError for an optimizer with state of its own, for parts of the data without a batch, and as a plan's."""
        self.experiment, self.strategy, self.parts = experiment, strategy, replicas
        if replicas < 1:
            raise ValueError(f"{replicas} replicas: at least 1.")
        self.run = Run(experiment, batches, torch.device("cpu"), None, capture=False)
        self.parameters = Parameters(self.run)
        self.plan = strategy.plan(self.run, self.parameters, replicas, checkpoint_every)
        self.initial = self.parameters.get()
        self.folder, self.latency, self.service = folder, latency, service / strategy.servers
        self._free = [0.0] * strategy.servers  # when each has done what is there for it
        self.duration = duration or durations(experiment.seed)
        self.now = 0.0
        self.faults: list[str] = []
        self.servers: list[Server | None] = [
            Server(self.plan, n, self.initial, folder) for n in range(strategy.servers)
        ]
        self.replicas: dict[int, VirtualReplica] = {}
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        for part in range(replicas):
            self.join(part)

    def __repr__(self) -> str:
        return f"Simulation({self.strategy}, {len(self.replicas)} replicas, at {self.now:.2f})"

    # What happens.

    def _clock(self) -> float:
        return self.now

    def at(self, time: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happens))

    def join(self, part: int) -> None:
        """A replica begins, with this part of the data."""
        member = Member(next(self._numbers), part, self.parts)
        replica = self.strategy.replica(self.run, self.parameters, member)
        own = VirtualReplica(replica, Client(member, self.plan.parts, self.parameters.dtype))
        self.replicas[member.number] = own
        own.client.start_fetch()
        self._look(own)

    def kill_replica(self, number: int) -> None:
        """What it has sent arrives, what it computes is lost."""
        del self.replicas[number]
        self.faults.append(f"replica {number} was killed at {self.now:.2f}")

    def kill_server(self, number: int, back_at: float) -> None:
        """It is gone, with all messages to it, until it comes back with what is on disk."""
        self.servers[number] = None
        self.faults.append(f"server {number} was killed at {self.now:.2f}")

        def back() -> None:
            self.servers[number] = Server(self.plan, number, self.initial, self.folder, self._clock)

        self.at(back_at, back)

    def _look(self, own: VirtualReplica) -> None:
        """Send what a replica has to say, now and whenever it has heard nothing for a while; let it begin its next
        batch if it can.
        """
        if self.replicas.get(own.replica.member.number) is not own:
            return
        self._send(own)
        client, replica = own.client, own.replica
        if own.busy or client.done:
            return
        ready = client.may_push and not (self.strategy.waits and client.fetching)
        if not ready or not (own.begun or client.has_fetched):
            return
        own.begun = own.busy = True
        own.computed = replica.step(client.take(replica.steps + 1))
        if replica.steps % self.strategy.fetch_every == 0 and not self.strategy.waits:
            client.start_fetch()
        self._send(own)
        self.at(self.now + self.duration(replica.member.part), lambda: self._finish(own))

    def _finish(self, own: VirtualReplica) -> None:
        own.busy = False
        if own.computed is not None:
            own.client.push(own.computed)
        if own.replica.steps % self.strategy.fetch_every == 0 and self.strategy.waits:
            own.client.start_fetch(newer=self.strategy.newer)
        self._look(own)

    def _send(self, own: VirtualReplica) -> None:
        for number, message in own.client.outgoing(self.now):
            busy = self.service if message.kind in ("fetch", "push") else 0.0
            self._free[number] = max(self.now + self.latency, self._free[number]) + busy
            self.at(self._free[number], self._arrival(own, number, message))

    def _arrival(self, own: VirtualReplica, number: int, message: Message) -> Callable[[], None]:
        def arrive() -> None:
            server = self.servers[number]
            if server is None:
                return
            for to, answer in server.handle(own, message):
                if answer.values is not None:
                    answer = answer._replace(values=answer.values.clone())
                self.at(self.now + self.latency, self._answer(to, number, answer))

        return arrive

    def _answer(self, own: VirtualReplica, number: int, answer: Message) -> Callable[[], None]:
        def arrive() -> None:
            if self.replicas.get(own.replica.member.number) is own:
                own.client.receive(number, answer, self.now)
                self._look(own)

        return arrive

    def _ticks(self) -> Iterator[None]:
        """Each event; and now and then a look at all, for messages that were lost."""
        tick, idle, before = self.now + SILENCE, 0, -1
        while self.replicas or self._events:
            if not self._events or self._events[0][0] > tick:
                versions = sum(server.shard.version for server in self.servers if server is not None)
                idle, before = idle + 1 if versions == before else 0, versions
                self.now, tick = tick, tick + SILENCE
                for own in list(self.replicas.values()):
                    self._look(own)
                if idle > HANGS:
                    raise RuntimeError(f"nothing has happened for {HANGS * SILENCE:.0f} batches' time: {self}.")
            else:
                self.now, _, happens = heapq.heappop(self._events)
                happens()
            yield

    # The run.

    def train(
        self,
        callbacks: Sequence[Callable[[Any], dict[str, float] | None]] = (),
        on_event: Callable[["Simulation"], object] = lambda simulation: None,
        stop: threading.Event | None = None,
    ) -> AsynchronousRun:
        """To its end, or until `stop` is set. Callbacks see the run at each row of the history, with the servers'
        values; `on_event` sees this simulation after each event.
        """
        history, shown = History(), 0
        for _ in self._ticks():
            on_event(self)
            if stop is not None and stop.is_set():
                for server in self.servers:
                    if server is not None:
                        server.stopped = server.stopped or "stopped"
            first = self.servers[0]
            while first is not None and shown < len(first.rows):
                row = dict(first.rows[shown])
                shown += 1
                history.append(row)
                if callbacks:
                    add_columns(row, callbacks, self._result(history))
            if all(server is not None and server.done for server in self.servers):
                break
        self._events.clear()  # which hold this simulation, and all of its data
        return self._result(history)

    def _result(self, history: History) -> AsynchronousRun:
        servers = [server for server in self.servers if server is not None]
        values = torch.cat([server.shard.values for server in servers])
        if len(servers) < len(self.servers):
            values = self.initial  # of a moment at which one is away
        model: Any = copy.deepcopy(take_values(self.run, self.parameters, values))
        first = servers[0]
        return AsynchronousRun(
            self.experiment,
            self.strategy,
            model,
            history,
            Record([server.record.rows for server in servers]),
            first.shard.staleness,
            first.shard.batches,
            first.shard.version,
            first.epoch,
            seconds=self.now,
            stopped=first.stopped,
            dropped=first.shard.dropped,
            faults=self.faults,
            threads=torch.get_num_threads(),
            fingerprint=fingerprint(self.run),
        )


def train_virtually(
    experiment: Experiment,
    strategy: WithServers,
    replicas: int,
    *,
    batches: int | None = None,
    slowed: dict[int, float] | None = None,
    latency: float = 0.0,
    service: float = 0.0,
    callbacks: Sequence[Callable[[Any], dict[str, float] | None]] = (),
    stop: threading.Event | None = None,
) -> AsynchronousRun:
    """The experiment by `replicas` replicas in simulated time, in which a batch takes 1.

    batches: by default the experiment's epochs. slowed: how many times as long a replica's batches take. latency: of a
    message. service: for how long a fetch or a push of all values keeps servers busy. stop: ends it early once it is
    set.
    """
    duration = durations(experiment.seed, slowed)
    simulation = Simulation(
        experiment, strategy, replicas, batches=batches, duration=duration, latency=latency, service=service
    )
    return simulation.train(callbacks, stop=stop)
