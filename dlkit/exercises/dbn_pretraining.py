"""The exercises of notebook 03: features, an RBM upside down, inputs with holes, a step to a sparse code, a stack."""

import torch
from torch import Tensor

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import close, floats, random_rbm, seeded, tensor
from dlkit.exercises.best_features import best_features
from dlkit.models import RBM

__all__ = ["best_features", "corrupt", "features", "ista_step", "upside_down"]


def _rbm(visible: int, hidden: int) -> RBM:
    """An RBM whose weights and biases are all different, and require no gradients."""
    return random_rbm(visible, hidden, seeded(5)).requires_grad_(False)


@exercise(
    "the features of one layer are the data of the next, and one matrix product makes them for a whole batch",
    deeper="For one image and one unit: add up v_i W_ij over the pixels i, add b_j, and take the sigmoid. v @ W adds "
    "up for every image (a row of v) and every unit (a column of W) at once.",
)
def features(answer: Answer) -> None:
    """`answer(v, W, b)`: p(h = 1 | v) of each row of v, (batch, hidden)."""
    for visible, hidden, images in ((4, 4, 6), (5, 3, 6), (3, 5, 1)):  # square first: a transposed W shows as values
        rbm = _rbm(visible, hidden)
        v, W, b = torch.rand(images, visible, generator=seeded(5)), rbm.W.detach(), rbm.b.detach()
        _judge_features(tensor(answer(v, W, b)), v, W, b)


def _judge_features(p: Tensor, v: Tensor, W: Tensor, b: Tensor) -> None:
    """Raise the hint of a mistake in p(h = 1 | v)."""
    (images, visible), hidden, x = v.shape, len(b), v @ W + b
    if p.shape == (hidden, images) and hidden != images:
        raise Hint("Yours is (hidden, batch): keep a row for each image, as v has, so that layers can be chained.")
    if p.shape == (hidden,):
        raise Hint(
            "That is one row, of one image or of all together: each image has a row, also if it is the only one."
        )
    if p.shape != (images, hidden):
        raise Hint(f"{images} image(s), {hidden} hidden units: ({images}, {hidden}); yours has shape {tuple(p.shape)}.")
    if not p.is_floating_point() or ((p == 0) | (p == 1)).all():
        raise Hint("Those are samples, 0 or 1. Return the probabilities: the next layer learns with less noise.")
    mistakes = [
        ("That is the input of each hidden unit. Its probability is the sigmoid of it.", x),
        ("That is vᵀW alone: the bias b comes to it, and then the sigmoid of the sum.", v @ W),
        ("The bias b is missing: it decides what a unit does when all pixels are off.", (v @ W).sigmoid()),
        ("The bias belongs inside the sigmoid: outside, a probability could leave 0 to 1.", (v @ W).sigmoid() + b),
        ("That is the probability of *off*: a positive input makes a unit more likely to be on.", (-x).sigmoid()),
        ("softmax makes the units share a probability of 1. Hidden units are free: sigmoid.", x.softmax(1)),
        ("tanh runs from -1 to 1. A probability runs from 0 to 1: sigmoid.", x.tanh()),
        ("That is 2 times the sigmoid's input: σ(x), not σ(2x).", (2 * x).sigmoid()),
        ("The bias is taken away from the input; it is added: v @ W + b.", (v @ W - b).sigmoid()),
    ]
    if visible == hidden:
        mistakes += [
            ("That is the product with Wᵀ. W is (visible, hidden), v (batch, visible): v @ W.", value)
            for value in ((v @ W.T + b).sigmoid(), v @ W.T + b)
        ]
    for hint, mistake in mistakes:
        if close(p, mistake):
            raise Hint(hint)
    if not close(p, x.sigmoid()):
        raise Hint("p(h_j = 1 | v) is σ(b_j + Σ_i v_i W_ij): one product of matrices, the bias, the sigmoid.")


@exercise(
    "upside down it is the same machine, and stacked on itself it gives every image the probability it gave alone",
    deeper="Write the energy of an RBM of two pixels and one hidden unit: -a_1 v_1 - a_2 v_2 - b h - v_1 W_1 h - "
    "v_2 W_2 h. Now call h visible and v hidden: which numbers are biases of visible units, and which of hidden ones?",
)
def upside_down(answer: Answer) -> None:
    """`answer(rbm)`: an RBM whose visible units are the hidden units of `rbm`: its E(h, v) is the E(v, h) of `rbm`."""
    for visible, hidden in ((4, 4), (5, 3), (2, 6)):  # square first: there nothing is caught by its shape
        rbm = _rbm(visible, hidden)
        top = answer(rbm)
        (lent,) = answer.lent
        if not isinstance(top, RBM):
            raise Hint(f"Return an RBM: RBM(rbm.hidden, rbm.visible), filled in. Yours is a {type(top).__name__}.")
        if top is lent:
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
        memory = {value.untyped_storage().data_ptr() for value in lent.parameters()}
        if any(value.untyped_storage().data_ptr() in memory for value in top.parameters()):
            raise Hint("It shares memory with the RBM below, so training the one would change both: copy the values.")


