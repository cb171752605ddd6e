"""Is this RBM healthy? What Hinton's guide tells one to watch, as numbers, and what they say in words.

Sections are those of Hinton 2010, A practical guide to training restricted Boltzmann machines. Where it gives no
threshold the one here is ours; each is a constant with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.likelihood import pseudo_log_likelihood
from dlkit.analysis.rbm_statistics import (
    IDLE,
    RARE,
    always_on,
    dead,
    idle,
    mean_difference,
    reconstruction_error,
    update_ratio,
    weight_kurtosis,
)
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.training import Run

FEW = 0.02  # part of the units that may be dead, always on or idle and the RBM be healthy all the same
DRIVE = 2.0  # nats: a unit whose input moves by less has hardly begun to learn, and may look like noise
NOISE = (2.7, 3.3)  # kurtosis: 3 is normal noise; filters learnt from digits have long tails, of 4.5 and up
ENOUGH = 100  # weights of a unit; the kurtosis of fewer says nothing
EXPLAINED = 0.05  # part of the error of the mean image that a reconstruction should take away at the least
UPDATE = 1e-3  # of the weights: what an update should be "to within about an order of magnitude" (§7)
UPDATE_RANGE = 30.0  # the factor by which it may exceed that: "about", and noise is large in the first epoch
GAP = 0.5  # standard deviations of the free energy: validation images can then be told from training images (§6)
FLIPPED = 50  # images whose pixels are all flipped in turn: one pixel of each of 5,000 images says as much


@dataclass(frozen=True)
class Health:
    """The numbers of one look at an RBM; `problems` and `verdict` say what they mean.

    hidden, dead, always_on, idle: units. activity: part of the images for which a unit is on, on average. drive: how
    far the input of the median unit moves from image to image, nats (standard deviation). kurtosis: of the weights;
    None for few pixels, and for Gaussian ones, whose filters hardly differ from noise in it. update_ratio: None
    without an optimizer. free_energy_gap, its standard error, and the spread of the free energy over training images:
    nats. reconstruction: squared error per validation image; mean_image: that of the mean training image in its
    place. pseudo_log_likelihood: of the first 50 validation images, nats; None unless pixels are 0 or 1. finite:
    whether all parameters are numbers.
    """

    hidden: int
    dead: int
    always_on: int
    idle: int
    activity: float
    drive: float
    kurtosis: float | None
    update_ratio: float | None
    free_energy_gap: float
    gap_error: float
    spread: float
    reconstruction: float
    mean_image: float
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
                "image): train longer, raise the rate, or start with larger weights or with hidden biases below 0"
            )
        if self.reconstruction > (1 - EXPLAINED) * self.mean_image and not found:
            found.append(
                f"it has learnt next to nothing (a reconstruction has {self.reconstruction / self.mean_image:.0%} of "
                "the mean image's error): train longer, raise the rate, or use a smaller sparsity cost"
            )
        if self.kurtosis is not None and self.drive > DRIVE and NOISE[0] < self.kurtosis < NOISE[1]:
            found.append(
                f"the weights look like random numbers, not filters (kurtosis {self.kurtosis:.1f}), though an image "
                f"moves a unit's input by {self.drive:.1f} nats: start with smaller weights"
            )
        if self.update_ratio is not None and self.update_ratio > UPDATE * UPDATE_RANGE:
            found.append(
                f"the updates are {self.update_ratio:.2g} of the weights ({UPDATE:g} is the rule): lower the rate, "
                "or use larger batches"
            )
        if self.free_energy_gap > GAP * self.spread and self.free_energy_gap > 3 * self.gap_error:
            gap = f"{self.free_energy_gap:.1f} nats"
            found.append(
                f"it over-fits (validation images are {gap} less probable than training images): stop "
                "earlier, use more images, fewer hidden units, or more weight decay"
            )
        return found

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One sentence for each problem, or that there is none."""
        if self.healthy:
            gap = f"the free-energy gap ({self.free_energy_gap:.1f} nats) is small beside what images differ by"
            return f"Healthy: all {self.hidden} units are of use, and {gap} ({self.spread:.1f})."
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
            ("reconstruction error", f"{self.reconstruction:.1f} an image (mean image: {self.mean_image:.1f})"),
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
    gap, gap_error = mean_difference(free_energy, rbm.free_energy(unseen))
    gaussian = isinstance(rbm, GaussianRBM)
    binary = not gaussian and bool(((unseen == 0) | (unseen == 1)).all())
    return Health(
        hidden=rbm.hidden,
        dead=int(dead(p).sum()),
        always_on=int(always_on(p).sum()),
        idle=int(idle(p).sum()),
        activity=float(p.mean()),
        drive=float(x.std(0, correction=0).median()),
        kurtosis=None if gaussian or rbm.visible < ENOUGH else weight_kurtosis(rbm),
        update_ratio=None if optimizer is None else update_ratio(rbm, optimizer),
        free_energy_gap=gap,
        gap_error=gap_error,
        spread=float(free_energy.std()),
        reconstruction=float(reconstruction_error(rbm, unseen).mean()),
        mean_image=float((unseen - seen.mean(0)).square().sum(1).mean()),
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
