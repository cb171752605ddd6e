"""Every mend that an error of the analysis names does what it promises: what fails, its words, what is to be done."""

from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from oracles import seeded
from torch import nn

from dlkit import Experiment, analysis, data
from dlkit.analysis.codes import Codes
from dlkit.analysis.convolution_steps import check_parts
from dlkit.analysis.exact import log_likelihood
from dlkit.data import Split
from dlkit.models import DBN, RBM, ConvNet, GaussianRBM
from dlkit.strategies import DataParallel, cost
from dlkit.training import CrossEntropy

IMAGES = torch.rand(6, 28, 28, generator=seeded())
LABELS = torch.arange(6) % 3
ROWS = IMAGES.flatten(1)[:, :12]
BETAS = torch.linspace(0, 1, 11)
ais = partial(analysis.ais, betas=BETAS, progress=False)


@cache
def binary():
    return data.load("mnist", binarise="sample").train[:4].images


def conv():
    return nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.squash, self.lstm = nn.Tanh(), nn.LSTM(28, 4, batch_first=True)

    def forward(self, images):
        return self.lstm(self.squash(images))[0][:, -1]


def dbn(*sizes):
    return DBN([RBM(*pair, generator=seeded()) for pair in pairwise(sizes)])


def autoencoder(code=2):
    return nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(784, code)), nn.Sequential(nn.Linear(code, 784)))


def parts(images, *given):
    check_parts(images, *given)


def other_decoder(code):
    return nn.Sequential(autoencoder(2)[0], autoencoder(code)[1])


