"""The exercises of notebook 03: features, an RBM upside down, inputs with holes, and a step towards a sparse code."""

from typing import Any

import torch

from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, random_rbm, seeded, tensor
from dlkit.models import RBM


def _rbm(visible: int, hidden: int) -> RBM:
    """An RBM whose weights and biases are all different, and require no gradients."""
    return random_rbm(visible, hidden, seeded(5)).requires_grad_(False)


@exercise("the features of one layer are the data of the next, and one matrix product makes them for a whole batch")
def features(answer: Any) -> None:
    """`answer(v, W, b)`: p(h = 1 | v) of each row of v, (batch, hidden)."""
    for visible, hidden in ((4, 4), (5, 3)):  # square first: there a transposed W shows as wrong values
        rbm = _rbm(visible, hidden)
        v, W, b = torch.rand(6, visible, generator=seeded(5)), rbm.W.detach(), rbm.b.detach()
        p, x = tensor(answer(v.clone(), W.clone(), b.clone())), v @ W + b
        if p.shape == (hidden, 6):
            raise Hint("Yours is (hidden, batch): keep a row for each image, as v has, so that layers can be chained.")
        if p.shape != (6, hidden):
            raise Hint(f"6 images and {hidden} hidden units give (6, {hidden}); yours has shape {tuple(p.shape)}.")
        if close(p, x):
            raise Hint("That is the input of each hidden unit. Its probability is the sigmoid of it.")
        if close(p, v @ W):
            raise Hint("That is vᵀW alone: the bias b comes to it, and then the sigmoid of the sum.")
        if close(p, (v @ W).sigmoid()):
            raise Hint("The bias b is missing: it decides what a unit does when all pixels are off.")
        if close(p, (v @ W).sigmoid() + b):
            raise Hint("The bias belongs inside the sigmoid: outside, a probability could leave 0 to 1.")
        if visible == hidden and (close(p, (v @ W.T + b).sigmoid()) or close(p, v @ W.T + b)):
            raise Hint("That is the product with Wᵀ. W is (visible, hidden) and v (batch, visible): v @ W.")
        if close(p, (-x).sigmoid()):
            raise Hint("That is the probability of *off*: a positive input makes a unit more likely to be on.")
        if close(p, x.softmax(1)):
            raise Hint("softmax makes the units share a probability of 1. Hidden units are free: sigmoid.")
        if ((p == 0) | (p == 1)).all():
            raise Hint("Those are samples, 0 or 1. Return the probabilities: the next layer learns with less noise.")
        if not close(p, x.sigmoid()):
            raise Hint("p(h_j = 1 | v) is σ(b_j + Σ_i v_i W_ij): one product of matrices, the bias, the sigmoid.")


@exercise(
    "upside down it is the same machine, and stacked on itself it gives every image the probability it gave alone"
)
def upside_down(answer: Any) -> None:
    """`answer(rbm)`: an RBM whose visible units are the hidden units of `rbm`: its E(h, v) is the E(v, h) of `rbm`."""
    for visible, hidden in ((4, 4), (5, 3)):  # square first: there nothing is caught by its shape
        rbm = _rbm(visible, hidden)
        before = {name: value.clone() for name, value in rbm.named_parameters()}
        top = given(answer(rbm))
        if any(not torch.equal(value, before[name]) for name, value in rbm.named_parameters()):
            raise Hint("The RBM that was given has itself changed: leave it, it stays as the lower layer.")
        if not isinstance(top, RBM):
            raise Hint(f"Return an RBM: RBM(rbm.hidden, rbm.visible), filled in. Yours is a {type(top).__name__}.")
        if top is rbm:
            raise Hint("That is the very same RBM, the right way up: its visible units are still the pixels.")
        if (top.visible, top.hidden) != (hidden, visible):
            raise Hint(
                f"Its visible units are the {hidden} hidden ones of the RBM below, and it has {visible} hidden units; "
                f"yours has {top.visible} visible and {top.hidden} hidden."
            )
        W, a, b = (value.detach() for value in (top.W, top.a, top.b))
        if visible == hidden and close(W, rbm.W):
            raise Hint("W is as it was: what were rows (one a pixel) must become columns.")
        if close(W, -rbm.W.T):
            raise Hint("W has changed its sign: the energy of each pair of units stays what it was.")
        if not close(W, rbm.W.T):
            raise Hint("W of the upper RBM joins the same units by the same weights: it is the transpose.")
        if not a.any() or not b.any():
            missing = " and ".join(name for name, value in (("a", a), ("b", b)) if not value.any())
            raise Hint(f"Still 0: {missing}. Without every unit's bias the energy is another one.")
        if visible == hidden and close(a, rbm.a) and close(b, rbm.b):
            raise Hint("The biases are not swapped: each unit keeps its own, and hidden units have become visible.")
        if not close(a, rbm.b):
            raise Hint("`a`, the bias of the upper RBM's visible units, is not that of the hidden units below.")
        if not close(b, rbm.a):
            raise Hint("`b`, the bias of the upper RBM's hidden units, is not that of the pixels.")
        memory = {value.untyped_storage().data_ptr() for value in rbm.parameters()}
        if any(value.untyped_storage().data_ptr() in memory for value in top.parameters()):
            raise Hint("It shares memory with the RBM below, so training the one would change both: copy the values.")


