"""What tests of strategies share: experiments to split, and how far two models are apart."""

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from dlkit import Experiment, data
from dlkit.models import DBN, ConvNet, LeNet5
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.rbm import RBM
from dlkit.training import CD, PCD, CrossEntropy, Reconstruction

STEPS = 20


def digits(count=1050):
    """Digits that do not divide into batches of 100; cloned, for with a view all 60,000 would travel to each rank."""
    train = data.load("mnist").train
    return train.images[:count].clone(), train.labels[:count].clone()


def difference(one, other):
    """The largest relative difference between two models' parameters: the norm of it over the norm of one's."""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return max(float((x - y).norm() / x.norm().clamp_min(1e-12)) for (_, x), y in pairs if x.is_floating_point())


def same_bits(one, other):
    return all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def small_dbn():
    return DBN([RBM(784, 60), RBM(60, 50)])


def experiments():
    """One of each kind of learner, by name; loss falls in each."""
    images, labels = digits()
    rows = images.flatten(1)
    return {
        "LeNet-5": Experiment(LeNet5, (images, labels), CrossEntropy(), lr=0.002, momentum=0.9),
        "ConvNet": Experiment(ConvNet, (images, labels), CrossEntropy(), lr=0.05, momentum=0.9),
        "DBN": Experiment(classifier, (rows, labels), CrossEntropy(), lr=0.05, momentum=0.9),
        "autoencoder": Experiment(autoencoder, rows, Reconstruction(corruption=0.1), lr=0.002, momentum=0.9),
        "CD": Experiment(partial(RBM, 784, 60), rows, CD(), lr=0.1, momentum=0.5, weight_decay=2e-4),
        "PCD": Experiment(partial(RBM, 784, 60), rows, PCD(k=2), lr=0.05),
        "autoassociator": Experiment(partial(Autoassociator, 784, 60), rows, Reconstruction(), lr=0.002),
    }


def classifier():
    return small_dbn().classifier(10)


def autoencoder():
    return small_dbn().autoencoder()


class Outcome(NamedTuple):
    model: nn.Module
    history: list
    step: int
    stopped: str | None
    sent: int


def run(experiment, strategy=None, **settings):
    """What came of a run, as a rank can send it."""
    found = experiment.run(strategy=strategy, **{"steps": STEPS, "device": "cpu", "progress": False} | settings)
    sent = 0 if strategy is None else found.shard.recorder.bytes_sent
    return Outcome(found.model, found.history.rows, found.step, found.stopped, sent)
