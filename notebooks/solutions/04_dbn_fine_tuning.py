"""Solutions to the exercises of notebook 04, each with a line of why. Try first: the checks give hints."""

import torch
import torch.nn.functional as F
from torch import nn

# 1. A label's free energy. The hidden units are summed out one by one, as in 01; the label only adds its row of U to
#    their input. The features' own -a·f is the same for every label and may be left out.


def label_free_energies(f, W, U, c, b):
    x = f @ W + b
    return torch.stack([-c[y] - F.softplus(x + U[y]).sum(1) for y in range(len(c))], dim=1)


# 2. The wake phase. Both layers are known, so the generative weights between them learn as those of a logistic
#    regression from above to below do: the gradient of its cross-entropy is the difference times the input.


def wake(below, above, G, a):
    difference = torch.sigmoid(above @ G.T + a) - below
    return difference.T @ above / len(below), difference.mean(0)


# 3. Unrolling. nn.Linear keeps (hidden, visible), the transpose of W; without the copy both would be trained.


def unroll(W, b):
    layer = nn.Linear(*W.shape)
    with torch.no_grad():
        layer.weight.copy_(W.T)
        layer.bias.copy_(b)
    return layer


# 4. Principal components. The directions of most variance are directions around the mean.


def principal_components(x, mean, basis):
    return (x - mean) @ basis @ basis.T + mean
