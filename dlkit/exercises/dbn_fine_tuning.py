"""The exercises of notebook 04: a label's free energy, the wake phase, unrolling a layer, principal components, dreams.

`dlkit.exercises.dream_budget` measures the last one.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit.exercises import Answer, Hint, Points, exercise, given, students_code, task
from dlkit.exercises.answers import close, floats, refuse_mistakes, seeded, shaped
from dlkit.exercises.dream_budget import BUDGET, judged


@exercise(
    "every label is tried with its hidden units summed out, and the features' own part is the same for all",
    deeper="No feature is on, there is one hidden unit, and its input is b + U[y]. Off, it adds exp(0) = 1 to the sum; "
    "on, it adds exp(b + U[y]). So F(y) = -c[y] - log(1 + exp(b + U[y])).",
)
def label_free_energies(answer: Answer) -> None:
    """`answer(f, W, U, c, b)`: the free energy of each row of features f with each label, (batch, labels).

    f is (batch, features), W (features, hidden), U (labels, hidden), c (labels,) and b (hidden,).
    """
    g = seeded(3)
    for batch, features, hidden, labels in ((5, 4, 3, 2), (3, 2, 6, 7), (1, 5, 2, 3)):
        f, W = torch.rand(batch, features, generator=g), torch.randn(features, hidden, generator=g)
        U, c, b = (torch.randn(*shape, generator=g) for shape in ((labels, hidden), (labels,), (hidden,)))
        energies = answer(f, W, U, c, b)
        _refuse_shapes(floats(energies), batch, hidden, labels)
        _judge_energies(shaped(energies, (batch, labels), "a row for each row of f, a column a label"), f, W, U, c, b)


def _refuse_shapes(energies: Tensor, batch: int, hidden: int, labels: int) -> None:
    shape = tuple(energies.shape)
    if shape in [(batch, labels, hidden), (labels, batch, hidden)]:
        raise Hint("That has a number for each hidden unit: add them up.")
    if shape == (labels, batch) and batch != labels:
        raise Hint(f"Yours is transposed, {shape}: a row for each image and a column for each label.")
    if shape == (batch,) and labels != batch:
        raise Hint("That is one number an image: each of the labels has a free energy of its own.")


def _judge_energies(energies: Tensor, f: Tensor, W: Tensor, U: Tensor, c: Tensor, b: Tensor) -> None:
    x = (f @ W + b)[:, None] + U
    right = -c - F.softplus(x).sum(2)

    def same(energies: Tensor, other: Tensor) -> bool:
        """Whether both are equal but for a constant in each row: what does not depend on the label may be left out."""
        return close(energies - energies[:, :1], (other - other[:, :1]).expand_as(energies))

    if same(energies, right):
        return
    log_of_sum = "Each hidden unit is summed over both its states: log(1 + exp(input)), `F.softplus(input)`."
    mistakes = [
        (-right, "Right but for the sign: the free energy is *minus* the logarithm of a sum, low where p is high."),
        ((-right).softmax(1), "Those are the probabilities: the free energies are asked, before any softmax."),
        (-F.softplus(x).sum(2), "The label has a bias of its own: -c[y]."),
        (c - F.softplus(x).sum(2), "A bias makes its own state more probable, and lowers its energy: *minus* c[y]."),
        (-c - F.softplus(x - b).sum(2), "The hidden units' input lacks their bias b."),
        (-c - x.sum(2), log_of_sum),
        (-c - x.sigmoid().sum(2), log_of_sum),
        (-c - x.relu().sum(2), log_of_sum),
        (-c - x.exp().sum(2), f"The state with the unit off belongs to the sum too. {log_of_sum}"),
        (-c - F.softplus(x.sum(2)), "Each hidden unit has a logarithm of its own: add those up, not the inputs."),
        (-c - F.softplus(x - (f @ W)[:, None]).sum(2), "The hidden units do not see the features, `f @ W`."),
        (-c.expand(len(f), -1), "The hidden units do not see the label: the row U[y] belongs to their input."),
        (-c - F.softplus(x).mean(2), "A sum over the hidden units, not their mean."),
    ]  # fmt: skip
    refuse_mistakes(energies, mistakes, same)
    raise Hint("For each label y: -c[y] - Σ_j log(1 + exp(b_j + Σ_i f_i W_ij + U_yj)).")


@exercise(
    "generation learns, by the delta rule, to bring back what recognition saw on its way up",
    deeper="One image, one unit above and one below, both on, G = a = 0. Generation says p = 1/2, and 1 was seen. The "
    "cross-entropy is -log p, its slope along the input of the unit below p - 1 = -1/2; and since the unit above is 1, "
    "that is the slope along G as well as along a.",
)
def wake(answer: Answer) -> None:
    """`answer(below, above, G, a)`: the gradients of G (visible, hidden) and of a (visible,), as a pair.

    below (batch, visible) and above (batch, hidden) are the states that recognition gave both layers.
    """
    g = seeded(4)
    for batch, visible, hidden in ((6, 4, 3), (5, 3, 3), (1, 2, 5)):
        below, above = ((torch.rand(batch, units, generator=g) < 0.5).float() for units in (visible, hidden))
        above[0, 0] = 1.0
        G, a = torch.randn(visible, hidden, generator=g), torch.randn(visible, generator=g)
        grad, bias = _pair(answer(below, above, G, a), visible, hidden)
        _judge_wake(grad, bias, below, above, G, a)


def _pair(grads: Any, visible: int, hidden: int) -> tuple[Tensor, Tensor]:
    """The two gradients. Raises Hint if there are not two, or of another shape."""
    if not isinstance(given(grads), tuple | list) or len(grads) != 2:
        raise Hint("Return two tensors, `return grad_of_G, grad_of_a`.")
    grad, bias = floats(grads[0]), floats(grads[1])
    if grad.shape == (visible,) and bias.ndim == 2:
        raise Hint("They are in the other order: G's gradient first, then a's.")
    if grad.shape == (hidden, visible) and hidden != visible:
        raise Hint("The first is the wrong way round: G is (visible, hidden), and its gradient is too.")
    if bias.ndim == 2 and bias.shape[1] == visible and grad.shape == (visible, hidden):
        raise Hint("a's gradient still has a row for each image: take the mean over them.")
    return shaped(grad, (visible, hidden), "the gradient of G"), shaped(bias, (visible,), "the gradient of a")


def _judge_wake(grad: Tensor, bias: Tensor, below: Tensor, above: Tensor, G: Tensor, a: Tensor) -> None:
    n, visible = below.shape
    p = (above @ G.T + a).sigmoid()

    def both(difference: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients that the delta rule gives for this difference below."""
        return difference.T @ above / n, difference.mean(0)

    right, right_bias = both(p - below)
    if close(grad, right) and close(bias, right_bias):
        return
    if close(grad, -right) and close(bias, -right_bias):
        raise Hint("Right but for the sign: an optimizer subtracts, so probabilities less what was seen.")
    if close(grad, right):
        mend = "its sign" if close(bias, -right_bias) else "it is the mean of the same difference over the images"
        raise Hint(f"G's is right. a's is not: {mend}.")
    mistakes = [
        (right.T, "The first is the wrong way round: G is (visible, hidden), and its gradient is too."),
        (-right, "G's has the wrong sign: an optimizer subtracts, so probabilities less what was seen."),
        (n * right, "That is the sum over the batch: divide by the number of images."),
        (right / visible, "That is divided by the number of units too: the cross-entropy is *summed* over the units."),
        (n * right / visible, "Divide by the number of images, not by that of the units."),
        (both(above @ G.T + a - below)[0], "The units below are binary: pass their input through a sigmoid first."),
        (both(-below)[0], "That is what was seen alone: the delta rule needs its difference to what generation says."),
        (both(p)[0], "That is what generation says alone: take away what was seen, `below`."),
        (both((above @ G.T).sigmoid() - below)[0], "The input of the units below lacks their bias a."),
        (both((p - below) * p * (1 - p))[0], "That is the squared error's: the cross-entropy's has no p (1 - p)."),
        (below.T @ ((below @ G).sigmoid() - above) / n, "That goes up, as in the sleep phase: G brings back `below`."),
    ]  # fmt: skip
    refuse_mistakes(grad, mistakes)
    raise Hint("p = σ(a + above·Gᵀ); then (p - below)ᵀ above over the number of images, and the mean of p - below.")


