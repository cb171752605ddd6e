"""The bias of contrastive divergence, on an RBM that is small enough to know the exact likelihood and gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis import exact
from dlkit.analysis.likelihood import states
from dlkit.data import Batch, bars_and_stripes
from dlkit.models import RBM
from dlkit.training import CD

KS = (1, 2, 5, 10, 20)  # the k whose CD-k gradients are compared with the exact gradient
UPDATES, EVERY = 1_000, 25  # optimizer steps of a training; from one measured likelihood to the next
COPIES = 10  # chains that start from each pattern
BEST = -math.log(30)  # nats an image: all probability on the 30 bars and stripes, in equal parts


@dataclass(repr=False)
class CDTraining:
    """An RBM that CD-k trains on the 4x4 bars and stripes, and what is exactly true of it.

    `log_likelihood` is in nats an image, one value for each number in `updates`. The other fields are None until the
    training has ended: `cosines`, by k, of CD-k's mean gradient with the exact gradient; `likeliest`, the 30 most
    probable images; `valid`, which of them are bars or stripes; `pattern_probability` of all bars and stripes together.
    """

    k: int
    rate: float
    hidden: int
    updates: list[int] = field(default_factory=list)
    log_likelihood: list[float] = field(default_factory=list)
    cosines: dict[int, float] | None = None
    likeliest: Float[Tensor, "images 4 4"] | None = None
    valid: list[bool] | None = None
    pattern_probability: float | None = None

    def __repr__(self) -> str:
        setting = f"CD-{self.k}, rate {self.rate:g}, {self.hidden} hidden units"
        if self.cosines is None or self.valid is None:
            return f"{setting}: training, update {self.updates[-1]:,} of {UPDATES:,}" if self.updates else setting
        return (
            f"{setting}: {self.log_likelihood[-1]:.2f} nats an image after {UPDATES:,} updates, "
            f"{max(self.log_likelihood):.2f} at its best on the way. Bars and stripes have "
            f"{self.pattern_probability:.0%} of the probability, and are {sum(self.valid)} of the 30 most probable "
            f"images. CD-{self.k}'s mean gradient now has a cosine of {self.cosines[self.k]:.2f} with the exact one."
        )


def train_by_cd(
    k: int, rate: float, hidden: int, on_progress: Callable[[CDTraining], object] | None = None, seed: int = 0
) -> CDTraining:
    """Train an RBM for UPDATES steps of SGD by CD-k with sampled visible units.

    `on_progress` is called with the unfinished training every 4 * EVERY updates.
    """
    v = bars_and_stripes(4).flatten(1).double()
    generator = torch.Generator().manual_seed(seed)
    rbm = RBM(16, hidden, std=0.1, generator=generator).double()
    optimizer = torch.optim.SGD(rbm.parameters(), lr=rate)
    learner, batch = CD(k=k, sample_visible=True), Batch(v.repeat(COPIES, 1))
    training = CDTraining(k, rate, hidden)
    for update in range(UPDATES + 1):
        if update % EVERY == 0:
            training.updates.append(update)
            training.log_likelihood.append(exact.log_likelihood(rbm, v))
        if on_progress and update % (4 * EVERY) == 0:
            on_progress(training)
        if update < UPDATES:
            learner.fill_grad(rbm, batch, generator)
            optimizer.step()
    exact_gradient = exact.gradient(rbm, v)
    p, patterns = exact.visible_distribution(rbm), exact.state_number(v)
    top = p.topk(len(v)).indices
    gradients = exact.cd_gradients(rbm, v, KS)
    training.cosines = {k: exact.cosine(gradient, exact_gradient) for k, gradient in gradients.items()}
    training.likeliest = states(16)[top].view(-1, 4, 4)
    training.valid = torch.isin(top, patterns).tolist()
    training.pattern_probability = float(p[patterns].sum())
    return training
