"""Solutions to the exercises of notebook 03, each with a line of why. Try first: the checks give hints."""

from functools import partial

import torch

from dlkit import Experiment
from dlkit.models import RBM
from dlkit.training import CD, linear_schedule

# 1. Features. Given v the hidden units are free of each other, so each has a probability of its own; the next layer
#    takes these as its data. Means carry less noise than samples.


def features(v, W, b):
    return torch.sigmoid(v @ W + b)


# 2. Upside down. The energy has three terms: a·v, b·h and vᵀWh. Call h visible and v hidden, and the same three terms
#    are there if W is transposed and the biases change places. load_state_dict copies, so that the two can part.


def upside_down(rbm):
    top = RBM(rbm.hidden, rbm.visible)
    top.load_state_dict({"W": rbm.W.T, "a": rbm.b, "b": rbm.a})
    return top


# 3. Holes. A uniform number is at least `share` with probability 1 - share: a 0/1 mask, and a product that is a new
#    tensor. What is kept stays as it is: the net is told nothing about what is missing.


def corrupt(v, share, generator):
    return v * (torch.rand(v.shape, generator=generator) >= share)


# 4. A step of ISTA. v - hD is what the parts in use leave over; its product with a part says how much more of that part
#    would help. The penalty is what a part must be worth to be used, and a code below 0 is not allowed.


def ista_step(h, v, D, rate, penalty):
    return (h + rate * ((v - h @ D) @ D.T - penalty)).clamp(min=0)


# 5. The best features in 200 steps. One layer gets all the steps: a second one would learn from features that are not
#    learnt yet, and add little if they were. A pull to be on for 15 % of the images keeps units apart from each other:
#    a linear layer then has more to choose from. The rate is as high as it may be, and falls to 0, so that the noise of
#    the last steps does not stay in the weights.


def plan(train):
    sparse, rate = CD(sparsity_target=0.15, sparsity_cost=0.2), linear_schedule(0.3, 0, epochs=2)
    return [Experiment(partial(RBM, 784, 256), train[:10_000], sparse, epochs=2, lr=rate, momentum=0.5)]
