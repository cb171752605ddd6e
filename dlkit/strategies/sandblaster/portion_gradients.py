"""The gradient of a portion of a batch: its share of the whole batch's."""

import torch
from torch import Tensor

from dlkit.core.slices import slice_of
from dlkit.data.batch import Batch
from dlkit.strategies.asynchronous.replica import Parameters
from dlkit.training.learner import Metrics
from dlkit.training.prepared_run import order_of
from dlkit.training.run import Run


class PortionGradients:
    """Of a run's batches, each cut into so many portions, at the values that `parameters` has."""

    def __init__(self, run: Run, parameters: Parameters, portions: int):
        self.run, self.parameters, self.portions = run, parameters, portions
        self._epoch, self._order = -1, Tensor()

    def __repr__(self) -> str:
        return f"PortionGradients({self.run.experiment}, {self.portions} portions)"

    def __call__(self, step: int, portion: int) -> tuple[dict[str, float], Tensor]:
        """The portion's share of the metrics of the batch of this step, and of its gradient."""
        run, size = self.run, self.run.experiment.batch_size
        epoch, position = divmod(step, run.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of(len(run.data.images), run.experiment.seed, epoch)
        picked = self._order[position * size :][:size]
        part = slice_of(len(picked), portion, self.portions)
        if not part.count:
            return {}, torch.zeros(self.parameters.count, dtype=self.parameters.dtype)
        own = run.shard.select(run._on_device, picked[part.start : part.stop].to(run.device))
        batch = Batch(own.images, own.labels, part.count / part.whole, part)
        self.parameters.clear_gradient()
        metrics: Metrics = run.learner.fill_weighted_grad(run.shard.model, batch, run.generator)
        return {name: float(value) for name, value in metrics.items()}, self.parameters.gradient()
