"""Oracles of the tests: small, slow and plain, by enumeration in float64. Nothing here calls the code it judges."""

import itertools

import torch
from torch import Tensor

from dlkit.models import RBM, GaussianRBM


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rbm(visible: int, hidden: int, seed: int = 0, std: float = 1.0) -> RBM:
    """An RBM whose weights and biases are all drawn from N(0, std²)."""
    return randomised(RBM(visible, hidden), seed, std)


def random_gaussian(visible: int, hidden: int, seed: int = 0, std: float = 1.0, learn_variance: bool = True):
    """A GaussianRBM likewise; each visible unit has a variance of its own, between about 1/3 and 3."""
    return randomised(GaussianRBM(visible, hidden, learn_variance=learn_variance), seed, std)


@torch.no_grad()
def randomised(rbm, seed: int, std: float):
    """The RBM, its parameters drawn anew from N(0, std²), and log-variances from N(0, 0.5²)."""
    generator = seeded(seed)
    for name, parameter in rbm.named_parameters():
        parameter.copy_((0.5 if name == "log_variance" else std) * torch.randn(parameter.shape, generator=generator))
    return rbm


def random_states(count: int, units: int, seed: int = 0, probability: float = 0.5) -> Tensor:
    """(count, units) float32, each unit on with this probability."""
    return (torch.rand(count, units, generator=seeded(seed)) < probability).float()


def every_state(units: int) -> Tensor:
    """All binary states, (2^units, units) float64; the last unit changes fastest."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def number_of(states: Tensor) -> Tensor:
    """For each binary state, its row in `every_state`."""
    return (states.long() * 2 ** torch.arange(states.shape[1] - 1, -1, -1)).sum(1)


def parameters(rbm) -> dict[str, Tensor]:
    """The parameters by name, in float64."""
    return {name: parameter.detach().double() for name, parameter in rbm.named_parameters()}


def log_joint(W: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """log p*(v, h) = a·v + b·h + vᵀWh of a binary RBM at every state: (2^visible, 2^hidden)."""
    v, h = every_state(W.shape[0]), every_state(W.shape[1])
    return (v @ a)[:, None] + (h @ b)[None] + v @ W @ h.T


def exact_log_z(rbm) -> float:
    """log Z, in nats."""
    return float(torch.logsumexp(log_joint(**parameters(rbm)).flatten(), 0))


def visible_distribution(rbm) -> Tensor:
    """p(v) of every visible state, (2^visible,)."""
    return torch.logsumexp(log_joint(**parameters(rbm)), 1).softmax(0)


def gibbs_matrix(rbm) -> Tensor:
    """T[v, v'] = Σ_h p(h|v) p(v'|h): the probability that one Gibbs step goes from v to v'."""
    joint = log_joint(**parameters(rbm))
    return joint.softmax(1) @ joint.softmax(0).T


def likelihood_gradient(rbm, images: Tensor) -> dict[str, Tensor]:
    """Gradient of the mean of -log p(v) over binary images, by autograd through the enumeration."""
    leaves = {name: value.requires_grad_() for name, value in parameters(rbm).items()}
    unnormalised = torch.logsumexp(log_joint(**leaves), 1)
    loss = (torch.logsumexp(unnormalised, 0) - unnormalised)[number_of(images)].mean()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def chi_square(states: Tensor, expected: Tensor) -> float:
    """Σ (observed - expected)² / expected, where `expected` has the probability of each state.

    It is distributed as χ² with len(expected) - 1 degrees of freedom, and is above `chi_square_bound` by chance less
    than once in 10^5.
    """
    observed = torch.bincount(number_of(states), minlength=len(expected)).double()
    expected = expected * len(states)
    assert (expected > 5).all(), "too few samples for χ²"
    return float(((observed - expected) ** 2 / expected).sum())


def chi_square_bound(outcomes: int) -> float:
    """Six standard deviations of χ² above its mean."""
    degrees = outcomes - 1
    return degrees + 6 * (2 * degrees) ** 0.5


class Doubled(torch.autograd.Function):
    """A function of autograd of somebody's own."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
