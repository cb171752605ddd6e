"""Learning the parts of a sparse code."""

from dataclasses import dataclass

import torch

from dlkit.core.matmul import matmul
from dlkit.data import check
from dlkit.data.batch import Batch
from dlkit.models.sparse_coding import SparseCoding
from dlkit.training.learner import Learner, Metrics, check_model


@dataclass
class DictionaryLearning(Learner):
    """Find the code of each input, then move the parts towards what it leaves over; parts keep length 1.

    Reports `loss`, half the squared error and the penalty, per input, and `active`, the percentage of units in use.
    Source: Olshausen, Field 1996.
    """

    def start(self, model: SparseCoding, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        check_model(model, SparseCoding, "dictionary learning")
        check(data.images, shape=(model.features,), values=None)

    @torch.no_grad()
    def fill_grad(self, model: SparseCoding, batch: Batch, generator: torch.Generator) -> Metrics:
        """Set .grad of D: -hᵀ(v - hD), the mean over the batch."""
        model.normalise()  # after the optimizer's last step
        v = batch.images.flatten(1)
        h = model.hidden_given(v)
        left = v - model.visible_given(h)
        model.D.grad = matmul(h.T, left) / -len(v)
        loss = (0.5 * (left**2).sum() + model.penalty * h.sum()) / len(v)
        return {"loss": loss, "active": 100 * (h > 0).float().mean()}