@exercise(
    "an RBM's way up is one Linear and a sigmoid, and a copy leaves the RBM as it is",
    deeper="`nn.Linear(4, 3)` holds a weight of (3, 4) and computes x @ weight.T + bias: so the weight is W.T. But "
    "`W.T`, `W.detach()` and `W.data` are all views of the same memory: only a copy has memory of its own.",
)
def unroll(answer: Answer) -> None:
    """`answer(W, b)`: an nn.Linear from visible to hidden units, with copies of W (visible, hidden) and b of an RBM."""
    g = seeded(5)
    for visible, hidden in ((4, 3), (3, 3), (2, 5)):
        W, b = nn.Parameter(torch.randn(visible, hidden, generator=g)), nn.Parameter(torch.randn(hidden, generator=g))
        _judge_layer(answer(W, b), W.detach(), b.detach(), torch.rand(6, visible, generator=g))
        if not (close(answer.lent[0], W) and close(answer.lent[1], b)):
            raise Hint(
                "It shares its memory with the RBM: fine-tuning the net would change the RBM too. Copy, `clone()`."
            )


def _judge_layer(layer: Any, W: Tensor, b: Tensor, v: Tensor) -> None:
    """Raises Hint if the layer is not right; sets its weights to 0."""
    visible, hidden = W.shape
    if isinstance(layer, nn.Sequential):
        raise Hint(
            "Return the `nn.Linear` alone: what it gives are the *inputs* of the hidden units, before a sigmoid."
        )
    if not isinstance(layer, nn.Linear):
        made = "the class" if isinstance(layer, type) else f"of type {type(given(layer)).__name__}"
        raise Hint(f"Make an `nn.Linear(visible, hidden)`; yours is {made}.")
    shape = tuple(layer.weight.shape)
    if (layer.in_features, layer.out_features) != (visible, hidden) or shape != (hidden, visible):
        raise Hint(
            f"It takes {visible} visible units to {hidden} hidden ones here: its weight is {(hidden, visible)}, W "
            f"transposed; yours {shape}."
        )
    if layer.bias is None or not close(layer.bias, b):
        raise Hint("Its bias is not b.")
    with students_code():
        inputs = layer(v.to(layer.weight.dtype))
    if not close(inputs, v @ W + b):
        untransposed = visible == hidden and close(inputs, v @ W.T + b)
        raise Hint(
            "Its weight is W: `nn.Linear` multiplies by `weight.T`, so it has to be W transposed."
            if untransposed
            else "Its weight is not W transposed: `nn.Linear` multiplies by `weight.T`."
        )
    if not (layer.weight.requires_grad and layer.bias.requires_grad):
        raise Hint("It would not learn: its weight and bias must require gradients; `nn.Parameter(...)` makes them.")
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()


