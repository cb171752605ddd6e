"""The replica of elastic averaging, which has values of its own."""

from torch import Tensor

from dlkit.strategies.asynchronous.client import Contribution, Member
from dlkit.strategies.asynchronous.replica import Parameters, Replica
from dlkit.training.run import Run
from dlkit.training.schedules import at


class ElasticReplica(Replica):
    """Trains by itself, with momentum; when it has fetched the centre, both move towards each other.

    What it pushes is the centre's move, with the sign of a gradient: servers subtract it.
    """

    def __init__(self, run: Run, parameters: Parameters, member: Member, every: int, pull: float):
        super().__init__(run, parameters, member)
        self.exchange_every, self.pull = every, pull
        self._velocity: Tensor | None = None
        self._pushed = 0  # batches

    def step(self, fetched: Tensor | None) -> Contribution | None:
        move = None
        if not self.steps:
            assert fetched is not None
            self.values = fetched
        gradient = self.gradient()  # at the values before they are drawn to the centre
        if fetched is not None and self.steps:
            move = self.pull * (self.values - fetched)
            self.values = self.values - move
        momentum = at(self.run.experiment.momentum or 0.0, self.steps * self.run.experiment.batch_size / self.images)
        if momentum:
            self._velocity = gradient if self._velocity is None else momentum * self._velocity + gradient
            gradient = self._velocity
        self.values = self.values - self.lr * gradient
        self.steps += 1
        if move is None:
            return None
        batches, self._pushed = self.steps - self._pushed, self.steps
        return self._contribution(-move, batches)
