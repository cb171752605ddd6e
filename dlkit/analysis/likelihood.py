"""Log-probability of images under an RBM: exact for small models, by annealed importance sampling for large ones."""

import copy
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from dlkit.analysis.examining import examines
from dlkit.core.apple import is_apple, off_apple
from dlkit.core.evaluation import on_device_of
from dlkit.core.text_table import as_html
from dlkit.models.gibbs_chains import gibbs, init_chains
from dlkit.models.rbm import RBM, GaussianRBM

ENUMERABLE = 25


@dataclass(frozen=True)
class LogZ:
    """An estimate of log Z, in nats: `value`, and the interval `low` to `high` (three standard errors of Z).

    `log_weights` (chains,) are the logarithms of the importance weights whose mean estimates Z. `effective_chains` is
    the effective sample size, (Σw)²/Σw².
    """

    value: float
    low: float
    high: float
    log_weights: Float64[Tensor, " chains"]

    @property
    def effective_chains(self) -> float:
        return math.exp(2 * torch.logsumexp(self.log_weights, 0) - torch.logsumexp(2 * self.log_weights, 0))

    def __repr__(self) -> str:
        chains = f"{self.effective_chains:.0f} of {len(self.log_weights)} chains count"
        return f"LogZ({self.value:.2f}, {self.low:.2f} to {self.high:.2f}, {chains})"

    def _repr_html_(self) -> str:
        chains = f"{self.effective_chains:.0f} of {len(self.log_weights)}"
        return as_html(("", "nats", "low", "high", "effective chains"), [("log Z", *_interval(self), chains)])


@dataclass(frozen=True)
class LogProbability:
    """Mean log-probability of images, in nats: `value`, and the interval `low` to `high` that follows from log Z's."""

    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.2f} nats ({self.low:.2f} to {self.high:.2f})"

    def _repr_html_(self) -> str:
        return as_html(("", "nats", "low", "high"), [("log p, mean", *_interval(self))])

    @classmethod
    def normalised(cls, mean: float, log_z: LogZ | float) -> "LogProbability":
        """From the mean log-probability without its term -log Z, in nats."""
        if isinstance(log_z, LogZ):
            return cls(mean - log_z.value, mean - log_z.high, mean - log_z.low)
        return cls(mean - log_z, mean - log_z, mean - log_z)


def _interval(estimate: LogZ | LogProbability) -> tuple[str, str, str]:
    """Value, low and high, as text."""
    return f"{estimate.value:.2f}", f"{estimate.low:.2f}", f"{estimate.high:.2f}"


