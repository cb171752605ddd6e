"""The exercises of notebook 04: a label's free energy, the wake phase, unrolling a layer, principal components."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, seeded, shaped


@exercise("every label is tried with its hidden units summed out, and the features' own part is the same for all")
def label_free_energies(answer: Any) -> None:
    """`answer(f, W, U, c, b)`: the free energy of each row of features f with each label, (batch, labels).

    f is (batch, features), W (features, hidden), U (labels, hidden), c (labels,) and b (hidden,).
    """
    g = seeded(3)
    f, W = (torch.rand(5, 4, generator=g) < 0.5).float(), torch.randn(4, 3, generator=g)
    U, c, b = torch.randn(2, 3, generator=g), torch.randn(2, generator=g), torch.randn(3, generator=g)
    energies = answer(f.clone(), W.clone(), U.clone(), c.clone(), b.clone())
    energies = shaped(energies, (5, 2), "one row for each row of f")
    x = (f @ W + b)[:, None] + U
    right = -c - F.softplus(x).sum(2)

    def same(other: Tensor) -> bool:
        """Whether both are equal but for a constant in each row: what does not depend on the label may be left out."""
        return close(energies - energies[:, :1], other - other[:, :1])

    if same(right):
        return
    if same(-right):
        raise Hint("Right but for the sign: the free energy is *minus* the logarithm of a sum, low where p is high.")
    if same(-F.softplus(x).sum(2)):
        raise Hint("The label has a bias of its own: -c[y].")
    if same(-c - F.softplus(x - b).sum(2)):
        raise Hint("The hidden units' input lacks their bias b.")
    if same(-c - x.sum(2)) or same(-c - x.sigmoid().sum(2)) or same(-c - x.relu().sum(2)):
        raise Hint("Each hidden unit is summed over both its states: log(1 + exp(input)), `F.softplus(input)`.")
    if same(-c - F.softplus(U + b).sum(1).expand(5, -1)):
        raise Hint("The hidden units see the label and not the features: their input is f @ W + U[y] + b.")
    if same(-c - F.softplus(f @ W + b).sum(1, keepdim=True)):
        raise Hint("The hidden units see the features and not the label: the row U[y] belongs to their input.")
    if same(-c - F.softplus(x).mean(2)):
        raise Hint("A sum over the hidden units, not their mean.")
    raise Hint("For each label y: -c[y] - Σ_j log(1 + exp(b_j + Σ_i f_i W_ij + U_yj)).")


@exercise("generation learns, by the delta rule, to bring back what recognition saw on its way up")
def wake(answer: Any) -> None:
    """`answer(below, above, G, a)`: the gradients of G (visible, hidden) and of a (visible,), as a pair.

    below (batch, visible) and above (batch, hidden) are the states that recognition gave both layers.
    """
    g = seeded(4)
    below, above = ((torch.rand(6, units, generator=g) < 0.5).float() for units in (4, 3))
    G, a = torch.randn(4, 3, generator=g), torch.randn(4, generator=g)
    grads = given(answer(below.clone(), above.clone(), G.clone(), a.clone()))
    if not isinstance(grads, tuple | list) or len(grads) != 2:
        raise Hint("Return two tensors, `return grad_of_G, grad_of_a`.")
    error = (above @ G.T + a).sigmoid() - below
    right = error.T @ above / 6
    grad = grads[0]
    if isinstance(grad, Tensor) and tuple(grad.shape) == (3, 4):
        raise Hint("The first is the wrong way round: G is (visible, hidden), and its gradient is too.")
    grad, bias = shaped(grad, (4, 3), "the gradient of G"), shaped(grads[1], (4,), "the gradient of a")
    if close(grad, right) and close(bias, error.mean(0)):
        return
    if close(grad, -right) and close(bias, -error.mean(0)):
        raise Hint("Right but for the sign: an optimizer subtracts, so probabilities less what was seen.")
    if close(grad, 6 * right):
        raise Hint("That is the sum over the batch: divide by the number of images.")
    linear = above @ G.T + a - below
    if close(grad, linear.T @ above / 6):
        raise Hint("The units below are binary: pass their input through a sigmoid before you compare.")
    if close(grad, -below.T @ above / 6):
        raise Hint("That is what was seen alone: the delta rule needs its difference to what generation says.")
    if close(grad, (((above @ G.T).sigmoid() - below).T @ above) / 6):
        raise Hint("The input of the units below lacks their bias a.")
    if close(grad, right):
        mend = "its sign" if close(bias, -error.mean(0)) else "it is the mean of the same difference over the images"
        raise Hint(f"G's is right. a's is not: {mend}.")
    if close(grad, -right):
        raise Hint("G's has the wrong sign: an optimizer subtracts, so probabilities less what was seen.")
    raise Hint("p = σ(a + above·Gᵀ); then (p - below)ᵀ above over the number of images, and the mean of p - below.")


@exercise("an RBM's way up is one Linear and a sigmoid, and a copy leaves the RBM as it is")
def unroll(answer: Any) -> None:
    """`answer(W, b)`: an nn.Linear from visible to hidden units, with copies of W (visible, hidden) and b of an RBM."""
    g = seeded(5)
    W, b, v = torch.randn(4, 3, generator=g), torch.randn(3, generator=g), torch.rand(6, 4, generator=g)
    weight, bias = nn.Parameter(W.clone()), nn.Parameter(b.clone())
    layer = given(answer(weight, bias))
    if not isinstance(layer, nn.Linear):
        raise Hint(f"Make an `nn.Linear(visible, hidden)`; yours is of type {type(layer).__name__}.")
    if (layer.in_features, layer.out_features) != (4, 3) or tuple(layer.weight.shape) != (3, 4):
        shape = tuple(layer.weight.shape)
        raise Hint(
            f"It takes 4 visible units to 3 hidden ones here: its weight is (3, 4), W transposed; yours {shape}."
        )
    if layer.bias is None or not close(layer.bias, b):
        raise Hint("Its bias is not b.")
    if not close(layer(v), v @ W + b):
        raise Hint("Its weight is not W transposed: `nn.Linear` multiplies by `weight.T`.")
    if not (layer.weight.requires_grad and layer.bias.requires_grad):
        raise Hint("It would not learn: its weight and bias must require gradients; `nn.Parameter(...)` makes them.")
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    if not (close(weight, W) and close(bias, b)):
        raise Hint("It shares its memory with the RBM: fine-tuning the net would change the RBM too. Copy, `clone()`.")


@exercise("the best linear code: what is left over is the variance of the directions that were dropped")
def principal_components(answer: Any) -> None:
    """`answer(x, mean, basis)`: x (images, pixels) brought back from its projection on `basis` (pixels, components)."""
    g = seeded(6)
    x = torch.randn(8, 5, generator=g) + 3
    mean = x.mean(0) + torch.tensor([0.5, -0.5, 1.0, 0.0, -1.0])  # that of other images, not of x
    basis = torch.linalg.qr(torch.randn(5, 2, generator=g))[0]
    projected = given(answer(x.clone(), mean.clone(), basis.clone()))
    if isinstance(projected, Tensor) and tuple(projected.shape) == (8, 2):
        raise Hint("That is the code, two numbers an image: go back to the pixels, `@ basis.T`.")
    projected = shaped(projected, (8, 5), "the images brought back")
    code = (x - mean) @ basis
    if close(projected, code @ basis.T + mean):
        return
    if close(projected, code @ basis.T):
        raise Hint("The mean was taken away before the projection: put it back at the end.")
    if close(projected, x @ basis @ basis.T) or close(projected, x @ basis @ basis.T + mean):
        raise Hint("The components are directions around the mean: take the mean away before you project.")
    raise Hint("Less the mean, onto the basis, back by its transpose, plus the mean.")
