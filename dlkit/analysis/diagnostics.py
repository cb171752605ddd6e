"""Diagnosis of a trained RBM by the quantities that Hinton's guide recommends, with their usual remedies.

Sections are those of Hinton 2010, A practical guide to training restricted Boltzmann machines. Thresholds that it does
not give are our own; each is a constant with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import torch
from jaxtyping import Float
from torch import Tensor

from dlkit.analysis.examining import examines
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
from dlkit.core.evaluation import on_device_of
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.training import Run

FEW = 0.02  # fraction of units that may be dead, always on or idle in a healthy RBM
DRIVE = 2.0  # nats: a unit whose input varies less has hardly begun to learn, and may still look like noise
NOISE = (2.7, 3.3)  # kurtosis: 3 for normal noise; filters learnt from digits have 4.5 or more
ENOUGH = 100  # weights of a unit; the kurtosis of fewer is too uncertain
EXPLAINED = 0.05  # smallest fraction of the mean image's error that reconstructions should remove
UPDATE = 1e-3  # update / weight: it should be about this, "to within about an order of magnitude" (§7)
UPDATE_RANGE = 30.0  # factor by which it may exceed that, because updates are noisy in the first epoch
GAP = 0.5  # standard deviations of the free energy: a larger gap shows over-fitting (§6)
FLIPPED = 50  # images for the pseudo-log-likelihood with all pixels; as exact as one pixel of 5,000 images


@dataclass(frozen=True, repr=False)
class Health:
    """Measurements of an RBM; `problems` and `verdict` interpret them.

    hidden, dead, always_on, idle: numbers of units. activity: mean probability that a unit is on. drive: standard
    deviation of the input of the median unit over images, nats. kurtosis: of the weights; None for few or Gaussian
    visible units, for which it does not tell filters from noise. update_ratio: mean |update| / mean |weight|; None
    without an optimizer. free_energy_gap, gap_error (its standard error), spread (standard deviation of the free energy
    over training images): nats. reconstruction: squared error of a validation image's reconstruction; mean_image: that
    of the mean training image. pseudo_log_likelihood: of the first 50 validation images, nats; None unless pixels are 0
    or 1. finite: whether no parameter is NaN or infinite.
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
        """What is wrong, each with its usual remedy; empty for a healthy RBM."""
        if not self.finite:
            return ["the parameters are no longer numbers: start again with a rate ten times lower"]
        problems = []
        if self.dead > FEW * self.hidden:
            problems.append(
                f"{self.dead} of {self.hidden} units are dead (on for less than {RARE:.1%} of the images): lower the "
                "rate, use a smaller sparsity cost, or start with smaller weights"
            )
        if self.always_on > FEW * self.hidden:
            problems.append(
                f"{self.always_on} of {self.hidden} units are always on (for more than {1 - RARE:.1%} of the images): "
                "set the visible bias from the data, centre, lower the rate, or use a lower sparsity target"
            )
        if self.idle > FEW * self.hidden:
            problems.append(
                f"{self.idle} of {self.hidden} units toss coins (less than {IDLE:.0%} of what they do comes from the "
                "image): train longer, raise the rate, or start with larger weights or with hidden biases below 0"
            )
        if self.reconstruction > (1 - EXPLAINED) * self.mean_image and not problems:
            problems.append(
                f"it has learnt next to nothing (a reconstruction has {self.reconstruction / self.mean_image:.0%} of "
                "the mean image's error): train longer, raise the rate, or use a smaller sparsity cost"
            )
        if self.kurtosis is not None and self.drive > DRIVE and NOISE[0] < self.kurtosis < NOISE[1]:
            problems.append(
                f"the weights look like random numbers, not filters (kurtosis {self.kurtosis:.1f}), though an image "
                f"moves a unit's input by {self.drive:.1f} nats: start with smaller weights"
            )
        if self.update_ratio is not None and self.update_ratio > UPDATE * UPDATE_RANGE:
            problems.append(
                f"the updates are {self.update_ratio:.2g} of the weights ({UPDATE:g} is the rule): lower the rate, "
                "or use larger batches"
            )
        if self.free_energy_gap > GAP * self.spread and self.free_energy_gap > 3 * self.gap_error:
            gap = f"{self.free_energy_gap:.1f} nats"
            problems.append(
                f"it over-fits (validation images are {gap} less probable than training images): stop "
                "earlier, use more images, fewer hidden units, or more weight decay"
            )
        return problems

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def verdict(self) -> str:
        """One sentence for each problem, or one that says that there is none."""
        if self.healthy:
            gap = f"the free-energy gap ({self.free_energy_gap:.1f} nats) is small beside what images differ by"
            return f"Healthy: all {self.hidden} units are of use, and {gap} ({self.spread:.1f})."
        return " ".join(problem[0].upper() + problem[1:] + "." for problem in self.problems)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each measurement, with its unit, as text."""
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

    def __repr__(self) -> str:
        verdict = "healthy" if self.healthy else f"{len(self.problems)} problem{'s' * (len(self.problems) > 1)}"
        return f"Health({self.hidden} hidden units, {verdict})"

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join([self.verdict, *(f"  {name:<{width}}  {value}" for name, value in self.rows())])

    def _repr_html_(self) -> str:
        body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in self.rows())
        return f"<p><b>{escape(self.verdict)}</b></p><table>{body}</table>"


@examines
@torch.no_grad()
def examine(
    rbm: RBM,
    train: Float[Tensor, "images *shape"],
    validation: Float[Tensor, "others *shape"],
    optimizer: torch.optim.Optimizer | None = None,
) -> Health:
    """Measure an RBM on images that it was trained on and images that it was not; 1,000 of each are enough.

    `optimizer`, such as `run.optimizer`, adds the size of the updates.
    """
    seen, unseen = (on_device_of(rbm, images.flatten(1)) for images in (train, validation))
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


def health_metrics(
    train: Float[Tensor, "images *shape"], validation: Float[Tensor, "others *shape"]
) -> Callable[[Run], dict[str, float]]:
    """A callback for `Experiment.run` that adds the main measurements of `examine` to each row of the history.

    With 1,000 images of each a call takes about as long as ten training steps.
    """

    def measure(run: Run) -> dict[str, float]:
        if not isinstance(run.model, RBM):
            raise TypeError(
                f"health_metrics is for an RBM, and this run trains a {type(run.model).__name__}: leave it out."
            )
        health = examine(run.model, train, validation)
        columns = ("free_energy_gap", "dead", "reconstruction", "pseudo_log_likelihood")
        return {name: value for name in columns if (value := getattr(health, name)) is not None}

    return measure
