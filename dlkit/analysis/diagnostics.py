"""Is this RBM healthy? What Hinton's guide tells one to watch, as numbers, and what they say in words.

Sections are those of Hinton 2010, A practical guide to training restricted Boltzmann machines. Where it gives no
threshold the one here is ours; each is a constant with its reason.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlkit.analysis.likelihood import pseudo_log_likelihood
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.training import Run

RARE = 1e-3  # a unit on for a smaller part of the images is dead, for a greater part than 1 - RARE always on (§15)
IDLE = 0.01  # part of the variance of a unit's state that must come from the image, not from the toss
FEW = 0.02  # part of the units that may be dead, always on or idle and the RBM be healthy all the same
DRIVE = 8.0  # nats: an image that moves a unit's input by so much leaves it a probability within 0.0004 of 0 or 1 (§8)
UPDATE = 1e-3  # of the weights: what an update should be "to within about an order of magnitude" (§7)
UPDATE_RANGE = 30.0  # the factor by which it may exceed that: "about", and noise is large in the first epoch
FLIPPED = 50  # images whose pixels are all flipped in turn: one pixel of each of 5,000 images says as much
GAP = 0.5  # standard deviations of the free energy: validation images can then be told from training images (§6)


@torch.no_grad()
def hidden_probabilities(rbm: RBM, images: Float[Tensor, "images *shape"]) -> Float[Tensor, "hidden images"]:
    """Probability that each unit (row) is on for each image (column): a dead unit is a black row. Source: §15."""
    return rbm.hidden_given(images.flatten(1)).T


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
    return _difference(rbm.free_energy(train.flatten(1)), rbm.free_energy(validation.flatten(1)))


@torch.no_grad()
def updates(rbm: RBM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer's next step, with the gradients at hand, would add to each parameter; nothing is changed."""
    twin = copy.deepcopy(optimizer)  # its parameters, gradients and momenta are copied with it
    twin.step()
    originals = [p for group in optimizer.param_groups for p in group["params"]]
    stepped = [p for group in twin.param_groups for p in group["params"]]
    change = {id(before): after - before for before, after in zip(originals, stepped, strict=True)}
    return {name: change[id(p)] for name, p in rbm.named_parameters() if id(p) in change}


@torch.no_grad()
def update_ratio(rbm: RBM, optimizer: torch.optim.Optimizer) -> float:
    """Mean size of a weight's update over the mean size of a weight; 0.001 is the rule of thumb. Source: §7."""
    return float(updates(rbm, optimizer)["W"].abs().mean() / rbm.W.abs().mean())


