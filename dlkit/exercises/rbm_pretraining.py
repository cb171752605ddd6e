"""The exercises of notebook 02: CD as a gradient, the pseudo-likelihood's scale, an ill RBM, and whom to believe."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit import Experiment
from dlkit.analysis.diagnostics import examine
from dlkit.analysis.likelihood import LogProbability
from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, random_rbm, seeded
from dlkit.models import RBM

Estimates = Mapping[str, tuple[LogProbability, LogProbability]]  # by AIS, and by reverse AIS

AGREE = 3.0  # nats: two estimates that are no farther apart agree


def _rbm_and_batches() -> tuple[RBM, Tensor, Tensor]:
    """An RBM of 4 and 3 units, and two batches (6, 4), with which every usual mistake shows."""
    generator = seeded(5)
    rbm = random_rbm(4, 3, generator)
    x, v = ((torch.rand(6, 4, generator=generator) < 0.5).float() for _ in range(2))
    return rbm, x, v


@exercise(
    "CD's statistics are a gradient like any other: once they are in .grad, every torch optimizer can use them",
    changes=(0,),
)
def fill_grad(answer: Any) -> None:
    """`answer(rbm, x, v)` sets .grad of W, a and b from the data x and its reconstructions v, both (batch, visible)."""
    rbm, x, v = _rbm_and_batches()
    before = {name: value.detach().clone() for name, value in rbm.named_parameters()}
    answer(rbm, x.clone(), v.clone())
    for name, value in rbm.named_parameters():
        if not torch.equal(value, before[name]):
            raise Hint(f"rbm.{name} itself has changed: only set rbm.{name}.grad, the step is the optimizer's.")
    with torch.no_grad():
        p, q = (x @ rbm.W + rbm.b).sigmoid(), (v @ rbm.W + rbm.b).sigmoid()
    right = {"W": (v.T @ q - x.T @ p) / 6, "a": v.mean(0) - x.mean(0), "b": q.mean(0) - p.mean(0)}
    grads = {name: given_grad(rbm, name) for name in right}
    if all(close(grads[name], -right[name]) for name in right):
        raise Hint(
            "Right but for the sign: an optimizer *subtracts* .grad, and the statistics of the data are to be added. "
            ".grad is reconstruction less data."
        )
    for name, value in right.items():
        grad, terms = grads[name], {"W": "v_i p(h_j=1|v)", "a": "v_i", "b": "p(h_j=1|v)"}
        if close(grad, value):
            continue
        if close(grad, -value):
            raise Hint(f"{name}.grad has the wrong sign, though not all three have: reconstruction less data.")
        if close(grad, 6 * value) or close(grad, -6 * value):
            raise Hint(f"{name}.grad is a sum over the batch: divide by the number of images, or lr depends on it.")
        if name == "W" and (close(grad, v.T @ v.new_ones(6, 3) / 6 - x.T @ x.new_ones(6, 3) / 6)):
            raise Hint("W.grad has lost the hidden units: each pair counts v_i *times* p(h_j=1|v).")
        if name == "W" and close(grad, (v.T @ p - x.T @ p) / 6):
            raise Hint("W.grad pairs the reconstructions with the hidden units of the *data*: take p(h|v) of each.")
        raise Hint(f"{name}.grad is not the mean of {terms[name]} over the reconstructions less that over the data.")


def given_grad(rbm: RBM, name: str) -> Tensor:
    """The gradient of this parameter, which the answer has set. Raises Hint if it has not."""
    grad = getattr(rbm, name).grad
    if grad is None:
        raise Hint(f"rbm.{name}.grad is not set: W, a and b are all learnt.")
    return grad


@exercise("one conditional an image is enough, if it is multiplied by the number there are")
def pseudo_log_likelihood(answer: Any) -> None:
    """`answer(rbm, v, i)`: an estimate of Σ_i log p(v_i | the rest) of each image, (images,), in nats.

    `i` (images,) has the one pixel of each image to estimate it from.
    """
    rbm, x, _ = _rbm_and_batches()
    with torch.no_grad():
        conditionals = torch.stack([_conditional(rbm, x, torch.full((6,), i)) for i in range(4)], dim=1)
    i = torch.tensor([0, 1, 2, 3, 1, 0])
    estimates = given(answer(rbm, x.clone(), i.clone()))
    if not isinstance(estimates, Tensor):
        raise Hint(f"Return a tensor, one number an image; yours is of type {type(estimates).__name__}.")
    estimates = estimates.detach()
    log_p = conditionals[torch.arange(6), i]
    if estimates.ndim == 0 and close(estimates, 4 * log_p.mean()):
        raise Hint("That is the mean over the images: return one number an image, the mean can be taken later.")
    if estimates.shape != (6,):
        raise Hint(f"There are 6 images here, so 6 numbers; yours has shape {tuple(estimates.shape)}.")
    if close(estimates, log_p):
        raise Hint(
            "That is log p of *one* pixel given the others. The sum has as many terms as there are pixels, and this "
            "one was picked at random: what must it be multiplied by to stand for them all?"
        )
    if close(estimates, 784 * log_p):
        raise Hint("784 is right for MNIST only; the RBM of this check has 4 visible units. `rbm.visible` knows.")
    if close(estimates, 3 * log_p):
        raise Hint("You multiplied by the number of *hidden* units: the sum runs over the pixels.")
    if close(estimates, -4 * log_p):
        raise Hint("Right but for the sign: a log-probability is below 0.")
    if close(estimates, 4 * log_p.exp()):
        raise Hint("That is 4 times the probability: take its logarithm first.")
    flipped = torch.log1p(-log_p.exp())
    if close(estimates, 4 * flipped) or close(estimates, flipped):
        raise Hint("That is log p of the *flipped* pixel. Low free energy is high probability: F(flipped) - F(v).")
    if not close(estimates, 4 * log_p):
        raise Hint(
            "p(v_i | the rest) is σ(F(flipped) - F(v)): v and its flipped copy differ in pixel i only, so log Z and "
            "all else cancels. Then the logarithm, then the number of pixels."
        )


def _conditional(rbm: RBM, v: Tensor, i: Tensor) -> Tensor:
    """log p(v_i | the rest) of each image, by definition: the joint probabilities of both values of pixel i."""
    log_joints = []
    for value in (0.0, 1.0):
        changed = v.clone()
        changed[torch.arange(len(v)), i] = value
        log_joints.append(changed @ rbm.a + F.softplus(changed @ rbm.W + rbm.b).sum(1))
    chosen = torch.where(v[torch.arange(len(v)), i] == 1, log_joints[1], log_joints[0])
    return chosen - torch.logaddexp(log_joints[0], log_joints[1])


@exercise("an illness has signs, and each sign a usual cure")
def cure(answer: Any, ill: Experiment, train: Tensor, validation: Tensor) -> None:
    """`answer` is an Experiment like `ill` whose RBM is healthy, of the same size and in no more steps."""
    if not isinstance(answer, Experiment):
        raise Hint("Give an Experiment: `replace(ill, ...)` is `ill` with some settings changed.")
    if answer is ill:
        raise Hint("That is `ill` as it was: read the verdict, and change what it names.")
    model = answer.model()
    if not isinstance(model, RBM):
        raise Hint(f"It should train an RBM; yours trains a {type(model).__name__}.")
    wanted = ill.model()
    if isinstance(wanted, RBM) and (model.visible, model.hidden) != (wanted.visible, wanted.hidden):
        raise Hint(f"Another RBM is no cure: keep {wanted.visible} visible and {wanted.hidden} hidden units.")
    steps = min(e.epochs * -(-len(train) // e.batch_size) for e in (ill, answer))
    run = answer.run(steps=steps, progress=False)
    if not isinstance(run.model, RBM):
        return
    health = examine(run.model, train, validation, run.optimizer)
    if not health.healthy:
        raise Hint(f"The verdict on yours: {health.verdict}")


@exercise("two estimates that err to opposite sides and yet agree can be believed; one alone cannot")
def whom_to_believe(err_high: Any, trusted: Any, estimates: Estimates) -> None:
    """`err_high` is the method, "AIS" or "reverse AIS", that gives too high log-probabilities.

    `trusted` are the names of the rows of `estimates` that can be believed.
    """
    if err_high not in ("AIS", "reverse AIS"):
        raise Hint(f'The first answer is "AIS" or "reverse AIS"; yours is {err_high!r}.')
    if err_high == "reverse AIS":
        raise Hint(
            "log p(v) = -F(v) - log Z. AIS finds log Z too *low* when it is too quick, having missed states: on which "
            "side does that leave log p? Compare the rows with few temperatures."
        )
    if isinstance(trusted, str):
        trusted = [trusted]
    unknown = [name for name in trusted if name not in estimates]
    if unknown:
        raise Hint(f"There is no row {unknown[0]!r}: the rows are {', '.join(map(repr, estimates))}.")
    for name, (forward, reverse) in estimates.items():
        nats = abs(forward.value - reverse.value)
        if name in trusted and nats > AGREE:
            raise Hint(f"{name!r}: the two are {nats:.1f} nats apart. At least one of them is wrong: trust neither.")
        if name not in trusted and nats <= AGREE:
            raise Hint(f"{name!r}: the two are only {nats:.1f} nats apart, though they err to opposite sides.")
