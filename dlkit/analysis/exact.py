"""Small binary RBMs, exactly: every state enumerated in float64, so that what a chain estimates can be checked."""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dlkit.analysis.likelihood import exact_log_z, log_probability, states
from dlkit.models.rbm import RBM, GaussianRBM

ENUMERABLE = 16  # units a side: 65,536 states


def state_number(v: Float[Tensor, "batch units"]) -> Int64[Tensor, " batch"]:
    """The row of `states(units)` that each binary row of `v` is: unit i counts 2^i."""
    return v.long() @ (1 << torch.arange(v.shape[1]))


def visible_distribution(rbm: RBM) -> Float64[Tensor, " states"]:
    """p(v) of each of the 2^visible states, in the order of `states(rbm.visible)`."""
    rbm = _double(rbm)
    return torch.softmax(-rbm.free_energy(states(rbm.visible)), 0)


def log_likelihood(rbm: RBM, v: Float[Tensor, "images visible"]) -> float:
    """Mean log p(v) of the images, in nats."""
    rbm = _double(rbm)
    return log_probability(rbm, v.double(), exact_log_z(rbm, progress=False)).value


def gradient(rbm: RBM, v: Float[Tensor, "images visible"]) -> dict[str, Float64[Tensor, "..."]]:
    """∂/∂θ of the mean of -log p(v), in nats, by parameter name: what a learner with infinite chains puts in .grad."""
    rbm = _double(rbm)
    h = states(rbm.hidden)
    p = torch.softmax(h @ rbm.b + rbm.log_sum_visible(rbm.visible_input(h), rbm.a), 0)
    negative = rbm.energy_gradient(rbm.visible_given(h), h, p)
    return _difference(_data_half(rbm, v.double()), negative)


def cd_gradient(rbm: RBM, v: Float[Tensor, "images visible"], k: int) -> dict[str, Float64[Tensor, "..."]]:
    """Mean of what CD-k with sampled visible units puts in .grad, over all that its chains might do.

    It is `gradient` for k without end. Source: Bengio, Delalleau 2009, Justifying and generalizing contrastive
    divergence, §4.
    """
    rbm, v = _double(rbm), v.double()
    p = after_gibbs(rbm, empirical(rbm, v), k)
    end = states(rbm.visible)
    return _difference(_data_half(rbm, v), rbm.energy_gradient(end, rbm.hidden_given(end), p))


def empirical(rbm: RBM, v: Float[Tensor, "images visible"]) -> Float64[Tensor, " states"]:
    """The distribution over the 2^visible states from which the images are: each counts 1/images."""
    counts = torch.bincount(state_number(v), minlength=2**rbm.visible)
    return counts.double() / len(v)


def after_gibbs(rbm: RBM, p: Float64[Tensor, " states"], steps: int) -> Float64[Tensor, " states"]:
    """The distribution over visible states that `steps` Gibbs steps make of `p`: Σ_v p(v) Σ_h p(h|v) p(v'|h) each."""
    rbm = _double(rbm)
    to_hidden = _halves(rbm.hidden_given(states(rbm.visible)))
    to_visible = _halves(rbm.visible_given(states(rbm.hidden)))
    for _ in range(steps):
        p = _through(_through(p, to_hidden), to_visible)
    return p


def total_variation(p: Float64[Tensor, " states"], q: Float64[Tensor, " states"]) -> float:
    """½ Σ |p - q|: the largest difference in the probability of any event, 0 to 1."""
    return float((p - q).abs().sum() / 2)


def kl(p: Float64[Tensor, " states"], q: Float64[Tensor, " states"]) -> float:
    """KL(p || q) = Σ p log p/q, in nats."""
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).sum())


def flat(gradient: dict[str, Tensor]) -> Float[Tensor, " parameters"]:
    """All of a gradient as one vector, W first."""
    return torch.cat([gradient[name].flatten() for name in ("W", "a", "b")])


def cosine(g: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Cosine of the angle between two gradients: 1 for the same direction, 0 for a right angle."""
    return float(F.cosine_similarity(flat(g), flat(other), dim=0))


@torch.no_grad()
def _double(rbm: RBM) -> RBM:
    """The RBM in float64, free of autograd, itself left alone."""
    if isinstance(rbm, GaussianRBM):
        raise ValueError("a GaussianRBM has no finite number of visible states: exact quantities are for binary RBMs.")
    if max(rbm.visible, rbm.hidden) > ENUMERABLE:
        raise ValueError(
            f"an RBM of {rbm.visible} visible and {rbm.hidden} hidden units: "
            f"every state is enumerated, so use {ENUMERABLE} a side at most."
        )
    return copy.deepcopy(rbm).double().requires_grad_(False)


def _data_half(rbm: RBM, v: Tensor) -> dict[str, Tensor]:
    return rbm.energy_gradient(v, rbm.hidden_given(v), v.new_full((len(v),), 1 / len(v)))


def _difference(positive: dict[str, Tensor], negative: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: positive[name] - negative[name] for name in positive}


def _halves(on: Float64[Tensor, "states units"]) -> tuple[Tensor, Tensor]:
    """p(first half of the units | state) and p(second half | state), each (states, 2^half).

    The units being independent given the state, the two hold what a table of (states, 2^units) would.
    """
    half = on.shape[1] // 2
    tables = []
    for part in (on[:, :half], on[:, half:]):
        s = states(part.shape[1])
        tables.append(torch.exp(torch.log(part) @ s.T + torch.log1p(-part) @ (1 - s).T))
    return tables[0], tables[1]


def _through(p: Tensor, halves: tuple[Tensor, Tensor]) -> Tensor:
    """The distribution of the other side's units, for `p` over this side's states."""
    first, second = halves
    return (second.T @ (first * p[:, None])).flatten()  # the first half's bits are the low ones
