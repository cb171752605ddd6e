"""What there is to see in an RBM: its units at work, its weights and their updates, its free energies.

Sections are those of Hinton 2010, A practical guide to training restricted Boltzmann machines.
"""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlkit.models.rbm import RBM

RARE = 1e-3  # a unit on for a smaller part of the images is dead, for a greater part than 1 - RARE always on
IDLE = 0.01  # part of the variance of a unit's state that must come from the image, not from the toss


@torch.no_grad()
def hidden_probabilities(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, "hidden images"]:
    """Probability that each unit (row) is on for each image (column): a dead unit is a black row. Source: §15."""
    return rbm.hidden_given(images.flatten(1)).T


def weight_kurtosis(rbm: RBM) -> float:
    """Kurtosis of a unit's weights, the median over units: 3 while they are the normal noise they started from."""
    W = rbm.W.detach() - rbm.W.detach().mean(0)
    return float((W.pow(4).mean(0) / W.square().mean(0).square().clamp_min(1e-30)).median())


def dead(probabilities: Float[Tensor, "hidden images"]) -> Bool[Tensor, " hidden"]:
    """Units that are on for less than 0.1 % of the images."""
    return probabilities.mean(1) < RARE


def always_on(probabilities: Float[Tensor, "hidden images"]) -> Bool[Tensor, " hidden"]:
    """Units that are on for more than 99.9 % of the images: second visible biases, no more."""
    return probabilities.mean(1) > 1 - RARE


def idle(probabilities: Float[Tensor, "hidden images"]) -> Bool[Tensor, " hidden"]:
    """Units neither dead nor always on whose state is a coin toss: under 1 % of its variance comes from the image."""
    p = probabilities
    q = p.mean(1)
    return (p.var(1, correction=0) < IDLE * q * (1 - q)) & ~dead(p) & ~always_on(p)


@torch.no_grad()
def influence(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, " hidden"]:
    """How much each unit moves the visible units' input from image to image: ‖W_j‖ times the spread of p(h_j).

    A unit that never changes has none. `.argsort(descending=True)` sorts filters by use.
    """
    return hidden_probabilities(rbm, images).std(1, correction=0) * rbm.W.norm(dim=0)


@torch.no_grad()
def reconstruction_error(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, " images"]:
    """Squared error of each image's reconstruction from the probabilities of its hidden units, summed over pixels.

    Source: §5, which warns: it falls when the model gets better, and also when the chain hardly moves.
    """
    v = images.flatten(1)
    return (v - rbm.visible_given(rbm.hidden_given(v))).square().sum(1)


@torch.no_grad()
def free_energy_gap(
    rbm: RBM, train: Float[Tensor, "images *shape"], validation: Float[Tensor, "others *shape"]
) -> tuple[float, float]:
    """Mean free energy of the validation images less that of the training images, and its standard error, in nats.

    log Z is in neither: the gap is the difference of the mean log-probabilities, exactly. Source: §6.
    """
    return mean_difference(rbm.free_energy(train.flatten(1)), rbm.free_energy(validation.flatten(1)))


@torch.no_grad()
def updates(rbm: RBM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer's next step, with the gradients at hand, would add to each parameter; nothing is changed."""
    twin = copy.deepcopy(optimizer)  # with its parameters and momenta, not with their gradients
    originals = [p for group in optimizer.param_groups for p in group["params"]]
    copies = [p for group in twin.param_groups for p in group["params"]]
    for original, p in zip(originals, copies, strict=True):
        p.grad = None if original.grad is None else original.grad.clone()
    twin.step()
    change = {id(original): p - original for original, p in zip(originals, copies, strict=True)}
    return {name: change[id(p)] for name, p in rbm.named_parameters() if id(p) in change}


@torch.no_grad()
def update_ratio(rbm: RBM, optimizer: torch.optim.Optimizer) -> float:
    """Mean size of a weight's update over the mean size of a weight; 0.001 is the rule of thumb. Source: §7."""
    return float(updates(rbm, optimizer)["W"].abs().mean() / rbm.W.abs().mean())


def mean_difference(seen: Float[Tensor, " images"], unseen: Float[Tensor, " others"]) -> tuple[float, float]:
    """How much larger the mean of the second is, and the standard error of that."""
    error = (seen.var() / len(seen) + unseen.var() / len(unseen)).sqrt()
    return float(unseen.mean() - seen.mean()), float(error)
