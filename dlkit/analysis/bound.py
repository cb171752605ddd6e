"""A lower bound on the log-probability that a DBN gives to images."""

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.examining import examines
from dlkit.analysis.likelihood import LogProbability, LogZ
from dlkit.core.apple import off_apple
from dlkit.core.evaluation import on_device_of
from dlkit.core.random import bernoulli
from dlkit.models.dbn import DBN
from dlkit.models.rbm import GaussianRBM
from dlkit.models.top_rbms import LabelledRBM

TINY = 1e-7


@examines
@torch.no_grad()
def lower_bound(
    dbn: DBN,
    images: Float[Tensor, "images ..."],
    log_z: LogZ | float,
    *,
    samples: int = 1,
    seed: int = 0,
) -> LogProbability:
    """A lower bound on the mean log-probability of binary images, in nats; `log_z` is that of `dbn.top`.

    The bound is the mean of Σ over the layers [log p(below | above) - log q(above | below)] - F - log Z, where q is the
    way up and F the free energy of the top RBM; each image is sampled upwards `samples` times. It is a bound only if
    log Z is exact: AIS tends to underestimate log Z, which makes the result too high. ValueError for pixels that are
    not 0 or 1.
    Source: Salakhutdinov, Murray 2008, On the quantitative analysis of deep belief networks.
    """
    if isinstance(dbn.layers[0], GaussianRBM):
        raise ValueError("the bound is for binary pixels: the lowest layer of this DBN has real-valued ones.")
    if not ((images == 0) | (images == 1)).all():
        raise ValueError('these pixels are not all 0 or 1: load them with data.load("mnist", binarise="sample").')
    if not len(images):
        raise ValueError("no images: give one at least.")
    generator = torch.Generator(dbn.top.W.device).manual_seed(seed)
    total = 0.0
    for batch in images.flatten(1).split(1000):
        for _ in range(samples):
            total += float(off_apple(_unnormalised_bound(dbn, on_device_of(dbn, batch), generator)).double().sum())
    mean = total / (samples * len(images))
    return LogProbability.normalised(mean, log_z)


def _unnormalised_bound(
    dbn: DBN, v: Float[Tensor, "batch pixels"], generator: torch.Generator
) -> Float[Tensor, " batch"]:
    """The bound without -log Z, from one sample of the way up, in nats."""
    bound, below = v.new_zeros(len(v)), v
    for layer in dbn.lower:
        q = layer.hidden_given(below)
        above = bernoulli(q, generator)
        bound += log_bernoulli(below, layer.visible_given(above)) - log_bernoulli(above, q)
        below = above
    if isinstance(dbn.top, LabelledRBM):
        return bound + torch.logsumexp(-dbn.top.label_free_energies(below), 1)
    return bound - dbn.top.free_energy(below)


def log_bernoulli(x: Float[Tensor, "batch units"], p: Float[Tensor, "batch units"]) -> Float[Tensor, " batch"]:
    """Σ over the units of x log p + (1-x) log(1-p), in nats."""
    p = p.clamp(TINY, 1 - TINY)  # float32 rounds a probability near 1 to 1, and its complement to 0
    return (x * p.log() + (1 - x) * (-p).log1p()).sum(1)
