"""What a learner is: it looks at a model and a batch, and fills .grad; a torch optimizer takes the step."""

from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from dlkit.core.slices import Slice
from dlkit.data.batch import Batch

M_contra = TypeVar("M_contra", bound=nn.Module, contravariant=True)


def expect(model: nn.Module, kind: type[nn.Module], what: str) -> None:
    """Raise TypeError unless the model is of the kind that `what`, a learner, is for."""
    if not isinstance(model, kind):
        raise TypeError(f"{what} trains models of class {kind.__name__}, and model= makes a {type(model).__name__}.")


@runtime_checkable
class Learner(Protocol[M_contra]):
    """How a model learns from a batch. `Experiment` works on a copy, so one learner can serve many runs.

    `state` holds every tensor that a checkpoint must keep for the run to go on to the bit; it is empty before `start`.
    """

    state: dict[str, Tensor]

    def start(self, model: M_contra, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Called once before the first step, with all the training data: set initial values, fill `state`."""
        ...

    def fill_grad(self, model: M_contra, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Set .grad of every parameter; return scalars to report, still on the device, `"loss"` first.

        All are means over the batch, times `batch.weight`: those of its parts add up to those of the whole.
        """
        ...


@runtime_checkable
class Splits(Protocol):
    """A learner that can learn from a part of a batch; it draws all random numbers by `models.draws`."""

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        """Called after `start` on each of several workers: keep this one's part of what has rows of its own.

        Returns the names in `state` that are parts now. ValueError, with the reason, if no part of a batch will do.
        """
        ...


@runtime_checkable
class Backprop(Protocol):
    """A learner whose gradient is that of a loss of the net's answer, so that the net can be run by others."""

    def inputs(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """What the net is given of a batch."""
        ...

    def loss(self, found: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What is to be backpropagated from the net's answer, and the report."""
        ...
