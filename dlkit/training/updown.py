"""Up-down, or contrastive wake-sleep: fine-tuning a DBN as the generative model that it is."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.core.matmul import matmul
from dlkit.core.random import bernoulli, sharded
from dlkit.core.slices import Slice
from dlkit.data import check
from dlkit.data.batch import Batch
from dlkit.models.dbn import DBN
from dlkit.models.directed import DirectedLayer
from dlkit.models.gibbs_chains import init_chains
from dlkit.training.contrastive import difference, keep_chains
from dlkit.training.learner import Learner, Metrics, check_model


@dataclass
class UpDown(Learner):
    """Wake: go up, and let generation learn to bring back each layer from the one above. Top: CD-k. Sleep: go down
    from where that chain ends, and let recognition learn to bring back each layer from the one below.

    `persistent`: the top's chains, and the dreams of the sleep, go on from step to step, as many as there are images in
    a batch (PCD); else they start from the batch, and what lies far from all digits is never unlearned.
    For a DBN that is `untied()`; hidden states are sampled on both ways, pixels are not. Reports `loss`, the squared
    error of the image brought back from the first hidden layer, per image; and for a DBN with labels `error`, in
    percent, of the label that one Gibbs step of the top prefers (`label_probabilities` is better, and dearer).
    Sources: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets, §5 and appendix B; for the
    persistent chains Tieleman 2008, Training restricted Boltzmann machines using approximations to the likelihood
    gradient.
    """

    k: int = 3
    persistent: bool = False
    part: Slice | None = field(default=None, init=False, repr=False)

    def __post_init__(self):
        if self.k < 1:
            raise ValueError(f"{self.k} Gibbs steps of the top: at least 1 is needed.")

    @torch.no_grad()
    def start(self, model: DBN, data: Batch, batch_size: int, generator: torch.Generator) -> None:
        """Refuse a DBN whose two ways are tied, and images or labels that do not fit."""
        check_model(model, DBN, "up-down")
        if not model.lower:
            raise ValueError("a DBN of one layer has no way down to train: its RBM alone learns by CD or PCD.")
        if not all(isinstance(layer, DirectedLayer) for layer in model.lower):
            raise ValueError("up-down trains the way up and the way down apart: give it `dbn.untied()`.")
        if model.labels is not None and data.labels is None:
            raise ValueError(f"{model.labels} label units, but the data have no labels: give (images, labels).")
        check(data.images, data.labels if model.labels else None, shape=(model.sizes[0],), classes=model.labels)
        if self.persistent:
            self.state["chains"] = init_chains(model.top, batch_size, generator)

    @torch.no_grad()
    def fill_grad(self, model: DBN, batch: Batch, generator: torch.Generator) -> Metrics:
        """Set .grad of every layer's R, b, G, a and of the top's W, a, b."""
        top, lower = model.top, [layer for layer in model.lower if isinstance(layer, DirectedLayer)]
        awake = [batch.images.flatten(1)]
        for layer in lower:
            awake.append(bernoulli(layer.hidden_given(awake[-1]), generator))

        x = top.encode_visible(awake[-1], batch.labels)
        positive = top.hidden_given(x)
        back = top.visible_given(top.draw_hidden(positive, generator))
        v = self.state["chains"] if self.persistent else top.draw_visible(back, generator)
        with sharded(generator, self.part):
            for _ in range(self.k if self.persistent else self.k - 1):
                mean = top.visible_given(top.draw_hidden(top.hidden_given(v), generator))
                v = top.draw_visible(mean, generator)
        if self.persistent:
            self.state["chains"].copy_(v)
        chain_weight = batch.weight if self.part is None else self.part.count / self.part.whole
        weight = difference(batch.weight / len(x), len(x), chain_weight / len(v), len(v), x.dtype, x.device)
        gradient = top.energy_gradient(torch.cat([x, v]), torch.cat([positive, top.hidden_given(v)]), weight)
        for name, parameter in top.named_parameters():
            parameter.grad = gradient[name]

        asleep = [v[:, : top.features]]
        for layer in reversed(lower):
            mean = layer.visible_given(asleep[0])
            with sharded(generator, self.part):
                asleep.insert(0, mean if layer is lower[0] else bernoulli(mean, generator))

        loss = awake[0].new_zeros(())
        for place, layer in enumerate(lower):
            below, above = awake[place : place + 2]
            picture = layer.visible_given(above)
            if place == 0:
                loss = F.mse_loss(picture, below, reduction="sum") / len(below) * batch.weight
            _delta_rule(layer.G, layer.a, above, picture - below, batch.weight, transposed=True)
            below, above = asleep[place : place + 2]
            _delta_rule(layer.R, layer.b, below, layer.hidden_given(below) - above, chain_weight, transposed=False)

        report = {"loss": loss}
        if model.labels is not None and batch.labels is not None:
            wrong = back[:, top.features :].argmax(1) != batch.labels
            report["error"] = 100 * batch.weight * wrong.float().mean()
        return report

    def fill_weighted_grad(self, model: DBN, batch: Batch, generator: torch.Generator) -> Metrics:
        """The same: `fill_grad` weighs images and persistent chains, which may be split otherwise, each for itself."""
        return self.fill_grad(model, batch, generator)

    def split(self, rank: int, world_size: int) -> dict[str, Slice]:
        """Each rank keeps its slice of persistent chains. ValueError if there are fewer chains than ranks."""
        return keep_chains(self, rank, world_size) if self.persistent else {}


def _delta_rule(W: Tensor, bias: Tensor, given: Tensor, error: Tensor, weight: float, *, transposed: bool) -> None:
    """.grad of `weight` times the mean cross-entropy of sigmoid units whose probabilities are off by `error`."""
    error = error * weight / len(error)
    W.grad = matmul(error.T, given) if transposed else matmul(given.T, error)
    bias.grad = error.sum(0)