@exercise("zeros in other places each time, the rest as it was: there is no way to bring it back but to know digits")
def corrupt(answer: Any) -> None:
    """`answer(v, share, generator)`: v (batch, visible) with that share of its values, picked at random, set to 0."""
    v = 0.5 + 0.5 * torch.rand(300, 400, generator=seeded(5))
    before, share = v.clone(), 0.25
    corrupted = tensor(answer(v, share, seeded(5)))
    if not torch.equal(v, before):
        raise Hint("v itself has changed: the net is to bring back the whole image, so keep it, and return another.")
    if corrupted.shape != v.shape:
        raise Hint(f"It has as many inputs as v, {tuple(v.shape)}; yours has shape {tuple(corrupted.shape)}.")
    if torch.equal(corrupted, v):
        raise Hint("Nothing has been set to 0.")
    gone, kept = corrupted == 0, corrupted == v
    if not (gone | kept).all():
        if close(corrupted, torch.where(gone, 0, v / (1 - share))):
            raise Hint("You scaled up what is kept, as dropout does. Here it stays as it is: a hole, and no more.")
        if ((corrupted == 0) | (corrupted == 1)).all():
            raise Hint("That is the mask: multiply v by it.")
        raise Hint("Each input is either as it was or 0: yours has other values.")
    if gone.all(1).any() and not (gone.any(1) & ~gone.all(1)).any():
        raise Hint("Whole images are gone, and others are whole: each image loses a share of its own inputs.")
    if (gone == gone[0]).all():
        raise Hint("Every image has its holes at the same places: draw for each input of each image.")
    gone_share = float(gone.float().mean())
    if abs(gone_share - share) > 0.02:
        if abs(gone_share - (1 - share)) < 0.02:
            raise Hint(f"share=0.25, and {gone_share:.0%} of the inputs are gone: you *kept* that share.")
        raise Hint(f"share=0.25, and {gone_share:.0%} of the inputs are gone.")
    if not torch.equal(corrupted, answer(v, share, seeded(5))):
        raise Hint("An equal generator made other holes: draw from `generator`, so that a run can be repeated.")
    if torch.equal(corrupted, answer(v, share, seeded(6))):
        raise Hint("Another generator makes the same holes: draw from the `generator` that is given.")


@exercise("down the slope of the error, less the price of being used, and never below nothing: most parts stay at 0")
def ista_step(answer: Any) -> None:
    """`answer(h, v, D, rate, penalty)`: the code after one step of ISTA, max(0, h + rate ((v - hD)Dᵀ - penalty)).

    The code h is (batch, parts), the inputs v (batch, n), and the parts D (parts, n).
    """
    generator = seeded(5)
    D = torch.randn(5, 4, generator=generator)
    D /= D.norm(dim=1, keepdim=True)
    h, v = torch.rand(6, 5, generator=generator), 2 * torch.randn(6, 4, generator=generator)
    rate, penalty = 0.4, 0.7
    code = tensor(answer(h.clone(), v.clone(), D.clone(), rate, penalty))
    slope = (v - h @ D) @ D.T
    right = (h + rate * (slope - penalty)).clamp_min(0)
    if close(code, right):
        return
    if code.shape != (6, 5):
        raise Hint(f"6 inputs and 5 parts give a code of shape (6, 5); yours has shape {tuple(code.shape)}.")
    shrunk = h + rate * slope
    mistakes = {
        "Some of yours are below 0: a part can be left out, not taken away. max(0, …).": h + rate * (slope - penalty),
        "The penalty is missing: nothing keeps the code sparse.": shrunk,
        "The penalty must count *against* a part: minus.": h + rate * (slope + penalty),
        "That goes up the slope of the error: the sign of (v - hD)Dᵀ is wrong.": h + rate * (-slope - penalty),
        "The rate is missing: the step is too long, and may never settle.": h + slope - penalty,
        "The penalty too is multiplied by the rate: it is part of the slope.": h + rate * slope - penalty,
        "That compares each part with v itself; compare it with what is *left* of v when hD is taken off.": h
        + rate * (v @ D.T - penalty),
        "That is the change alone: add it to h, where the step began.": rate * (slope - penalty),
    }
    for hint, value in mistakes.items():
        if close(code, value) or close(code, value.clamp_min(0)):
            raise Hint(hint)
    if close(code, shrunk.sign() * (shrunk.abs() - rate * penalty).clamp_min(0)):
        raise Hint("That lets a part be used with either sign. Here h is at least 0: max(0, …).")
    raise Hint("max(0, h + rate·((v - hD)Dᵀ - penalty)): how well each part fits what is left of v, less the price.")
