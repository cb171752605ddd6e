"""Exact quantities of small binary RBMs, by enumerating all states in float64, on the CPU wherever the RBM is."""

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dlkit.analysis.examining import examines
from dlkit.analysis.likelihood import exact_log_z, log_probability, states
from dlkit.models.rbm import RBM

ENUMERABLE = 16  # units of one side: 65,536 states

Gradient = dict[str, Tensor]


def state_number(v: Float[Tensor, "batch units"]) -> Int64[Tensor, " batch"]:
    """The number of each binary state, its row in `states(units)`: unit i counts 2^i."""
    return v.cpu().long() @ (1 << torch.arange(v.shape[1]))


@examines
def visible_distribution(rbm: RBM) -> Float64[Tensor, " states"]:
    """p(v) of each of the 2^visible states, in the order of `states(rbm.visible)`."""
    rbm = _double(rbm)
    return torch.softmax(-rbm.free_energy(states(rbm.visible)), 0)


def empirical_distribution(v: Float[Tensor, "images visible"]) -> Float64[Tensor, " states"]:
    """The distribution of the images over the 2^visible states."""
    return torch.bincount(state_number(v), minlength=2 ** v.shape[1]).double() / len(v)


@examines
def log_likelihood(rbm: RBM, v: Float[Tensor, "images visible"]) -> float:
    """Mean log p(v) of the images, in nats."""
    rbm = _double(rbm)
    return log_probability(rbm, v.cpu().double(), exact_log_z(rbm, progress=False)).value


@examines
def gradient(rbm: RBM, v: Float[Tensor, "images visible"]) -> Gradient:
    """∂/∂θ of the mean of -log p(v), in nats, by parameter name: the limit of CD-k's gradient for large k."""
    rbm = _double(rbm)
    h = states(rbm.hidden)
    p = torch.softmax(h @ rbm.b + rbm.log_sum_visible(rbm.visible_input(h), rbm.a), 0)
    return _difference(_positive_phase(rbm, v.cpu().double()), rbm.energy_gradient(rbm.visible_given(h), h, p))


@examines
def cd_gradient(rbm: RBM, v: Float[Tensor, "images visible"], k: int) -> Gradient:
    """The expected gradient of CD-k with sampled visible units, over all possible chains.

    Source: Bengio, Delalleau 2009, Justifying and generalizing contrastive divergence.
    """
    return cd_gradients(rbm, v, [k])[k]


@examines
def cd_gradients(rbm: RBM, v: Float[Tensor, "images visible"], ks: Iterable[int]) -> dict[int, Gradient]:
    """`cd_gradient` for each k, in the time of the largest k."""
    rbm, v = _double(rbm), v.cpu().double()
    visible = states(rbm.visible)
    hidden, positive = rbm.hidden_given(visible), _positive_phase(rbm, v)
    gibbs_steps, p, done, gradients = GibbsOperator(rbm), empirical_distribution(v), 0, {}
    for k in sorted(ks):
        p, done = gibbs_steps(p, k - done), k
        gradients[k] = _difference(positive, rbm.energy_gradient(visible, hidden, p))
    return gradients


class GibbsOperator:
    """A Gibbs step as a map of distributions over the visible states: p'(v') = Σ_v p(v) Σ_h p(h|v) p(v'|h).

    The tables p(h|v) and p(v'|h) have 2^(visible + hidden) entries. Because the units of one side are independent given
    the other side, each table is stored as two smaller ones, for the first and the second half of the units.
    """

    @examines
    def __init__(self, rbm: RBM):
        rbm = _double(rbm)
        self.to_hidden = _halves(rbm.hidden_given(states(rbm.visible)))
        self.to_visible = _halves(rbm.visible_given(states(rbm.hidden)))

    def __repr__(self) -> str:
        return f"GibbsOperator({len(self.to_hidden[0])} visible states, {len(self.to_visible[0])} hidden states)"

    def __call__(self, p: Float64[Tensor, " states"], steps: int = 1) -> Float64[Tensor, " states"]:
        for _ in range(steps):
            p = _through(_through(p, self.to_hidden), self.to_visible)
        return p


def total_variation(p: Float64[Tensor, " states"], q: Float64[Tensor, " states"]) -> float:
    """½ Σ |p - q|: the largest difference in the probability of any event, from 0 to 1."""
    return float((p - q.to(p.device)).abs().sum() / 2)


def kl(p: Float64[Tensor, " states"], q: Float64[Tensor, " states"]) -> float:
    """KL(p || q) = Σ p log p/q, in nats."""
    return float((torch.xlogy(p, p) - torch.xlogy(p, q.to(p.device))).sum())


def cosine(g: Gradient, other: Gradient) -> float:
    """Cosine of the angle between two gradients: 1 for the same direction, 0 for orthogonal ones."""
    return float(F.cosine_similarity(flat(g), flat(other).to(g["W"].device), dim=0))


def flat(g: Gradient) -> Float[Tensor, " parameters"]:
    """A gradient as one vector: W, a, b."""
    return torch.cat([g[name].flatten() for name in ("W", "a", "b")])


@torch.no_grad()
def _double(rbm: RBM) -> RBM:
    """A copy of the RBM on the CPU in float64, without gradients. ValueError if it cannot be enumerated."""
    if not (rbm.binary_visible and rbm.binary_hidden):
        raise ValueError(f"a {type(rbm).__name__} has units that are not binary: exact quantities are for binary RBMs.")
    if max(rbm.visible, rbm.hidden) > ENUMERABLE:
        raise ValueError(
            f"an RBM of {rbm.visible} visible and {rbm.hidden} hidden units: every state is enumerated here, "
            f"so use {ENUMERABLE} a side at most."
        )
    return copy.deepcopy(rbm).cpu().double().requires_grad_(False)


def _positive_phase(rbm: RBM, v: Tensor) -> Gradient:
    """The mean energy gradient at the images, with the hidden units' probabilities."""
    return rbm.energy_gradient(v, rbm.hidden_given(v), v.new_full((len(v),), 1 / len(v)))


def _difference(positive: Gradient, negative: Gradient) -> Gradient:
    return {name: positive[name] - negative[name] for name in positive}


def _halves(on: Float64[Tensor, "states units"]) -> tuple[Tensor, Tensor]:
    """Probabilities of all patterns of the first half of the units, and of the second half, given each state.

    `on` are the probabilities that each unit is on.
    """
    half = on.shape[1] // 2
    return _product(on[:, :half]), _product(on[:, half:])


def _product(on: Float64[Tensor, "states units"]) -> Float64[Tensor, "states patterns"]:
    """Probability of each of the 2^units patterns of independent units that are on with probabilities `on`."""
    table = on.new_ones(len(on), 1)
    for i in range(on.shape[1]):
        p = on[:, i : i + 1]
        table = torch.cat([table * (1 - p), table * p], dim=1)
    return table


def _through(p: Float64[Tensor, " states"], halves: tuple[Tensor, Tensor]) -> Float64[Tensor, " patterns"]:
    """The distribution over the states of the other side, its first unit in the lowest bit."""
    first, second = halves
    return (second.T @ (first * p[:, None])).flatten()
