"""Statistics of an RBM: activity of its units, its weights and their updates, its free energies.

Sections are those of Hinton 2010, A practical guide to training restricted Boltzmann machines.
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlkit.analysis.examining import examines
from dlkit.core.evaluation import on_device_of
from dlkit.models.rbm import RBM

RARE = 1e-3  # a unit that is on for a smaller fraction of the images is dead; above 1 - RARE it is always on
IDLE = 0.01  # the smallest fraction of the variance of a unit's state that should come from the image


@examines
@torch.no_grad()
def hidden_probabilities(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, "hidden images"]:
    """Probability that each unit (row) is on for each image (column); a dead unit is a row of zeros. Source: §15."""
    return rbm.hidden_given(on_device_of(rbm, images.flatten(1))).T


@examines
def weight_kurtosis(rbm: RBM) -> float:
    """Median over the hidden units of the kurtosis of their weights: 3 for normally distributed weights."""
    W = rbm.W.detach() - rbm.W.detach().mean(0)
    return float((W.pow(4).mean(0) / W.square().mean(0).square().clamp_min(1e-30)).median())


def dead(probabilities: Float[Tensor, "hidden images"]) -> Bool[Tensor, " hidden"]:
    """Units that are on for less than 0.1 % of the images."""
    return probabilities.mean(1) < RARE


def always_on(probabilities: Float[Tensor, "hidden images"]) -> Bool[Tensor, " hidden"]:
    """Units that are on for more than 99.9 % of the images; they act only as a second visible bias."""
    return probabilities.mean(1) > 1 - RARE


def idle(probabilities: Float[Tensor, "hidden images"]) -> Bool[Tensor, " hidden"]:
    """Units whose state hardly depends on the image: less than 1 % of its variance, and neither dead nor always on."""
    p = probabilities
    mean = p.mean(1)
    return (p.var(1, correction=0) < IDLE * mean * (1 - mean)) & ~dead(p) & ~always_on(p)


@examines
@torch.no_grad()
def influence(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, " hidden"]:
    """Influence of each hidden unit j on the visible units: ‖W_j‖ times the standard deviation of p(h_j) over images.

    It is 0 for a unit that never changes. `.argsort(descending=True)` sorts the filters by influence.
    """
    return hidden_probabilities(rbm, images).std(1, correction=0) * rbm.W.norm(dim=0)


@examines
@torch.no_grad()
def reconstruction_error(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, " images"]:
    """Squared error of each image's reconstruction from the probabilities of its hidden units, summed over pixels.

    Source: §5, which warns that it also falls when the Gibbs chain mixes badly.
    """
    v = on_device_of(rbm, images.flatten(1))
    return (v - rbm.visible_given(rbm.hidden_given(v))).square().sum(1)


@examines
@torch.no_grad()
def free_energy_gap(
    rbm: RBM, train: Float[Tensor, "images *shape"], validation: Float[Tensor, "others *shape"]
) -> tuple[float, float]:
    """Mean free energy of the validation images minus that of the training images, and its standard error, in nats.

    log Z cancels: the gap is exactly the difference of the mean log-probabilities. Source: §6.
    """
    seen, unseen = (on_device_of(rbm, images.flatten(1)) for images in (train, validation))
    return mean_difference(rbm.free_energy(seen), rbm.free_energy(unseen))


@examines
@torch.no_grad()
def updates(rbm: RBM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer's next step would add to each parameter, by name, with its present .grad; nothing changes."""
    twin = copy.deepcopy(optimizer)  # copies parameters and momenta, but not gradients
    originals = [p for group in optimizer.param_groups for p in group["params"]]
    copies = [p for group in twin.param_groups for p in group["params"]]
    for original, p in zip(originals, copies, strict=True):
        p.grad = None if original.grad is None else original.grad.clone()
    twin.step()
    change = {id(original): p - original for original, p in zip(originals, copies, strict=True)}
    return {name: change[id(p)] for name, p in rbm.named_parameters() if id(p) in change}


@examines
@torch.no_grad()
def update_ratio(rbm: RBM, optimizer: torch.optim.Optimizer) -> float:
    """Mean |update of a weight| / mean |weight|; about 0.001 is the rule of thumb. Source: §7."""
    return float(updates(rbm, optimizer)["W"].abs().mean() / rbm.W.abs().mean())


def mean_difference(seen: Float[Tensor, " images"], unseen: Float[Tensor, " others"]) -> tuple[float, float]:
    """The mean of the second minus the mean of the first, and the standard error of the difference."""
    error = (seen.var() / len(seen) + unseen.var() / len(unseen)).sqrt()
    return float(unseen.mean() - seen.mean()), float(error)
