"""All that is said in a Sandblaster run, one thing after the other, with its bytes: by whom, to whom, and what for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dlkit.strategies.asynchronous.messages import Message, pack
from dlkit.strategies.sandblaster.by_portions import ByPortions
from dlkit.strategies.sandblaster.searching import Counted
from dlkit.strategies.sandblaster.vectors import Command
from dlkit.strategies.sandblaster.virtual import VirtualSearch
from dlkit.training.experiment import Experiment
from dlkit.training.run import Run


@dataclass(frozen=True)
class Said:
    """Commands to every server, with each server's numbers; or, where there are `portions`, a batch that workers
    computed: those of each sum that counts.

    iteration: of L-BFGS, from 1; 0 before the first. vectors: on the servers, by name, after it. command_bytes:
    of the coordinator's messages and their answers, all servers together. vector_bytes: of values and gradients.
    """

    iteration: int
    commands: tuple[Command, ...]
    numbers: tuple[tuple[float, ...], ...]
    portions: tuple[tuple[int, ...], ...]
    vectors: tuple[str, ...]
    command_bytes: int
    vector_bytes: int
    loss: float | None = None


class TapedSearch(VirtualSearch):
    """Keeps what is said in `said`."""

    def __init__(self, run: Run, strategy: ByPortions, durations: list[float]):
        self.said: list[Said] = []
        super().__init__(run, strategy, durations, set())

    def send(self, commands: list[Command]) -> list[list[float]]:
        numbers = super().send(commands)
        size = 0
        for each in numbers:
            asked = {"request": len(self.said), "message": len(self.said), "commands": commands}
            answered = {"request": len(self.said), "numbers": each}
            size += packed_bytes(Message("commands", asked)) + packed_bytes(Message("commands", answered))
        self._add(commands=tuple(commands), numbers=tuple(map(tuple, numbers)), command_bytes=size)
        return numbers

    def compute(self, point: str) -> list[Counted]:
        counted = super().compute(point)
        vector = self.parameters.count * self.parameters.dtype.itemsize
        busy = sum(worker.busy_until > 0 for worker in self.workers)
        loss = sum(each.metrics["loss"] for each in counted)
        portions = tuple(tuple(each.portions) for each in counted)
        self._add(portions=portions, vector_bytes=(busy + len(counted)) * vector, loss=loss)
        return counted

    def _add(self, **told: Any) -> None:
        nothing = Said(self.lbfgs.iterations if self.said else 0, (), (), (), tuple(self.shards[0].vectors), 0, 0)
        self.said.append(replace(nothing, **told))


def packed_bytes(message: Message) -> int:
    """That travel: the header, which is signed."""
    return sum(len(frame) for frame in pack(message, b""))


def tape(experiment: Experiment, strategy: ByPortions, workers: int) -> Sequence[Said]:
    """What is said while so many workers train on one batch, in simulated time. ValueError as for a run."""
    run: Run = Run(experiment, 1, torch.device("cpu"), None, capture=False)
    search = TapedSearch(run, strategy, [1 / strategy.portions] * workers)
    search.learn()
    return search.said
