"""The exercises of notebook 01: energies and a Gibbs step (beside this), CD's statistics, the k it needs, a plan."""

from collections.abc import Iterator
from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from dlkit.analysis import exact
from dlkit.data import bars_and_stripes
from dlkit.exercises import Answer, Hint, Points, exercise, given, task
from dlkit.exercises.answers import close, number, numbers, refuse_mistakes, seeded, tensor
from dlkit.exercises.gibbs_steps import gibbs_step
from dlkit.exercises.rbm_energies import energy, free_energy, parameters_of, random_states
from dlkit.exercises.students_code import Raised
from dlkit.models import RBM

__all__ = ["cd_statistics", "energy", "free_energy", "gibbs_step", "plan", "smallest_k"]

MOST_STEPS, MOST_UPDATES, PATTERNS = 300_000, 3_000, 30
GOALS = ((-5.0, 3), (-4.5, 3), (-4.25, 2))  # nats an image, and the points for them


@exercise(
    "CD compares how often two units are on together in the data with how often in the chain",
    deeper="For one image v = (1, 0) and probabilities p = (0.9, 0.2) the products v_i p_j are the matrix with the "
    "rows (0.9, 0.2) and (0, 0): an outer product. For a batch, `v.T @ p` adds these up over the images; then divide.",
)
def cd_statistics(answer: Answer) -> None:
    """`answer(v_data, v_chain, W, b)`: the positive and the negative statistics, each (visible, hidden).

    They are the means over the batch of v_i p(h_j=1|v), of the data and of the chains.
    """
    W, _, b = parameters_of()
    data, chain = random_states(10, 3).chunk(2)
    statistics = _statistics(answer, data, chain, W, b)

    def up(v: Tensor, bias: Tensor = b) -> Tensor:
        """p(h = 1 | v)."""
        return (v @ W + bias).sigmoid()

    def both(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second])

    right = both(data.T @ up(data), chain.T @ up(chain)) / 5
    unbiased = both(data.T @ up(data, 0 * b), chain.T @ up(chain, 0 * b)) / 5
    positive, negative = right
    x, y = data @ W + b, chain @ W + b
    refuse_mistakes(
        statistics,
        [
            (right.flip(0), "The two are swapped: positive is from the data, negative from the chain."),
            (5 * right, "Those are sums over the batch: divide by the number of images."),
            (right / 3, "You divided by the pixels too: the mean is over the batch only."),
            (right * 5 / 3, "You divided by the number of visible units: divide by the number of images."),
            (right * 5 / 2, "You divided by the number of hidden units: divide by the number of images."),
            (-right, "Both have the wrong sign: these are averages of what is on together. The minus comes later."),
            (both(positive, -negative), "The negative half is an average too: the minus comes later."),
            (both(positive, positive), "Both are from the data: the negative half is from v_chain."),
            (both(positive, data.T @ up(chain) / 5), "The negative half pairs the chain's h with the *data's* v."),
            (both(positive, chain.T @ up(data) / 5), "The negative half pairs the chain's v with the *data's* h."),
            (unbiased, "The hidden biases are missing: p(h|v) = σ(b + Wᵀ v)."),
            (both(data.T @ x, chain.T @ y) / 5, "The sigmoid is missing: h enters as its probability."),
            (
                both(torch.outer(data.mean(0), up(data).mean(0)), torch.outer(chain.mean(0), up(chain).mean(0))),
                "That is the product of two means: multiply v_i and p_j for each image first, then take the mean.",
            ),
        ],
    )
    if not close(statistics, right):
        if (5 * statistics - (5 * statistics).round()).abs().max() < 1e-6:
            raise Hint("You sampled h: its probabilities have the same mean and less noise. Use those at both ends.")
        which = "positive" if not close(statistics[0], right[0]) else "negative"
        raise Hint(f"The {which} half is not the mean over the batch of v_i times p(h_j = 1 | v).")
    for batch, visible, hidden in ((1, 4, 5), (7, 2, 3), (8, 4, 4)):
        W, _, b = parameters_of(visible, hidden)
        data, chain = random_states(2 * batch, visible).chunk(2)
        right = torch.stack([v.T @ (v @ W + b).sigmoid() / batch for v in (data, chain)])
        try:
            found = _statistics(answer, data, chain, W, b)
        except Raised as raised:
            raise Hint(f"Right for 5 images of 3 pixels; with {batch} of {visible}, y{str(raised)[1:]}") from raised
        if not close(found, right):
            raise Hint(
                f"Right for 5 images of 3 pixels, not for {batch} of {visible}: is there a number in your code that "
                "should come from a shape?"
            )