@examines
@torch.no_grad()
def exact_log_z(rbm: RBM, progress: bool = True) -> float:
    """log Z in nats, in float64, by enumerating the states of the visible or hidden units, whichever are fewer.

    Only binary units can be enumerated, at most 25 of them (25 take minutes). ValueError if neither side fits.
    """
    over_hidden = rbm.binary_hidden and (rbm.hidden <= rbm.visible or not rbm.binary_visible)
    units = rbm.hidden if over_hidden else rbm.visible
    if units > ENUMERABLE:
        raise ValueError(
            f"{units} units have 2^{units} states: exact log Z is for {ENUMERABLE} at most, use `ais(rbm)` instead."
        )
    rbm = _in_double(rbm)

    def log_weight(s: Tensor) -> Tensor:
        return s @ rbm.b + rbm.log_sum_visible(rbm.visible_input(s), rbm.a) if over_hidden else -rbm.free_energy(s)

    chunk = max(1, min(2**units, 2**22 // max(rbm.visible, rbm.hidden)))
    total = torch.tensor(-math.inf, dtype=torch.float64, device=rbm.W.device)
    with tqdm(total=2**units, disable=not progress, unit="state", unit_scale=True, delay=1) as bar:
        for start in range(0, 2**units, chunk):
            s = states(units, start, min(start + chunk, 2**units), device=rbm.W.device)
            total = torch.logaddexp(total, torch.logsumexp(log_weight(s), 0))
            bar.update(len(s))
    return float(total)


def states(
    units: int, start: int = 0, stop: int | None = None, device: torch.device | None = None
) -> Float64[Tensor, "states units"]:
    """The binary states with numbers `start` to `stop` (by default all 2^units), one per row, lowest bit first."""
    number = torch.arange(start, 2**units if stop is None else stop, device=device)
    return (number[:, None] >> torch.arange(units, device=device) & 1).double()


def reference_betas() -> Float64[Tensor, " temperatures"]:
    """The inverse temperatures of Salakhutdinov, Murray 2008: 0 to 0.5 by 0.001, to 0.9 by 0.0001, to 1 by 0.00001."""
    coarse = torch.arange(0, 500, dtype=torch.float64) / 1e3
    fine = torch.arange(5_000, 9_000, dtype=torch.float64) / 1e4
    finest = torch.arange(90_000, 100_001, dtype=torch.float64) / 1e5
    return torch.cat([coarse, fine, finest])


@examines
@torch.no_grad()
def ais(
    rbm: RBM,
    *,
    images: Float[Tensor, "images visible"] | None = None,
    chains: int = 100,
    betas: Float[Tensor, " temperatures"] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LogZ:
    """log Z by annealed importance sampling, in nats.

    Z is unbiased, so log Z is more often too low than too high. The chains start from independent visible units, with
    the pixel means of `images` (without images: the model's visible bias). W and b are multiplied by the inverse
    temperatures `betas`, which rise from 0 to 1, the model itself.
    Source: Salakhutdinov, Murray 2008, On the quantitative analysis of deep belief networks.
    """
    path = _Path(rbm, images, seed)
    betas = _checked(betas, chains)
    v = init_chains(rbm, chains, path.generator, a=path.base)
    log_weights, _ = path.anneal(v, betas, progress)
    return _estimate(path.log_z_start() + log_weights, sign=1)


@examines
@torch.no_grad()
def reverse_ais(
    rbm: RBM,
    start: Float[Tensor, "chains visible"],
    *,
    images: Float[Tensor, "images visible"] | None = None,
    burn_in: int = 1_000,
    betas: Float[Tensor, " temperatures"] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LogZ:
    """log Z by annealing from the model to independent units, in nats: more often too high than too low.

    The chains should start from exact samples of the model; here they come from `burn_in` Gibbs steps from `start`
    (usually training images). If this and `ais` differ by more than a few nats, trust neither.
    Source: Burda, Grosse, Salakhutdinov 2015, Accurate and conservative estimates of MRF log-likelihood, §3.
    """
    path = _Path(rbm, images, seed)
    betas = _checked(betas, len(start))
    v, _ = gibbs(rbm, start, steps=burn_in, generator=path.generator)
    log_weights, _ = path.anneal(v, betas.flip(0), progress)
    return _estimate(path.log_z_start() - log_weights, sign=-1)


@examines
def log_probability(rbm: RBM, v: Float[Tensor, "images visible"], log_z: LogZ | float) -> LogProbability:
    """Mean of log p(v) = -F(v) - log Z over the images, in nats."""
    _check_binary(rbm, v)
    with torch.no_grad():
        energies = torch.cat([rbm.free_energy(on_device_of(rbm, batch)) for batch in v.split(10_000)])
    mean = -float(off_apple(energies).double().mean())
    return LogProbability.normalised(mean, log_z)


@examines
@torch.no_grad()
def pseudo_log_likelihood(
    rbm: RBM, v: Float[Tensor, "images visible"], *, generator: torch.Generator | None = None
) -> Float[Tensor, " images"]:
    """Σ_i log p(v_i | the other units) of each image, in nats: exactly, or with a generator from one unit an image.

    The estimate from one unit is multiplied by the number of units, so both have the same scale and the same mean.
    Source: Besag 1975, Statistical analysis of non-lattice data.
    """
    if not rbm.binary_visible:
        raise ValueError(f"pseudo-log-likelihood is for binary visible units: a {type(rbm).__name__} has others.")
    _check_binary(rbm, v)
    v = on_device_of(rbm, v)
    x = rbm.hidden_input(v)
    if generator is not None:
        i = torch.randint(rbm.visible, (len(v),), generator=generator, device=generator.device).to(v.device)
        flipped = v.clone()
        flipped[torch.arange(len(v)), i] = 1 - flipped[torch.arange(len(v)), i]
        return rbm.visible * F.logsigmoid(rbm.free_energy(flipped) - rbm.free_energy_given(v, x))
    total = torch.zeros(len(v), dtype=v.dtype, device=v.device)
    softplus = F.softplus(x).sum(1)
    for i in range(rbm.visible):  # flipping unit i changes the hidden input by ±W_i: no matrix product is needed
        change = 1 - 2 * v[:, i]
        rise = change * rbm.a[i] + F.softplus(x + change[:, None] * rbm.W[i]).sum(1) - softplus
        total += F.logsigmoid(-rise)
    return total


class _Path:
    """The models of AIS at inverse temperatures β: visible bias (1-β)a₀ + βa, weights βW, hidden bias βb."""

    def __init__(self, rbm: RBM, images: Float[Tensor, "images visible"] | None, seed: int):
        self.rbm = rbm
        if not isinstance(rbm, RBM):
            mend = "give its top, `ais(dbn.top)`, and see `lower_bound`" if hasattr(rbm, "top") else "give an RBM"
            raise TypeError(f"a {type(rbm).__name__} has no energy to anneal: {mend}.")
        self.generator = torch.Generator(rbm.W.device).manual_seed(seed)
        self.base = rbm.a.detach()
        if images is not None:
            if isinstance(rbm, GaussianRBM):
                raise ValueError("a GaussianRBM is annealed from its own visible bias: leave images out.")
            base = copy.deepcopy(rbm)
            base.set_visible_bias(on_device_of(rbm, images))
            self.base = base.a.detach()

    def bias(self, beta: float) -> Tensor:
        """The visible bias (visible,) at β."""
        return torch.lerp(self.base, self.rbm.a, beta)

    def log_z_start(self) -> float:
        """log Z of the model at β = 0, in nats."""
        rbm, base = _in_double(self.rbm), off_apple(self.base).double()
        zeros = base.new_zeros(1, rbm.visible)
        return float(rbm.log_sum_visible(zeros, base) + rbm.log_sum_hidden(zeros.new_zeros(1, rbm.hidden)))

    def anneal(self, v: Tensor, betas: Tensor, progress: bool) -> tuple[Float64[Tensor, " chains"], Tensor]:
        """Log-weights Σ log p*_next(v) - log p*_current(v) along the betas, and the last states of the chains.

        The chains make one Gibbs step at each new β.
        """
        rbm = self.rbm
        log_weights = off_apple(v.new_zeros(len(v))).double()
        pairs = pairwise(betas.tolist())
        for beta, next_beta in tqdm(pairs, total=len(betas) - 1, disable=not progress, unit="temperature", delay=1):
            x = rbm.hidden_input(v)
            change = rbm.log_sum_hidden(x * next_beta) - rbm.log_sum_hidden(x * beta)
            change += rbm.visible_term(v, self.bias(next_beta)) - rbm.visible_term(v, self.bias(beta))
            log_weights += off_apple(change)
            h = rbm.draw_hidden(rbm.hidden_mean(x.mul_(next_beta)), self.generator)
            mean = rbm.visible_mean(rbm.visible_input(h).mul_(next_beta), self.bias(next_beta))
            v = rbm.draw_visible(mean, self.generator)
        return log_weights, v


def _in_double(rbm: RBM) -> RBM:
    """A copy of the RBM in float64, where it is; on the CPU if it is on Apple's GPU."""
    rbm = copy.deepcopy(rbm)
    return (rbm.cpu() if is_apple(rbm.W.device) else rbm).double()


def _checked(betas: Tensor | None, chains: int) -> Tensor:
    """The inverse temperatures, by default `reference_betas`. ValueError for too few chains or wrong betas."""
    if chains < 2:
        raise ValueError(f"{chains} chains: at least 2 are needed for an interval, and 100 are usual.")
    betas = reference_betas() if betas is None else betas.cpu().double()
    if betas[0] != 0 or betas[-1] != 1 or not (betas.diff() > 0).all():
        raise ValueError("betas must rise from 0 to 1: torch.linspace(0, 1, 1001) does.")
    return betas


def _estimate(logs: Float64[Tensor, " chains"], sign: int) -> LogZ:
    """log Z from the mean of exp(sign · logs), with three standard errors of that mean."""
    largest = (sign * logs).max()
    weights = torch.exp(sign * logs - largest)
    mean, error = weights.mean(), weights.std() / math.sqrt(len(weights))

    def log(value: Tensor) -> float:
        return sign * float(largest + value.log())

    low, high = sorted((log((mean - 3 * error).clamp_min(0)), log(mean + 3 * error)))
    return LogZ(log(mean), low, high, sign * logs)


def _check_binary(rbm: RBM, v: Tensor) -> None:
    """ValueError for pixels other than 0 and 1, unless the visible units are real-valued."""
    if rbm.pixel_range is not None and not ((v == 0) | (v == 1)).all():
        raise ValueError('these pixels are not all 0 or 1: load them with data.load("mnist", binarise="sample").')