@exercise(
    "the best linear code: what is left over is the variance of the directions that were dropped",
    deeper="Two pixels, mean (1, 1), one direction (1, 0). The image (3, 4) lies (2, 3) from the mean; its code is one "
    "number, 2; and back it is 2 · (1, 0) + (1, 1) = (3, 1).",
)
def principal_components(answer: Answer) -> None:
    """`answer(x, mean, basis)`: x (images, pixels) brought back from its projection on `basis` (pixels, components)."""
    g = seeded(6)
    for images, pixels, components in ((8, 5, 2), (3, 6, 1), (1, 4, 3)):
        x, mean = torch.randn(images, pixels, generator=g) + 3, 2 + torch.randn(pixels, generator=g)
        basis = torch.linalg.qr(torch.randn(pixels, components, generator=g))[0]
        projected = floats(answer(x, mean, basis))
        if tuple(projected.shape) == (images, components):
            raise Hint(f"That is the code, {components} numbers an image here: go back to the pixels, `@ basis.T`.")
        if tuple(projected.shape) == (pixels, images):
            raise Hint("Yours is transposed: a row is an image, as in x.")
        projected = shaped(projected, (images, pixels), "the images brought back")

        def back(x: Tensor, basis: Tensor = basis) -> Tensor:
            return x @ basis @ basis.T

        if close(projected, back(x - mean) + mean):
            continue
        own = x.mean(0)
        around = "The components are directions around the mean: take the mean away before you project."
        mistakes = [
            (back(x - mean), "The mean was taken away before the projection: put it back at the end."),
            (back(x), around),
            (back(x) + mean, around),
            (back(x - mean) - mean, "At the end the mean is put back: plus."),
            (back(x + mean) - mean, "First *minus* the mean, and at the end plus."),
            (back(x - own) + own, "That is the mean of x: `mean` is that of the images that the basis was made from."),
            (back(x - own), "That is the mean of x: take `mean`, and put it back at the end."),
            (x, "That is x itself, as if no direction were dropped: only the columns of `basis` are kept."),
        ]
        refuse_mistakes(projected, mistakes)
        raise Hint("Less the mean, onto the basis, back by its transpose, plus the mean.")


@task
def dream_on_a_budget(answer: Answer) -> Iterator[Points]:
    """`answer(dbn, labels, generator)`: features (100, 500) of the top RBM, dreams of the labels (100,), ten of each.

    Judged: steps of one chain, at most BUDGET; which digits LeNet-5 reads; how different dreams of one label are.
    """
    dreams = judged(answer)
    if dreams.steps > BUDGET:
        raise Hint(
            f"That took {dreams.steps:,.0f} steps of one chain; {BUDGET:,} are allowed: fewer chains, or fewer steps."
        )
    right, worst, apart = dreams.right, dreams.worst, dreams.apart
    yield Points(
        sum(right >= least for least in (55, 65, 75, 85)), 4, f"LeNet-5 reads {right} of 100 dreams as their label"
    )
    yield Points(
        sum(worst >= least for least in (2, 4, 6)), 3, f"of the label that comes off worst it reads {worst} of 10"
    )
    yield Points(
        sum(apart >= least for least in (0.45, 0.55, 0.65)),
        3,
        f"two dreams of a label, both read right, are {apart:.2f} times as far apart as two real digits of a label",
    )