def _statistics(answer: Answer, data: Tensor, chain: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Both halves, (2, visible, hidden). Raises Hint if they are not of that shape."""
    halves = answer(data, chain, W, b)
    if not hasattr(halves, "__len__") or isinstance(halves, str | dict) or len(halves) != 2:
        raise Hint("Return two tensors: the positive statistics, and the negative ones.")
    halves = [tensor(half) for half in halves]
    shape = tuple(W.shape)
    if W.shape[0] != W.shape[1] and any(tuple(half.shape) == shape[::-1] for half in halves):
        raise Hint("These are (hidden, visible): W is (visible, hidden), so vᵀ p, not pᵀ v.")
    for half in halves:
        if half.shape != shape:
            raise Hint(
                f"Each should have W's shape, {shape} here, a number a pair of units; yours is {tuple(half.shape)}."
            )
    return torch.stack([half.double() for half in halves])


@exercise(
    "what k you need depends on how far the machine has learnt, not on the data alone",
    deeper="In the table of cosines find the row of 1,000 updates: between which two k does it pass 0.9? Compute all k "
    "from one to the other, `exact.cd_gradients(half, v_data, range(...))`, and take the first that is good enough.",
)
def smallest_k(answer: Any, rbm: RBM, patterns: Tensor) -> None:
    """`answer` is the smallest k for which the mean gradient of CD-k has a cosine of 0.9 or more with the exact one."""
    value = number(answer)
    if value % 1 or value < 1:
        raise Hint(f"k is a whole number of Gibbs steps, 1 or more; yours is {value:.4g}.")
    k = int(value)
    if k > 200:
        raise Hint(f"{k} steps are far more than this machine needs: look at the table above.")
    true = exact.gradient(rbm, patterns)
    ks = [k] if k == 1 else [k - 1, k]
    cosines = {k: exact.cosine(g, true) for k, g in exact.cd_gradients(rbm, patterns, ks).items()}
    if cosines[k] < 0.9:
        raise Hint(f"CD-{k} is not there yet: its cosine is {cosines[k]:.3f} on this machine. Take a larger k.")
    if k > 1 and cosines[k - 1] >= 0.9:
        raise Hint(f"CD-{k} will do, its cosine is {cosines[k]:.3f}; but so will CD-{k - 1}. Take the smallest.")


@task
def plan(answer: Any) -> Iterator[Points]:
    """`answer`: phases (updates, k, chains a pattern, rate) of a training by CD-k on the 30 bars and stripes."""
    phases = _phases(answer)
    steps = sum(PATTERNS * chains * k * updates for updates, k, chains, _ in phases)
    updates = sum(phase[0] for phase in phases)
    if steps > MOST_STEPS or updates > MOST_UPDATES:
        raise Hint(
            f"Your plan costs {steps:,} Gibbs steps and {updates:,} updates: at most {MOST_STEPS:,} and "
            f"{MOST_UPDATES:,} are allowed."
        )
    yield Points(2, 2, f"{steps:,} Gibbs steps of at most {MOST_STEPS:,}, in {updates:,} updates")
    reached = sum(_trained(phases, seed) for seed in range(4)) / 4
    for goal, points in GOALS:
        got = f"{reached:.2f} nats an image" if isfinite(reached) else "no finite log-likelihood: the rate is too high"
        yield Points(points * (reached >= goal), points, f"{got}, where {goal:g} or more is asked for")


def _phases(answer: Any) -> list[tuple[int, int, int, float]]:
    """The phases of a plan. Raises Hint if they are none."""
    if not hasattr(given(answer), "__len__") or isinstance(answer, str | dict) or not len(answer):
        raise Hint("A plan is a list of phases, each (updates, k, chains, rate).")
    if any(not hasattr(phase, "__len__") for phase in answer):
        raise Hint("Each phase is four numbers in brackets of its own: [(updates, k, chains, rate)].")
    phases = [numbers(phase, 4, "a phase as (updates, k, chains, rate)") for phase in answer]
    for updates, k, chains, rate in phases:
        if any(value % 1 or value < 1 for value in (updates, k, chains)):
            raise Hint(f"Updates, k and chains are whole numbers, 1 or more; yours are {updates:g}, {k:g}, {chains:g}.")
        if rate <= 0:
            raise Hint(f"A rate is above 0; yours is {rate:g}.")
    return [(int(updates), int(k), int(chains), rate) for updates, k, chains, rate in phases]


def _trained(phases: list[tuple[int, int, int, float]], seed: int) -> float:
    """The log-likelihood that the plan reaches, in nats an image; NaN if the weights grow beyond all bounds.

    In plain products: the library's learner does more for each step than a machine this small takes.
    """
    patterns, generator = bars_and_stripes(4).flatten(1).double(), seeded(seed)
    rbm = RBM(16, 8, std=0.1, generator=generator).double().requires_grad_(False)
    W, a, b = rbm.W, rbm.a, rbm.b

    def draw(p: Tensor) -> Tensor:
        return (torch.rand(p.shape, generator=generator, dtype=p.dtype) < p).double()

    for updates, k, chains, rate in phases:
        data = patterns.repeat(chains, 1)
        for _ in range(updates):
            v, positive = data, torch.sigmoid(data @ W + b)
            negative = positive
            for _ in range(k):
                v = draw(torch.sigmoid(draw(negative) @ W.T + a))
                negative = torch.sigmoid(v @ W + b)
            W += rate * (data.T @ positive - v.T @ negative) / len(data)
            a += rate * (data - v).mean(0)
            b += rate * (positive - negative).mean(0)
    return exact.log_likelihood(rbm, patterns) if all(torch.isfinite(p).all() for p in (W, a, b)) else nan
