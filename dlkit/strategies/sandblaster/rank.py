"""What one rank of a Sandblaster run does: it holds vectors, computes portions, or both."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from dlkit.strategies.asynchronous.lines import Asking
from dlkit.strategies.asynchronous.messages import Message
from dlkit.strategies.asynchronous.replica import Parameters
from dlkit.strategies.asynchronous.server import split_values
from dlkit.strategies.asynchronous.serving import Serving
from dlkit.strategies.asynchronous.wiring import Wiring
from dlkit.strategies.sandblaster.by_portions import ByPortions
from dlkit.strategies.sandblaster.portion_gradients import PortionGradients
from dlkit.strategies.sandblaster.servers import VectorServer
from dlkit.training.experiment import Experiment
from dlkit.training.run import Run

TIMEOUT = 1.0  # seconds for an answer, before it is asked for again
IDLE = 0.002  # seconds until a worker without a portion asks again


@dataclass(frozen=True)
class Task:
    """What all ranks are told. wiring: addresses of the servers, and, last, of the coordinator."""

    experiment: Experiment
    strategy: ByPortions
    wiring: Wiring
    steps: int | None = None


def work(task: Task, rank: int, number: int, asked: Callable[[], bool], device: torch.device) -> int:
    """Serve, if this rank has a server, and compute portions until the run ends or `asked`; how many it has computed.

    number: of this worker, among all that have begun.
    """
    strategy = task.strategy
    run: Run = Run(task.experiment, task.steps, device, None, capture=False)
    parameters, serving = Parameters(run), None
    parts = split_values(parameters.count, strategy.servers)
    if rank < strategy.servers:
        part = parts[rank]
        serving = Serving(task.wiring, rank, VectorServer(parameters.get()[part.start : part.stop]))
    worker = Worker(task, run, parameters, number, asked)
    try:
        while not asked() and not (serving is not None and serving.server.ended):
            if serving is not None:
                serving.check()
            worker.turn()
        if serving is not None and not asked():
            serving.wait()
    finally:
        worker.close()
        if serving is not None:
            serving.close()
    return worker.computed


class Worker:
    """Computes portions, one after the other, and sends their sums, until it is `asked` to end."""

    def __init__(self, task: Task, run: Run, parameters: Parameters, number: int, asked: Callable[[], bool]):
        self.parameters, self.number, self.asked = parameters, number, asked
        self.parts = split_values(parameters.count, task.strategy.servers)
        self.gradients = PortionGradients(run, parameters, task.strategy.portions)
        self.asking = Asking(task.wiring)
        self.queue = len(task.wiring.addresses) - 1
        self.evaluation = -1
        self.computed = self.sent = 0
        self.kept: list[int] = []
        self.metrics: Counter[str] = Counter()
        self.sum: torch.Tensor | None = None

    def __repr__(self) -> str:
        return f"Worker({self.number}, {self.computed:,} portions)"

    def turn(self) -> None:
        """Ask what to do, and do it."""
        told = self._ask(self.queue, "take", worker=self.number, evaluation=self.evaluation, kept=self.kept)
        if told is None or told.fields.get("wait"):
            time.sleep(IDLE)
            return
        fields = told.fields
        if fields["evaluation"] != self.evaluation:
            if not self._fetch(fields["point"]):
                return
            self.evaluation = fields["evaluation"]
            self._forget()
        if "send" in fields:
            self._send()
            return
        metrics, gradient = self.gradients(fields["step"], fields["portion"])
        self.computed += 1
        self.kept.append(fields["portion"])
        self.metrics.update(metrics)
        self.sum = gradient if self.sum is None else self.sum + gradient

    def _ask(self, number: int, kind: str, values: torch.Tensor | None = None, **fields: Any) -> Message | None:
        return self.asking.ask(number, kind, TIMEOUT, values, **fields)

    def _forget(self) -> None:
        self.kept, self.metrics, self.sum = [], Counter(), None

    def _fetch(self, point: str) -> bool:
        """Take the values of the point to compute at; False if a server did not answer, or has them no more."""
        answers = [self._ask(server, "get", vector=point) for server in range(len(self.parts))]
        values = [answer.values for answer in answers if answer is not None and answer.values is not None]
        if len(values) < len(answers):
            return False
        self.parameters.set(torch.cat(values))
        return True

    def _send(self) -> None:
        """The sum to all servers, each its part; when all have it, the coordinator is told, and it may count."""
        assert self.sum is not None
        self.sent += 1
        key = f"{self.evaluation}-{self.number}-{self.sent}"
        for server, part in enumerate(self.parts):
            values = self.sum[part.start : part.stop]
            while self._ask(server, "contribute", values, key=key) is None:
                told = self._ask(self.queue, "now")
                if self.asked() or told is None or told.fields["evaluation"] != self.evaluation:
                    return
        self._ask(
            self.queue,
            "deliver",
            worker=self.number,
            evaluation=self.evaluation,
            portions=self.kept,
            key=key,
            metrics=dict(self.metrics),
        )
        self._forget()

    def close(self) -> None:
        self.asking.close()
