"""An asynchronous run again, from its record, in one process: each gradient at the values at which it was computed."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dlkit.strategies.asynchronous.client import Contribution, Member
from dlkit.strategies.asynchronous.parameter_shard import ParameterShard, Push
from dlkit.strategies.asynchronous.record import Kind, Record, Row
from dlkit.strategies.asynchronous.replica import Parameters, Replica
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.strategies.tensor.tensor_parallel import TensorParallel
from dlkit.training.checkpoint import difference, fingerprint
from dlkit.training.experiment import Experiment
from dlkit.training.run import Run
from dlkit.training.schedules import at

Moment = tuple[int, int, int]  # a server, its life, its version


class Replayed(NamedTuple):
    """What a replay comes to. values: of the servers."""

    values: Tensor
    staleness: Counter[int]
    step: int
    updates: int
    dropped: int


def refuse_another(experiment: Run, made_by: dict[str, Any]) -> None:
    """ValueError unless this is a run of the experiment with that fingerprint."""
    if found := difference(fingerprint(experiment), made_by):
        raise ValueError(
            f"this record is of another experiment ({found}): replay it with the experiment that it was made by."
        )


def replay_on_ranks(*arguments: Any) -> Replayed:
    """`replay` by all ranks of a process group, as many as a replica was split over: replicas are split so again."""
    return replay(*arguments, split=True)


def replay(
    record: Record,
    strategy: WithServers,
    experiment: Experiment,
    steps: int,
    threads: int,
    *,
    split: bool = False,
    progress: bool = False,
) -> Replayed:
    """Go through a record. steps: batches in all. threads: of torch, on which the sums of a product depend.

    ValueError if the record is not whole.
    """
    parts = TensorParallel() if split and strategy.partitions > 1 else None
    own = Run(experiment, steps or None, torch.device("cpu"), None, parts, capture=False)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return Replay(record, strategy, own, progress).made()
    finally:
        torch.set_num_threads(before)


class Replay:
    """Goes through the servers' rows, each as far as what it waits for has been computed."""

    def __init__(self, record: Record, strategy: WithServers, own: Run, progress: bool):
        self.record, self.strategy, self.run, self.progress = record, strategy, own, progress
        self.parameters = Parameters(own)
        self.initial = self.parameters.get()
        replicas = 1 + max((row.who for rows in record.servers for row in rows if row.kind == Kind.JOIN), default=0)
        self.plan = strategy.plan(own, self.parameters, replicas, None)
        self.shards = [self._new_shard(number) for number in range(len(record.servers))]
        self.lives = [-1] * len(self.shards)
        # What replicas did, by replica: the moments of the values installed at a step; and the step of each push.
        self.installs: dict[int, dict[int, dict[int, Moment]]] = {}
        self.replicas: dict[int, Replica] = {}
        self.uses: Counter[Moment] = Counter()
        self.resumed = Counter[Moment]()
        self.push_uses: Counter[tuple[int, int]] = Counter()
        for number, rows in enumerate(record.servers):
            for row in rows:
                self._note(number, row)
        self.values: dict[Moment, Tensor] = {}
        self.states: dict[Moment, dict[str, Tensor]] = {}
        self.pushes: dict[tuple[int, int], tuple[Contribution, list[tuple[int, int]]]] = {}
        self.sequences: Counter[int] = Counter()
        self.installed: dict[int, list[tuple[int, int]]] = {}

    def __repr__(self) -> str:
        return f"Replay({self.record})"

    def _new_shard(self, number: int) -> ParameterShard:
        part, plan = self.plan.parts[number], self.plan
        return ParameterShard(self.initial[part.start : part.stop], plan.rule(), hold=plan.hold, needed=plan.needed)

    def _note(self, number: int, row: Row) -> None:
        if row.kind == Kind.INSTALL:
            moment = (row.b, row.c, row.d)
            at_step = self.installs.setdefault(row.who, {}).setdefault(row.a, {})
            if row.b not in at_step:
                self.uses[moment] += 1
            at_step[row.b] = moment
        elif row.kind == Kind.JOIN and row.who not in self.replicas:
            member = Member(row.who, row.a, row.b)
            self.replicas[row.who] = self.strategy.replica(self.run, self.parameters, member)
        elif row.kind == Kind.PUSH:
            self.push_uses[row.who, row.a] += 1
        elif row.kind == Kind.BEGIN and row.a >= 0:
            self.resumed[number, row.a, row.b] += 1

    def made(self) -> Replayed:
        waiting = [list(reversed(rows)) for rows in self.record.servers]
        total = sum(map(len, waiting))
        with tqdm(total=total, disable=not self.progress, unit="row", delay=1) as bar:
            while any(waiting):
                moved = 0
                for number, rows in enumerate(waiting):
                    while rows and self._apply(number, rows[-1]):
                        rows.pop()
                        moved += 1
                bar.update(moved)
                if not moved:
                    raise ValueError("the record is not whole: a push was computed with values that no server had.")
        return self._result()

    def _apply(self, number: int, row: Row) -> bool:
        """Do what the row says; False if it has to wait for another server's rows."""
        shard = self.shards[number]
        if row.kind == Kind.BEGIN:
            fresh = self._new_shard(number)
            if row.a >= 0:
                fresh.load(self.states[number, row.a, row.b])
            self.shards[number], self.lives[number] = fresh, row.who
            self._keep(number)
        elif row.kind == Kind.PUSH:
            made = self._pushed(row.who, row.a)
            if made is None:
                return False
            contribution, computed_at = made
            part, (life, version) = self.plan.parts[number], computed_at[number]
            if life != self.lives[number]:
                version = min(version, shard.version)
            values = contribution.values[part.start : part.stop]
            before = shard.version
            epoch = shard.batches * self.plan.batch_size / self.plan.images
            shard.push(Push(row.who, row.a, version, values, contribution.batches), at(self.plan.lr, epoch))
            if shard.version > before:
                self._keep(number)
            self.push_uses[row.who, row.a] -= 1
            if not self.push_uses[row.who, row.a]:
                del self.pushes[row.who, row.a]
        return True

    def _keep(self, number: int) -> None:
        """Keep the values, or the state, of this moment if they are asked for later."""
        moment = (number, self.lives[number], self.shards[number].version)
        if self.uses[moment]:
            self.values[moment] = self.shards[number].values.clone()
        if self.resumed[moment]:
            self.states[moment] = self.shards[number].state()

    def _pushed(self, who: int, sequence: int) -> tuple[Contribution, list[tuple[int, int]]] | None:
        """A replica's push; None if values that it needs are not there yet."""
        replica, installs = self.replicas[who], self.installs[who]
        while self.sequences[who] < sequence:
            moments = installs.get(replica.steps + 1, {})
            if any(moment not in self.values for moment in moments.values()):
                return None
            fetched = None
            if moments:
                fetched = torch.cat([self.values[moments[number]] for number in range(len(self.shards))])
                self.installed[who] = [moments[number][1:] for number in range(len(self.shards))]
                for moment in moments.values():
                    self.uses[moment] -= 1
                    if not self.uses[moment]:
                        del self.values[moment]
            contribution = replica.step(fetched)
            if contribution is not None:
                self.sequences[who] += 1
                self.pushes[who, self.sequences[who]] = contribution, self.installed[who]
        return self.pushes[who, sequence]

    def _result(self) -> Replayed:
        values, first = torch.cat([shard.values for shard in self.shards]), self.shards[0]
        return Replayed(values, first.staleness, first.batches, first.version, first.dropped)
