"""Learning the parts of a sparse code."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dlkit.core.matmul import matmul
from dlkit.core.slices import Slice
from dlkit.data import check
from dlkit.data.batch import Batch
from dlkit.models.sparse_coding import SparseCoding
from dlkit.training.learner import expect


@dataclass
class DictionaryLearning:
    """Find the code of each input, then move the parts towards what it leaves over; parts keep length 1.

    Reports `loss`, half the squared error and the penalty, per input, and `active`, the percentage of units in use.
    Source: Olshausen, Field 1996.
    """

    state: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def start(self, model: SparseCoding, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        expect(model, SparseCoding, "dictionary learning")
        check(data.images, shape=(model.features,), values=None)

    @torch.no_grad()
    def fill_grad(self, model: SparseCoding, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Set .grad of D: -hᵀ(v - hD), the mean over the batch."""
        model.normalise()  # after the optimizer's last step
        v = batch.images.flatten(1)
        h = model.hidden_given(v)
        left = v - model.visible_given(h)
        model.D.grad = matmul(h.T, left) / -len(v) * batch.weight
        loss = (0.5 * (left**2).sum() + model.penalty * h.sum()) / len(v) * batch.weight
        return {"loss": loss, "active": 100 * batch.weight * (h > 0).float().mean()}

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        return {}
