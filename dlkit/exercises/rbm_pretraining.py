"""The exercises of notebook 02: CD as a gradient, the pseudo-likelihood's scale, an ill RBM, and whom to believe."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.analysis.likelihood import LogProbability
from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import close, random_rbm, seeded, tensor
from dlkit.exercises.rbm_plans import cure, sixteen_units
from dlkit.models import RBM

__all__ = ["cure", "fill_grad", "pseudo_log_likelihood", "sixteen_units", "whom_to_believe"]

Estimates = Mapping[str, tuple[LogProbability, LogProbability]]  # by AIS, and by reverse AIS

AGREE = 3.0  # nats: two estimates that are no farther apart agree
ROUNDED = 0.1  # nats: how far the table of the notebook is rounded


def _case(visible: int, hidden: int, images: int) -> tuple[RBM, Tensor, Tensor]:
    """An RBM with which every usual mistake shows, data of 0 and 1, and reconstructions from 0 to 1."""
    generator = seeded(visible + hidden + images)
    rbm = random_rbm(visible, hidden, generator)
    x = (torch.rand(images, visible, generator=generator) < 0.5).float()
    return rbm, x, torch.rand(images, visible, generator=generator)


@exercise(
    "CD's statistics are a gradient like any other: once they are in .grad, every torch optimizer can use them",
    changes=(0,),
    deeper="Take one image and one weight. The data say v_i p(h_j=1|v), the reconstruction says the same of its own "
    "pixels. The energy has -vWh, so -log p falls when W follows the data: .grad is reconstruction less data. For many "
    "images this is a product of matrices, images last in the first and first in the second.",
)
def fill_grad(answer: Answer) -> None:
    """`answer(rbm, x, v)` sets .grad of W, a and b from the data x and its reconstructions v, both (batch, visible)."""
    for case in ((4, 4, 6), (5, 3, 4), (3, 5, 1)):  # square first: there a transposed gradient shows as wrong values
        rbm, x, v = _case(*case)
        before = {name: value.detach().clone() for name, value in rbm.named_parameters()}
        answer(rbm, x, v)
        for name, value in rbm.named_parameters():
            if not torch.equal(value, before[name]):
                raise Hint(f"rbm.{name} itself has changed: only set rbm.{name}.grad, the step is the optimizer's.")
        _judge_gradients({name: given_grad(rbm, name) for name in before}, rbm, x, v)


def _judge_gradients(grads: dict[str, Tensor], rbm: RBM, x: Tensor, v: Tensor) -> None:
    """Raise the hint of a mistake in .grad of an RBM, by name."""
    n = len(x)
    with torch.no_grad():
        p, q = (x @ rbm.W + rbm.b).sigmoid(), (v @ rbm.W + rbm.b).sigmoid()
    right = {"W": (v.T @ q - x.T @ p) / n, "a": v.mean(0) - x.mean(0), "b": q.mean(0) - p.mean(0)}
    if all(close(grads[name], -right[name]) for name in right):
        raise Hint(
            "Right but for the sign: an optimizer *subtracts* .grad, and the statistics of the data are to be added. "
            ".grad is reconstruction less data."
        )
    counts = grads["b"] * n
    if counts.any() and close(counts, counts.round()) and not close(grads["b"], right["b"]):
        raise Hint("b.grad counts samples, 0 or 1, of the hidden units: take their probabilities, there is less noise.")
    terms = {"W": "v_i p(h_j=1|v)", "a": "v_i", "b": "p(h_j=1|v)"}
    usual = {
        "W.grad has lost the hidden units: each pair counts v_i *times* p(h_j=1|v).": (v - x).mean(0)[:, None]
        + 0 * rbm.W,
        "W.grad pairs the reconstructions with the hidden units of the *data*: take p(h|v) of each.": (v - x).T @ p / n,
        "W.grad pairs the data with the hidden units of the *reconstructions*: take p(h|v) of each.": (v - x).T @ q / n,
        "W.grad is a product of two means. The mean of the products is wanted: multiply image by image, then add.": (
            torch.outer(v.mean(0), q.mean(0)) - torch.outer(x.mean(0), p.mean(0))
        ),
        "W.grad is transposed: a row for each visible unit, a column for each hidden one, as W has.": right["W"].T,
    }
    for name, value in right.items():
        grad = grads[name]
        if close(grad, value):
            continue
        if close(grad, -value):
            raise Hint(f"{name}.grad has the wrong sign, though not all three have: reconstruction less data.")
        if n > 1 and (close(grad, n * value) or close(grad, -n * value)):
            raise Hint(f"{name}.grad is a sum over the batch: divide by the number of images, or lr depends on it.")
        for hint, mistake in usual.items():
            if name == "W" and (close(grad, mistake) or close(grad, -mistake)):
                raise Hint(hint)
        scale = float((grad * value).sum() / value.square().sum())
        if scale and close(grad, scale * value):
            raise Hint(f"{name}.grad is {scale:.3g} times what it should be here: divide by len(x), {n} images now.")
        raise Hint(f"{name}.grad is not the mean of {terms[name]} over the reconstructions less that over the data.")


def given_grad(rbm: RBM, name: str) -> Tensor:
    """The gradient of this parameter, which the answer has set. Raises Hint if it has not."""
    grad = getattr(rbm, name).grad
    if grad is None:
        raise Hint(f"rbm.{name}.grad is not set: W, a and b are all learnt.")
    return grad.detach()


@exercise(
    "one conditional an image is enough, if it is multiplied by the number there are",
    deeper="Take an RBM of two pixels. The sum is log p(v_1|v_2) + log p(v_2|v_1). You may look at one of the two, "
    "each as often as the other: what must you do with it so that on average you get the sum? And "
    "p(v_1|v_2) = p(v) / (p(v) + p(v with pixel 1 flipped)): divide both by p(v).",
)
def pseudo_log_likelihood(answer: Answer) -> None:
    """`answer(rbm, v, i)`: an estimate of Σ_i log p(v_i | the rest) of each image, (images,), in nats.

    `i` (images,) has the one pixel of each image to estimate it from.
    """
    cases = [(4, 3, 6, [0, 1, 2, 3, 1, 0]), (5, 5, 1, [3]), (3, 7, 5, [2, 2, 0, 1, 2])]
    for visible, hidden, images, picked in cases:
        rbm, v, _ = _case(visible, hidden, images)
        i = torch.tensor(picked)
        with torch.no_grad():
            conditionals = torch.stack([_conditional(rbm, v, torch.full((images,), k)) for k in range(visible)], dim=1)
        _judge_estimates(tensor(answer(rbm, v, i)), conditionals, i, hidden)


def _judge_estimates(estimates: Tensor, conditionals: Tensor, i: Tensor, hidden: int) -> None:
    """Raise the hint of a mistake, from log p of every pixel given the others (images, visible)."""
    n, visible = conditionals.shape
    log_p = conditionals[torch.arange(n), i]
    right = visible * log_p
    if close(estimates, right):
        return
    if estimates.ndim == 0 and n > 1:
        if close(estimates, right.mean()):
            raise Hint("That is the mean over the images: return one number an image, the mean can be taken later.")
        raise Hint("That is one number. Each image has an estimate of its own: do not add or average over images.")
    if estimates.shape != (n,):
        raise Hint(f"{n} image(s) here, so {n} number(s) in a row; yours has shape {tuple(estimates.shape)}.")
    flipped = torch.log1p(-log_p.exp())
    mistakes = {
        "That is log p of *one* pixel given the others. The sum has as many terms as there are pixels, and this one "
        "was picked at random: what must it be multiplied by to stand for them all?": log_p,
        f"784 is right for MNIST only; this RBM has {visible} visible units. `rbm.visible` knows.": 784 * log_p,
        "You multiplied by the number of *hidden* units: the sum runs over the pixels.": hidden * log_p,
        "Right but for the sign: a log-probability is below 0.": -right,
        "That is the number of pixels times the probability: take its logarithm first.": visible * log_p.exp(),
        "That is log p of the *flipped* pixel. Low free energy is high probability: F(flipped) - F(v).": visible
        * flipped,
        "That is log p of the flipped pixel, and of one only: σ(F(flipped) - F(v)), times the pixels.": flipped,
        "That is the sum over all pixels itself. It is exact, and takes a free energy for each: estimate it from pixel "
        "i alone.": conditionals.sum(1),
        "You took the same pixel of every image: image n is to be judged by its own pixel i[n].": (
            visible * conditionals[:, i[0]]
        ),
    }
    for hint, mistake in mistakes.items():
        if close(estimates, mistake):
            raise Hint(hint)
    scale = float((estimates / log_p).mean())
    if scale and close(estimates, scale * log_p):
        raise Hint(f"You multiply by {scale:.3g}; this RBM has {visible} visible units: `rbm.visible`.")
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


@exercise(
    "two estimates that agree can be believed if they err to opposite sides; one alone cannot, and not CD-1's two",
    deeper="A chain that has no time, or no way, to reach a valley leaves it out of the sum Z. Then log Z is too low, "
    "and log p(v) = -F(v) - log Z is too high. Where do AIS's chains come from, and where do those of reverse AIS?",
)
def whom_to_believe(err_high: Any, agree: Any, doubtful: Any, estimates: Estimates) -> None:
    """`err_high` is the method, "AIS" or "reverse AIS", that gives too high log-probabilities.

    `agree` are the names of the rows of `estimates` whose two values agree; `doubtful` is the name of the machine whose
    agreement says least.
    """
    method = str(err_high).strip().lower()
    if method not in ("ais", "reverse ais"):
        raise Hint(f'(a) The answer is "AIS" or "reverse AIS"; yours is {err_high!r}.')
    if method == "reverse ais":
        raise Hint(
            "(a) log p(v) = -F(v) - log Z. AIS finds log Z too *low* when it is too quick, having missed states: on "
            "which side does that leave log p? Compare the rows with few steps."
        )
    rows = names(agree, "(b)", estimates)
    for name, (forward, reverse) in estimates.items():
        nats = abs(forward.value - reverse.value)
        if name in rows and nats > AGREE + ROUNDED:
            raise Hint(f"(b) {name!r}: the two are {nats:.1f} nats apart. At least one of them is wrong.")
        if name not in rows and nats <= AGREE - ROUNDED:
            raise Hint(f"(b) {name!r}: the two are only {nats:.1f} nats apart, and are missing from your list.")
    for name in names(doubtful, "(c)", estimates):
        if "PCD" in name:
            raise Hint(
                f"(c) {name!r}: for the small machine trained by PCD the two estimates erred to opposite sides, as "
                "they should. For which one did both find log Z too low?"
            )
        if name != "CD-1":
            raise Hint(f"(c) {name!r}: of the two small machines above none was trained like this one.")


def names(answer: Any, part: str, estimates: Estimates) -> list[str]:
    """The names in an answer: one, or a collection of them. Raises Hint for one that no row has, or for none."""
    found = [answer] if isinstance(answer, str) else [str(name) for name in answer]
    unknown = [name for name in found if name not in estimates]
    if unknown:
        raise Hint(f"{part} There is no row {unknown[0]!r}: the rows are {', '.join(map(repr, estimates))}.")
    if not found and part == "(c)":
        raise Hint("(c) Give one name.")
    return found
