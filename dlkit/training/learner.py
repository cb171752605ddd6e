"""Learners: they look at a model and a batch and fill .grad; a torch optimizer takes the step."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.matmul import fast_linear
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch

Metrics = dict[str, Tensor]


class Learner:
    """How a model learns from a batch. A learner of your own overrides `fill_grad`, and what else it needs.

    An Experiment works on a copy of its learner, so that one learner can serve many runs.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Every tensor that a checkpoint must keep, for a run to go on with the same bits; empty before `start`."""
        return {}

    def start(self, model: Any, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Called once before the first step, with all the training data: check it, set first values, fill `state`."""

    def fill_grad(self, model: Any, batch: Batch, generator: torch.Generator) -> Metrics:
        """Set .grad of every trained parameter, and return scalars to report, still on the device, "loss" first.

        Gradients and scalars are means over the images of the batch. Random numbers are drawn by `dlkit.core.random`
        from the generator, so that they do not depend on how a batch is split.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fill_grad: it must set .grad, and return the loss.")

    def fill_weighted_grad(self, model: Any, batch: Batch, generator: torch.Generator) -> Metrics:
        """As `fill_grad`, times `batch.weight`: the sum of this over the parts of a batch is the whole's gradient."""
        metrics = self.fill_grad(model, batch, generator)
        if batch.weight == 1:
            return metrics
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad * batch.weight
        return {name: value * batch.weight for name, value in metrics.items()}

    def why_not_finite(self, model: Any, data: Batch, lr: float) -> str:
        """What to do about a loss that is no number any more, for a message."""
        return f"try a smaller lr (now {lr:g})"

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        """Called after `start` on each of several ranks: keep this rank's slice of the state that has rows of its own.

        Returns the names in `state` that are slices now. ValueError, with the reason, if a part of a batch will not do.
        """
        return {}


class Backprop(Learner):
    """A learner that backpropagates a loss of the net's output. A subclass overrides `loss`; nothing else is needed.

    The net may then be run by others than the learner, as in a pipeline, where the layers are on several ranks.
    """

    def inputs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The tensor that the net is given: by default the batch's images."""
        return batch.images

    def own_inputs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """As `inputs`, in memory that the net may change: the loss may look at the batch's images."""
        x = self.inputs(batch, generator)
        shared = x.untyped_storage().data_ptr() == batch.images.untyped_storage().data_ptr()
        return x.clone() if shared else x

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss to backpropagate, a mean over the batch, and the scalars to report, "loss" first."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: give it loss(output, batch).")

    def weighted_loss(self, output: Any, batch: Batch) -> tuple[Tensor, Metrics]:
        """The loss and the scalars, times `batch.weight`."""
        loss, metrics = self.loss(output, batch)
        return loss * batch.weight, {name: value.detach() * batch.weight for name, value in metrics.items()}

    def fill_grad(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Metrics:
        """Backpropagate the weighted loss."""
        model.zero_grad()
        x = self.own_inputs(batch, generator)
        with fast_linear(model, len(x)):
            output = model(x)
        loss, metrics = self.weighted_loss(output, batch)
        loss.backward()
        return metrics

    def fill_weighted_grad(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Metrics:
        """The same: the weight is in the loss, so that gradients can be sent while the backward pass goes on."""
        return self.fill_grad(model, batch, generator)


def check_model(model: nn.Module, kind: type[nn.Module], learner: str) -> None:
    """Raise TypeError unless the model is of the class that the learner trains."""
    if not isinstance(model, kind):
        raise TypeError(f"{learner} trains models of class {kind.__name__}, and model= makes a {type(model).__name__}.")