@dataclass(frozen=True)
class Health:
    """The numbers of one look at an RBM; `problems` and `verdict` say what they mean.

    hidden, dead, always_on, idle: units. activity: part of the images for which a unit is on, on average. drive: how
    far the input of the median unit moves from image to image, nats (standard deviation). update_ratio: None without
    an optimizer. free_energy_gap, its standard error, and the spread of the free energy over training images: nats.
    reconstruction: squared error per validation image. pseudo_log_likelihood: of the first 50 validation images, nats;
    None unless pixels are 0 or 1. finite: whether all parameters are numbers.
    """

    hidden: int
    dead: int
    always_on: int
    idle: int
    activity: float
    drive: float
    update_ratio: float | None
    free_energy_gap: float
    gap_error: float
    spread: float
    reconstruction: float
    pseudo_log_likelihood: float | None
    finite: bool

    @property
    def problems(self) -> list[str]:
        """What is wrong, each with its usual cure; empty for a healthy RBM."""
        if not self.finite:
            return ["the parameters are no longer numbers: start again with a rate ten times lower"]
        found = []
        if self.dead > FEW * self.hidden:
            found.append(
                f"{self.dead} of {self.hidden} units are dead (on for less than {RARE:.1%} of the images): lower the "
                "rate, use a smaller sparsity cost, or start with smaller weights"
            )
        if self.always_on > FEW * self.hidden:
            found.append(
                f"{self.always_on} of {self.hidden} units are always on (for more than {1 - RARE:.1%} of the images): "
                "set the visible bias from the data, centre, lower the rate, or use a lower sparsity target"
            )
        if self.idle > FEW * self.hidden:
            found.append(
                f"{self.idle} of {self.hidden} units toss coins (less than {IDLE:.0%} of what they do comes from the "
                "image): train longer, or raise the rate if they do not wake up"
            )
        if self.drive > DRIVE:
            found.append(
                f"the weights are too large (an image moves a unit's input by {self.drive:.1f} nats, so its "
                "probability is 0 or 1 and learning stalls): start with smaller weights, or use more weight decay"
            )
        if self.update_ratio is not None and self.update_ratio > UPDATE * UPDATE_RANGE:
            found.append(
                f"the updates are {self.update_ratio:.2g} of the weights ({UPDATE:g} is the rule): lower the rate, "
                "or use larger batches"
            )
        if self.free_energy_gap > GAP * self.spread and self.free_energy_gap > 3 * self.gap_error:
            found.append(
                f"it over-fits (validation images are {self.free_energy_gap:.1f} nats less probable than training images): "
                "stop earlier, use more images, fewer hidden units, or more weight decay"
            )
        return found

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One sentence for each problem, or that there is none."""
        if self.healthy:
            return f"Healthy: all {self.hidden} units are of use, and no over-fitting is to be seen."
        return " ".join(problem[0].upper() + problem[1:] + "." for problem in self.problems)

    def rows(self) -> list[tuple[str, str]]:
        """Each number with its name and unit, as text."""
        optional = []
        if self.update_ratio is not None:
            optional.append(("update / weight", f"{self.update_ratio:.1e}"))
        if self.pseudo_log_likelihood is not None:
            optional.append(("pseudo-log-likelihood", f"{self.pseudo_log_likelihood:.1f} nats"))
        return [
            ("units: dead, always on, idle", f"{self.dead}, {self.always_on}, {self.idle} of {self.hidden}"),
            ("mean activity", f"{self.activity:.1%}"),
            ("drive", f"{self.drive:.1f} nats"),
            ("free-energy gap", f"{self.free_energy_gap:.1f} ± {self.gap_error:.1f} nats"),
            ("reconstruction error", f"{self.reconstruction:.1f} an image"),
            *optional,
        ]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join([self.verdict, *(f"  {name:<{width}}  {value}" for name, value in self.rows())])

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.rows())
        return f"<p><b>{escape(self.verdict)}</b></p><table>{body}</table>"


@torch.no_grad()
def examine(
    rbm: RBM,
    train: Float[Tensor, "images *shape"],
    validation: Float[Tensor, "others *shape"],
    optimizer: torch.optim.Optimizer | None = None,
) -> Health:
    """Look at an RBM with some images that it learns from and some that it does not; a thousand of each are plenty.

    `optimizer`, as `run.optimizer` is, tells how large the updates are.
    """
    seen, unseen = train.flatten(1), validation.flatten(1)
    x = rbm.hidden_input(seen)
    p, free_energy = x.sigmoid().T, rbm.free_energy_given(seen, x)
    gap, gap_error = _difference(free_energy, rbm.free_energy(unseen))
    binary = not isinstance(rbm, GaussianRBM) and bool(((unseen == 0) | (unseen == 1)).all())
    return Health(
        hidden=rbm.hidden,
        dead=int(dead(p).sum()),
        always_on=int(always_on(p).sum()),
        idle=int(idle(p).sum()),
        activity=float(p.mean()),
        drive=float(x.std(0, correction=0).median()),
        update_ratio=None if optimizer is None else update_ratio(rbm, optimizer),
        free_energy_gap=gap,
        gap_error=gap_error,
        spread=float(free_energy.std()),
        reconstruction=float(reconstruction_error(rbm, unseen).mean()),
        pseudo_log_likelihood=float(pseudo_log_likelihood(rbm, unseen[:FLIPPED]).mean()) if binary else None,
        finite=all(bool(value.isfinite().all()) for value in rbm.parameters()),
    )


def watch(
    train: Float[Tensor, "images *shape"], validation: Float[Tensor, "others *shape"]
) -> Callable[[Run], dict[str, float]]:
    """A callback for `Experiment.run`: `examine` at each row, its main numbers as columns of the history.

    With a thousand images of each a look takes about as long as ten steps.
    """

    def look(run: Run) -> dict[str, float]:
        if not isinstance(run.model, RBM):
            raise TypeError(f"watch is for an RBM, and this run trains a {type(run.model).__name__}: leave it out.")
        health = examine(run.model, train, validation)
        columns = ("free_energy_gap", "dead", "reconstruction", "pseudo_log_likelihood")
        return {name: value for name in columns if (value := getattr(health, name)) is not None}

    return look


def _difference(seen: Float[Tensor, " images"], unseen: Float[Tensor, " others"]) -> tuple[float, float]:
    """How much larger the mean of the second is, and the standard error of that."""
    error = (seen.var() / len(seen) + unseen.var() / len(unseen)).sqrt()
    return float(unseen.mean() - seen.mean()), float(error)
