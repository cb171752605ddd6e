"""Solutions to the exercises of notebook 04, each with a line of why. Try first: the checks give hints."""

import torch
import torch.nn.functional as F
from torch import nn

from dlkit.models import init_dream

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


# 5. Dreams on a budget: 10 of 10 points. Ten label units are few beside 500 features, and pull weakly. So let them pull
#    seven times as strongly at first, where the chain is far from any digit, and less from step to step: at the end the
#    label weighs what it weighed in training, and the chain draws clean digits. What it costs is variety: the stronger
#    the label, the more alike the dreams. The start matters too: `init_dream` has few features on, as digits have. From
#    features of which half are on, or none, the chain first has to find the way to any digit.


def dream_on_a_budget(dbn, labels, generator):
    top, steps = dbn.top, 20
    label_units = F.one_hot(labels, top.labels).float()
    state = init_dream(dbn, chains=len(labels), generator=generator)
    for step in range(steps):
        strength = 7 - 6 * step / (steps - 1)
        features, _ = top.split_labels(state)
        h = top.draw_hidden(top.hidden_given(torch.cat([features, strength * label_units], 1)), generator)
        state = top.draw_visible(top.visible_given(h), generator)
    return top.split_labels(state)[0]