@exercise(
    "zeros in other places each time, the rest as it was: there is no way to bring it back but to know digits",
    deeper="Throw a die for each number of v: a uniform number below `share` says that this one goes. A comparison "
    "makes a mask of True and False for all of v at once; times v, or by torch.where, it makes a new tensor.",
)
def corrupt(answer: Answer) -> None:
    """`answer(v, share, generator)`: v (batch, visible) with that share of its values, picked at random, set to 0."""
    for images, visible, share, seed in ((60, 200, 0.25, 5), (30, 300, 0.6, 8), (1, 9000, 0.1, 2)):
        v = 0.5 + 0.5 * torch.rand(images, visible, generator=seeded(seed))
        corrupted = floats(answer(v, share, seeded(seed)))
        _judge_holes(corrupted, v, share)
        if not close(corrupted, tensor(answer(v, share, seeded(seed)))):
            raise Hint("An equal generator made other holes: draw from `generator`, so that a run can be repeated.")
        if close(corrupted, tensor(answer(v, share, seeded(seed + 1)))):
            raise Hint("Another generator makes the same holes: draw from the `generator` that is given.")


def _judge_holes(corrupted: Tensor, v: Tensor, share: float) -> None:
    """Raise the hint of a mistake in a copy of v with this share of holes."""
    if corrupted.shape != v.shape:
        raise Hint(f"It has as many inputs as v, {tuple(v.shape)}; yours has shape {tuple(corrupted.shape)}.")
    gone, kept = corrupted == 0, (corrupted - v).abs() < 1e-6
    if kept.all():
        raise Hint("Nothing has been set to 0.")
    if not (gone | kept).all():
        if close(corrupted, torch.where(gone, 0, v / (1 - share))):
            raise Hint("You scaled up what is kept, as dropout does. Here it stays as it is: a hole, and no more.")
        if ((corrupted == 0) | (corrupted == 1)).all():
            raise Hint("That is the mask: multiply v by it.")
        if close(corrupted, v * (1 - share)):
            raise Hint("Every input is a little smaller, and none is gone: draw which ones are set to 0.")
        raise Hint("Each input is either as it was or 0: yours has other values.")
    if len(v) > 1 and gone.all(1).any() and not (gone.any(1) & ~gone.all(1)).any():
        raise Hint("Whole images are gone, and others are whole: each image loses a share of its own inputs.")
    if len(v) > 1 and (gone == gone[0]).all():
        raise Hint("Every image has its holes at the same places: draw for each input of each image.")
    part = float(gone.float().mean())
    if abs(part - share) > 0.02:
        if abs(part - (1 - share)) < 0.02:
            raise Hint(f"share={share}, and {part:.0%} of the inputs are gone: you *kept* that share.")
        raise Hint(f"share={share}, and {part:.0%} of the inputs are gone.")
    pairs = float((gone[:, 1:] & gone[:, :-1]).float().mean())
    if abs(pairs - share**2) > 0.03:
        raise Hint("The holes lie side by side: one input says nothing about whether its neighbour is gone.")


@exercise(
    "down the slope of the error, less the price of being used, and never below nothing: most parts stay at 0",
    deeper="Take one input v = 3, one part D = 1, h = 0, a rate of 0.5 and a penalty of 1. What is left over is 3; the "
    "part fits it by 3; less the price that is 2; half a step of it is 1. So h becomes 1. Do the same from h = 1.",
)
def ista_step(answer: Answer) -> None:
    """`answer(h, v, D, rate, penalty)`: the code after one step of ISTA, max(0, h + rate ((v - hD)Dᵀ - penalty)).

    The code h is (batch, parts), the inputs v (batch, n), and the parts D (parts, n).
    """
    for images, parts, pixels, rate, penalty in ((6, 5, 4, 0.4, 0.7), (3, 3, 3, 0.1, 0.2), (1, 4, 7, 0.25, 1.5)):
        generator = seeded(parts)
        D = torch.randn(parts, pixels, generator=generator)
        D /= D.norm(dim=1, keepdim=True)
        h, v = torch.rand(images, parts, generator=generator), 2 * torch.randn(images, pixels, generator=generator)
        _judge_code(floats(answer(h, v, D, rate, penalty)), h, v, D, rate, penalty)


def _judge_code(code: Tensor, h: Tensor, v: Tensor, D: Tensor, rate: float, penalty: float) -> None:
    """Raise the hint of a mistake in the code after a step of ISTA from h."""
    slope = (v - h @ D) @ D.T
    if close(code, (h + rate * (slope - penalty)).clamp_min(0)):
        return
    if code.shape != h.shape:
        sizes = f"{len(h)} input(s) and {len(D)} parts give a code of shape {tuple(h.shape)}"
        raise Hint(f"{sizes}; yours has shape {tuple(code.shape)}.")
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
        "max(0, …) is of the change alone: the sum with h is what must not fall below 0.": h
        + (rate * (slope - penalty)).clamp_min(0),
    }
    for hint, value in mistakes.items():
        if close(code, value) or close(code, value.clamp_min(0)):
            raise Hint(hint)
    if close(code, shrunk.sign() * (shrunk.abs() - rate * penalty).clamp_min(0)):
        raise Hint("That lets a part be used with either sign. Here h is at least 0: max(0, …).")
    raise Hint("max(0, h + rate·((v - hD)Dᵀ - penalty)): how well each part fits what is left of v, less the price.")
