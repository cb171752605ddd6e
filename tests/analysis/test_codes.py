"""The codes of an autoencoder: their positions on a map, the nearest image, and the line between two codes."""

import numpy as np
import pytest
import torch
from oracles import randomised, seeded

from dlkit.analysis.codes import Codes
from dlkit.models import DBN


@pytest.fixture
def images():
    """Thirty images of 4x5 pixels."""
    return torch.rand(30, 4, 5, generator=seeded(1))


@pytest.fixture
def labels():
    return torch.arange(30) % 10


def net(code=2):
    return randomised(DBN.of([20, 7, code]), 0, 1.0).autoencoder()


def test_codes_of_two_numbers_are_their_positions(images, labels):
    codes = Codes(net(), images, labels)
    assert codes.two_dimensional
    torch.testing.assert_close(codes.positions, net()[0](images).detach())


def test_longer_codes_lie_on_their_principal_components(images, labels):
    codes = Codes(net(6), images, labels)
    assert not codes.two_dimensional
    h = net(6)[0](images).detach().double()
    values, vectors = torch.linalg.eigh(torch.cov(h.T))  # ascending
    for component in (0, 1):
        axis = vectors[:, -1 - component]
        along = (h - h.mean(0)) @ axis * torch.sign(axis.sum())
        torch.testing.assert_close(codes.positions[:, component].double(), along, atol=1e-4, rtol=1e-4)
    assert codes.explained == pytest.approx(float(values[-2:].sum() / values.sum()), rel=1e-4)


def test_the_nearest_image_is_the_nearest(images, labels):
    codes = Codes(net(), images, labels)
    for position in torch.randn(20, 2, generator=seeded(2)).tolist():
        distances = [torch.dist(code, torch.tensor(position)) for code in codes.codes]
        assert codes.nearest(*position) == int(np.argmin(distances))


def test_a_walk_goes_straight_from_code_to_code(images, labels):
    codes = Codes(net(6), images, labels)
    h = codes.codes
    between = codes.between(3, 8, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(between, torch.stack([h[3], 0.75 * h[3] + 0.25 * h[8], h[8]]))


def test_its_repr_is_a_line(images, labels):
    assert repr(Codes(net(6), images, labels)) == "Codes(30 images, codes of 6 numbers)"
