"""How probable a DBN finds an image, at least."""

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.likelihood import LogProbability, LogZ
from dlkit.core.random import bernoulli
from dlkit.models.dbn import DBN
from dlkit.models.rbm import GaussianRBM
from dlkit.models.top_rbms import LabelledRBM

TINY = 1e-7


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

    Σ over the layers of log p(below | above) - log q(above | below), and -F(v) - log Z of the top, q being the way up:
    the mean is taken over `samples` ways up of each image. It is only as much of a bound as log Z is exact: AIS errs
    low in it, and then the bound comes out too high. ValueError for pixels that are not 0 or 1.
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
    for part in images.flatten(1).split(1000):
        for _ in range(samples):
            total += float(_free_bound(dbn, part, generator).double().sum())
    mean = total / (samples * len(images))
    z = log_z if isinstance(log_z, LogZ) else LogZ(log_z, log_z, log_z, torch.zeros(1, dtype=torch.float64))
    return LogProbability(mean - z.value, mean - z.high, mean - z.low)


def _free_bound(dbn: DBN, v: Float[Tensor, "batch pixels"], generator: torch.Generator) -> Float[Tensor, " batch"]:
    """The bound, but for log Z, from one way up."""
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
    """Σ x log p + (1-x) log(1-p), in nats."""
    p = p.clamp(TINY, 1 - TINY)  # float32 rounds a probability near 1 to 1, and its complement to 0
    return (x * p.log() + (1 - x) * (-p).log1p()).sum(1)
