"""The result of an asynchronous run, which can be had again."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from dlkit.strategies.asynchronous.rank import RankResult, Task
from dlkit.strategies.asynchronous.record import Kind, Record
from dlkit.strategies.asynchronous.replay import refuse_another, replay, replay_on_ranks
from dlkit.strategies.asynchronous.replica import Parameters, take_values
from dlkit.strategies.asynchronous.with_servers import WithServers
from dlkit.training.experiment import Experiment
from dlkit.training.history import History
from dlkit.training.history import Row as HistoryRow
from dlkit.training.run import Run

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class AsynchronousRun(Generic[M]):
    """`model` has the servers' last values. `record` is what they did in which order.

    seconds: of training, by the first server's clock: from the first push on, without what the server was away.
    staleness: of how many pushes each was. updates: of the first server. step: batches learnt from. dropped: pushes
    that came too late to count. faults: a sentence for each engine that was lost, and for each that came.
    threads: of torch, on each replica. fingerprint: of the experiment.
    """

    experiment: Experiment[M]
    strategy: WithServers
    model: M
    history: History
    record: Record
    staleness: Counter[int]
    step: int
    updates: int
    epoch: float
    seconds: float = 0.0
    stopped: str | None = None
    dropped: int = 0
    faults: list[str] = field(default_factory=list)
    ranks: list[Any] = field(default_factory=list)
    threads: int = 1
    fingerprint: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        loss = f", loss {self.history['loss'][-1]:.4g}" if len(self.history) else ""
        end = f", stopped: {self.stopped}" if self.stopped else ""
        return (
            f"AsynchronousRun({type(self.model).__name__}, {self.strategy}, {self.replicas} replicas, {self.epoch:.4g} "
            f"epochs, {self.updates:,} updates, mean staleness {self.mean_staleness:.2f}{loss}, {self.seconds:.1f} s"
            f"{end})"
        )

    @property
    def replicas(self) -> int:
        """How many have pushed, those that came anew counted again."""
        return sum(row.kind == Kind.JOIN for row in self.record.servers[0])

    @property
    def throughput(self) -> float:
        """Images a second."""
        return self.step * self.experiment.batch_size / self.seconds if self.seconds else 0.0

    @property
    def mean_staleness(self) -> float:
        count = self.staleness.total()
        return sum(staleness * times for staleness, times in self.staleness.items()) / count if count else 0.0

    def replay(
        self,
        experiment: Experiment[M] | None = None,
        *,
        call: Callable[..., list[Any]] | None = None,
        progress: bool = True,
    ) -> "AsynchronousRun[M]":
        """The same run again, in this process, from its record: the same bits, where its replicas were not split.

        experiment: by default the run's. call: calls a function on as many ranks as each replica was split over, such
        as `cluster.call`: replicas that are split so again give the same bits too, and in one process nearly so.
        ValueError if the experiment is another one. UserWarning if the bits are others.
        """
        again = experiment or self.experiment
        run: Run = Run(again, self.step or None, torch.device("cpu"), None, capture=False)
        refuse_another(run, self.fingerprint)
        arguments = (self.record, self.strategy, again, self.step, self.threads)
        found = replay(*arguments, progress=progress) if call is None else call(replay_on_ranks, *arguments)[0]
        model = take_values(run, Parameters(run), found.values)
        there = dict(self.model.named_parameters())
        difference = max((p - there[name]).abs().max().item() for name, p in model.named_parameters())
        if difference > 0 and (self.strategy.partitions == 1 or call is not None):
            warnings.warn(
                f"the replay is not the run to the bit: they differ by {difference:.2g}. Another kind of processor "
                "rounds otherwise; or the record is of another run, or not whole.",
                stacklevel=2,
            )
        counts = {name: value for name, value in found._asdict().items() if name != "values"}
        return replace(self, model=model, **counts, ranks=[])


def collected(
    task: Task, run: Run, results: Sequence[RankResult], rows: list[HistoryRow], **told: Any
) -> AsynchronousRun:
    """The result of a run, from what its ranks did. rows: of the history, as callbacks left them."""
    servers = sorted((server for result in results for server in result.servers), key=lambda server: server.number)
    first, replica = servers[0], next((result for result in results if result.batches), results[0])
    stopped = next((server.stopped for server in servers if server.stopped), None)
    model = take_values(run, Parameters(run), torch.cat([server.values for server in servers]))
    return AsynchronousRun(
        task.experiment,
        task.strategy,
        model,
        History(rows),
        Record([server.record for server in servers]),
        first.staleness,
        first.batches,
        first.updates,
        first.epoch,
        seconds=float(rows[-1]["seconds"] or 0.0) if rows else 0.0,
        stopped=stopped,
        dropped=first.dropped,
        ranks=list(results),
        threads=replica.threads,
        fingerprint=replica.fingerprint,
        **told,
    )
