"""Spectrograms of tones: the pitch moves as the tone's name says, and a small net learns to hear it."""

from functools import partial

import pytest
import torch

from dlkit import Experiment
from dlkit.analysis.recognition import by_net, error
from dlkit.data import tones
from dlkit.data.spectrograms import NAMES
from dlkit.models import ConvNet
from dlkit.training import CrossEntropy, linear_schedule

CLEAN = tones(200, noise=0)


def pitch(pictures, column):
    """Mean height of the lowest harmonic, in rows from the bottom: of the ink around the lowest bright row."""
    frequencies = []
    for picture in pictures.flip(1)[:, :, column - 1 : column + 2].mean(2):
        lowest = int((picture > 0.5 * picture.max()).nonzero()[0])
        near = torch.arange(max(0, lowest - 1), lowest + 3)
        frequencies.append(float((picture[near] * near).sum() / picture[near].sum()))
    return torch.tensor(frequencies)


def test_pictures_are_in_range_and_every_tone_occurs():
    assert CLEAN.images.shape == (200, 28, 28)
    assert CLEAN.images.min() >= 0
    assert (CLEAN.images.amax((1, 2)) == 1).all()
    assert CLEAN.labels.bincount().min() > 30
    assert len(CLEAN.labels.unique()) == len(NAMES)


def test_the_pitch_moves_as_the_name_says():
    heights = {}
    for label, name in enumerate(NAMES):
        pictures = CLEAN.images[label == CLEAN.labels]
        heights[name] = [pitch(pictures, column).mean().item() for column in (6, 13, 21)]
    level, rising, dipping, falling = (heights[name] for name in NAMES)
    assert max(level) - min(level) < 0.1
    assert rising[0] + 0.3 < rising[1] < rising[2] - 0.3
    assert falling[0] - 0.3 > falling[1] > falling[2] + 0.3
    assert dipping[0] - 0.3 > dipping[1] < dipping[2] - 0.3


def test_harmonics_lie_as_far_apart_as_the_lowest_lies_from_0():
    """The comb of a level tone: its period, by a Fourier transform down a column, and its first tooth."""
    level = CLEAN.images[CLEAN.labels == 0]
    columns = level[:, :, 14].flip(1)
    spectrum = torch.fft.rfft(columns - columns.mean(1, keepdim=True), n=512, dim=1).abs()
    slowest = 60  # 8.5 rows, 267 Hz; below it is the fall of the harmonics' strength
    spacing = 512 / (spectrum[:, slowest:].argmax(1) + slowest)
    assert ((spacing - pitch(level, 14)).abs() < 0.7).float().mean() > 0.9
    assert spacing.max() - spacing.min() > 2


def test_the_same_seed_makes_the_same_tones_and_noise_is_heard():
    assert torch.equal(tones(5, seed=3).images, tones(5, seed=3).images)
    assert not torch.equal(tones(5, seed=3).images, tones(5, seed=4).images)
    quiet, loud = tones(20, noise=0).images, tones(20, noise=1.0).images
    assert loud[:, :8].mean() > 2 * quiet[:, :8].mean()


def test_the_surveys_net_learns_to_hear_them():
    heard = tones(1_000, seed=1)
    settings = {"batch_size": 20, "epochs": 10, "lr": linear_schedule(0.1, 0.01, 10), "momentum": 0.9}
    experiment = Experiment(partial(ConvNet, classes=4), heard, CrossEntropy(), **settings)
    run = experiment.run(progress=False, device="cpu")
    others = tones(300, seed=2)
    assert error(by_net(run.model, others.images), others) < 5


@pytest.mark.parametrize(("count", "noise"), [(0, 0.1), (3, -1.0)])
def test_no_tones_are_refused(count, noise):
    with pytest.raises(ValueError, match=f"{count} tones with noise {noise}: at least 1 tone"):
        tones(count, noise=noise)
