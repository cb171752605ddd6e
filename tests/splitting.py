"""What the tests of strategies share: experiments to split, and the difference between two models."""

import time
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from dlkit import Experiment, data
from dlkit.models import DBN, ConvNet, LeNet5
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.rbm import RBM
from dlkit.training import CD, PCD, Backprop, CrossEntropy, Reconstruction

STEPS = 12
MOST = 2000  # digits that a test here may ask for


@cache
def first_digits():
    train = data.load("mnist").train
    return train.images[:MOST].clone(), train.labels[:MOST].clone()


def digits(count=550):
    """Digits that do not divide into batches of 100; copied, because a view would send all of them to each rank."""
    images, labels = first_digits()
    assert count <= MOST
    return images[:count].clone(), labels[:count].clone()


def difference(model, other):
    """The largest relative difference between two models' tensors: |model - other| / |model|, in Euclidean norms."""
    pairs = zip(model.state_dict().items(), other.state_dict().values(), strict=True)
    return max(float((x - y).norm() / x.norm().clamp_min(1e-12)) for (_, x), y in pairs if x.is_floating_point())


def same_bits(model, other):
    """Whether all tensors of two models are equal to the bit."""
    return all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def slow_net(seconds):
    """A model for an experiment, each step of which takes so long and hardly computes; engines get it by value."""

    class Slow(nn.Sequential):
        def forward(self, images):
            time.sleep(seconds)
            return super().forward(images)

    return lambda: Slow(nn.Flatten(), nn.Linear(784, 10))


def small_dbn():
    return DBN([RBM(784, 60), RBM(60, 50)])


class TeachesFromState(Backprop):
    """A net that follows, in the learner's state; under ModelAveraging each rank has one of its own."""

    def start(self, model, data, batch_size, generator):
        self.state.update({name: p.detach().clone() for name, p in model.named_parameters()})
        self.net = model

    def loss(self, output, batch):
        taught = torch.func.functional_call(self.net, dict(self.state), batch.images)
        loss = F.cross_entropy(output, batch.labels) + F.mse_loss(output, taught)
        for name, p in self.net.named_parameters():
            self.state[name].lerp_(p.detach(), 0.1)
        return loss, {"loss": loss}


def experiments():
    """An experiment for each kind of learner, by name; the loss falls in each."""
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
    """A run without its data and its generators."""

    model: nn.Module
    history: list
    step: int
    stopped: str | None
    bytes_sent: int


def run(experiment, strategy=None, **settings):
    """Run the experiment; what a rank can send of the run."""
    finished = experiment.run(strategy=strategy, **{"steps": STEPS, "device": "cpu", "progress": False} | settings)
    bytes_sent = 0 if strategy is None else finished.shard.recorder.bytes_sent
    return Outcome(finished.model, finished.history.rows, finished.step, finished.stopped, bytes_sent)