net = ConvNet()
CASES = [
    (
        lambda: analysis.integrated_gradients(net, IMAGES[0], 1, IMAGES[0][:3]),
        "both must be equal",
        lambda: analysis.integrated_gradients(net, IMAGES[0], 1, IMAGES[1]),
    ),
    (
        lambda: analysis.maximise(net, "c1", 0, IMAGES[0], blur_every=0),
        "at least 1, or None for no blur",
        lambda: [analysis.maximise(net, "c1", 0, IMAGES[0], blur_every=n, steps=2) for n in (1, None)],
    ),
    (
        lambda: analysis.maximise(net, "c1", 9, IMAGES[0]),
        "has 4, 0 to 3",
        lambda: [analysis.maximise(net, "c1", n, IMAGES[0], steps=1) for n in (0, 3)],
    ),
    (
        lambda: analysis.lower_bound(dbn(784, 5, 4), IMAGES, 1.0),
        r'load them with data.load\("mnist", binarise="sample"\)',
        lambda: analysis.lower_bound(dbn(784, 5, 4), binary(), 1.0),
    ),
    (
        lambda: analysis.log_probability(RBM(784, 5), IMAGES.flatten(1), 1.0),
        r'load them with data.load\("mnist", binarise="sample"\)',
        lambda: analysis.log_probability(RBM(784, 5), binary().flatten(1), 1.0),
    ),
    (
        lambda: analysis.lower_bound(dbn(784, 5, 4), binary()[:0], 1.0),
        "no images: give one at least",
        lambda: analysis.lower_bound(dbn(784, 5, 4), binary()[:1], 1.0),
    ),
    (
        lambda: Codes(autoencoder(), IMAGES, LABELS[:3]),
        "give one label an image",
        lambda: Codes(autoencoder(), IMAGES[:3], LABELS[:3]),
    ),
    (
        lambda: Codes(autoencoder(), IMAGES[:1], LABELS[:1]),
        "give two at least",
        lambda: Codes(autoencoder(), IMAGES[:2], LABELS[:2]),
    ),
    (
        lambda: Codes(nn.Sequential(*autoencoder(), nn.Sigmoid()), IMAGES, LABELS),
        r"give Sequential\(encoder, decoder\), such as dbn.autoencoder\(\)",
        lambda: Codes(dbn(784, 5, 2).autoencoder(), IMAGES, LABELS),
    ),
    (
        lambda: Codes(autoencoder(), IMAGES[:, :20], LABELS),
        "give images of the size it was trained on",
        lambda: Codes(autoencoder(), IMAGES, LABELS),
    ),
    (
        lambda: Codes(autoencoder(1), IMAGES, LABELS),
        "train an autoencoder whose code has two or more",
        lambda: [Codes(autoencoder(code), IMAGES, LABELS) for code in (2, 3)],
    ),
    (
        lambda: Codes(other_decoder(3), IMAGES, LABELS),
        "give the encoder and the decoder of one autoencoder",
        lambda: Codes(other_decoder(2), IMAGES, LABELS),
    ),
    (
        lambda: parts(IMAGES[:, None], net.c1[0], net.c1[1], net.s1[0]),
        r"as net.pad\(images\)\[:, 0\]",
        lambda: parts(net.pad(IMAGES)[:, 0], net.c1[0], net.c1[1], net.s1[0]),
    ),
    (
        lambda: parts(IMAGES, net.c2, net.c1[1], net.s1[0]),
        r"as net.c1\[0\]",
        lambda: parts(IMAGES, net.c1[0], net.c1[1], net.s1[0]),
    ),
    (
        lambda: parts(IMAGES, net.c1[0], torch.tanh, net.s1[0]),
        r"such as nn.Tanh\(\) or net.c1\[1\]",
        lambda: [parts(IMAGES, net.c1[0], activation, net.s1[0]) for activation in (nn.Tanh(), net.c1[1])],
    ),
    (
        lambda: parts(IMAGES, net.c1[0], net.c1[1], nn.MaxPool2d(2)),
        r"give a Subsample, as net.s1\[0\]",
        lambda: parts(IMAGES, net.c1[0], net.c1[1], net.s1[0]),
    ),
    (
        lambda: log_likelihood(RBM(17, 3), binary().flatten(1)[:, :17]),
        "use 16 a side at most",
        lambda: log_likelihood(RBM(16, 3), binary().flatten(1)[:, :16]),
    ),
    (lambda: analysis.exact_log_z(RBM(26, 26)), r"use `ais\(rbm\)` instead", lambda: ais(RBM(26, 26))),
    (lambda: ais(dbn(6, 5, 4)), r"give its top, `ais\(dbn.top\)`", lambda: ais(dbn(6, 5, 4).top)),
    (lambda: ais(nn.Linear(3, 3)), "give an RBM", lambda: ais(RBM(3, 3))),
    (
        lambda: ais(GaussianRBM(12, 3), images=ROWS),
        "leave images out",
        lambda: ais(GaussianRBM(12, 3)),
    ),
    (lambda: ais(RBM(4, 3), chains=1), "at least 2 are needed", lambda: ais(RBM(4, 3), chains=2)),
    (
        lambda: analysis.ais(RBM(4, 3), betas=torch.ones(3)),
        r"torch.linspace\(0, 1, 1001\) does",
        lambda: analysis.ais(RBM(4, 3), betas=torch.linspace(0, 1, 1001), chains=2, progress=False),
    ),
    (
        lambda: analysis.module_output(Recurrent(), IMAGES, "lstm"),
        "take a module before it",
        lambda: analysis.module_output(Recurrent(), IMAGES, "squash"),
    ),
    (
        lambda: analysis.top_images(conv(), IMAGES[:, None], "3", 0),
        "take a module before it",
        lambda: analysis.top_images(conv(), IMAGES[:, None], "1", 0),
    ),
    (
        lambda: analysis.map_layers(conv()[:2], IMAGES[0]),
        r"give images\[:, None\], or begin it with nn.Unflatten",
        lambda: [
            analysis.map_layers(conv()[:2], IMAGES[:, None][0]),
            analysis.map_layers(nn.Sequential(nn.Unflatten(1, (1, 28)), *conv()[:2]), IMAGES[0]),
        ],
    ),
    (
        lambda: analysis.module_output(net, IMAGES, "flaten"),
        "did you mean 'flatten'",
        lambda: analysis.module_output(net, IMAGES, "flatten"),
    ),
    (
        lambda: analysis.receptive_field(net, IMAGES[0], "c1", 99, 0),
        "have 24 rows and 24 columns",
        lambda: analysis.receptive_field(net, IMAGES[0], "c1", 23, 23),
    ),
    (
        lambda: analysis.top_images(net, IMAGES, "c1", 7),
        "has 4, 0 to 3",
        lambda: analysis.top_images(net, IMAGES, "c1", 3),
    ),
    (lambda: analysis.FeatureMaps(net, IMAGES[:0]), "give one at least", lambda: analysis.FeatureMaps(net, IMAGES[:1])),
    (
        lambda: analysis.UnitActivity([nn.Tanh()], IMAGES),
        "give a DBN, or its layers, like RBMs",
        lambda: [analysis.UnitActivity(each, IMAGES) for each in (dbn(784, 5), list(dbn(784, 5).layers))],
    ),
    (
        lambda: analysis.UnitActivity(nn.Sequential(), IMAGES),
        r"give a DBN, a list of RBMs, or dbn.classifier\(\)",
        lambda: [
            analysis.UnitActivity(each, IMAGES) for each in (dbn(784, 5), [RBM(784, 5)], dbn(784, 5).classifier(10))
        ],
    ),
    (
        lambda: analysis.UnitActivity(dbn(784, 5), IMAGES[:, :5]),
        "give images of the size it was trained on",
        lambda: analysis.UnitActivity(dbn(784, 5), IMAGES),
    ),
    (
        lambda: analysis.by_net(dbn(784, 5), IMAGES),
        r"unroll a stack by `dbn.classifier\(\)` or `dbn.autoencoder\(\)`",
        lambda: [
            analysis.by_net(dbn(784, 5).classifier(3), IMAGES),
            analysis.by_net(dbn(784, 5).autoencoder(), IMAGES),
        ],
    ),
    (
        lambda: analysis.by_net(linear(), (255 * IMAGES).byte()),
        r"give images.float\(\) / 255",
        lambda: analysis.by_net(linear(), (255 * IMAGES).byte().float() / 255),
    ),
    (
        lambda: analysis.by_net(linear(), IMAGES.double()),
        r"give images.to\(torch.float32\)",
        lambda: analysis.by_net(linear(), IMAGES.double().to(torch.float32)),
    ),
    (
        lambda: analysis.by_net(conv()[:2], IMAGES[:, None]),
        "give one that ends in a row of logits",
        lambda: analysis.by_net(conv(), IMAGES[:, None]),
    ),
    (
        lambda: analysis.occlusion(linear(), IMAGES[0], 1, size=0),
        "give it a size of 1 or more",
        lambda: analysis.occlusion(linear(), IMAGES[0], 1, size=1),
    ),
    (
        lambda: analysis.error(LABELS, Split(IMAGES, None)),
        "take a Split that has",
        lambda: analysis.error(LABELS, Split(IMAGES, LABELS)),
    ),
    (
        lambda: fit(callbacks=[analysis.health_metrics(ROWS, ROWS)]),
        "leave it out",
        lambda: fit(callbacks=[]),
    ),
    (
        lambda: cost(linear(), (28, 28), 10, 2, DataParallel),
        r"give a strategy whose ranks take steps together, such as DataParallel\(\)",
        lambda: cost(linear(), (28, 28), 10, 2, DataParallel()),
    ),
    (
        lambda: cost(linear(), (28, 28), 0, 1, DataParallel()),
        "at least 2 and 1",
        lambda: cost(linear(), (28, 28), 1, 2, DataParallel()),
    ),
]


def fit(**arguments):
    experiment = Experiment(linear, (IMAGES, LABELS), CrossEntropy(), batch_size=6, epochs=1)
    return experiment.run(progress=False, **arguments)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("fails", "words", "mended"), CASES, ids=[words for _, words, _ in CASES])
def test_what_an_error_names_as_its_mend_works(fails, words, mended):
    with pytest.raises((ValueError, TypeError), match=words):
        fails()
    mended()
