"""What a learner is: it looks at a model and a batch, and fills .grad; a torch optimizer takes the step."""

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

M_contra = TypeVar("M_contra", bound=nn.Module, contravariant=True)


class Batch(NamedTuple):
    """Images (batch, height, width) or (batch, pixels), and their labels (batch,) where there are any."""

    images: Float[Tensor, "batch ..."]
    labels: Int64[Tensor, " batch"] | None = None

    def __len__(self) -> int:  # of images, not of fields
        return len(self.images)


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
        """Set .grad of every parameter; return scalars to report, still on the device, `"loss"` first."""
        ...
