"""Small experiments by L-BFGS."""

from functools import partial

import torch
from splitting import digits
from torch import nn

from dlkit import Experiment
from dlkit.models import DBN, RBM
from dlkit.training import CrossEntropy, Reconstruction

IMAGES, LABELS = digits(300)
IMAGES = IMAGES[:, ::2, ::2].contiguous()


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 12), nn.Tanh(), nn.Linear(12, 10))


def unrolled():
    """A DBN unrolled to a deep autoencoder."""
    torch.manual_seed(1)
    return DBN([RBM(196, 20), RBM(20, 6)]).autoencoder()


def autoencoder():
    return nn.Sequential(nn.Flatten(), nn.Linear(196, 15), nn.Sigmoid(), nn.Linear(15, 196), nn.Sigmoid())


def small_convolutions():
    return nn.Sequential(nn.Unflatten(1, (1, 14)), nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(576, 10))


NETS = {
    "unrolled DBN": (unrolled, Reconstruction()),
    "autoencoder": (autoencoder, Reconstruction()),
    "CNN": (small_convolutions, CrossEntropy()),
}


def lbfgs(iterations):
    return partial(torch.optim.LBFGS, line_search_fn="strong_wolfe", max_iter=iterations, max_eval=10_000)


def experiment(make=net, learner=None, iterations=20, **settings):
    settings = {"batch_size": 300, "optimizer": lbfgs(iterations), "dtype": torch.float64} | settings
    learner = learner or CrossEntropy()
    data = (IMAGES, LABELS) if isinstance(learner, CrossEntropy) else IMAGES
    return Experiment(make, data, learner, lr=1.0, momentum=None, **settings)


def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def largest_difference(first, second):
    first, second = parameters(first), parameters(second)
    return ((first - second).abs().max() / second.abs().max()).item()
