"""Each cell of a convolution and of sub-sampling, against torch's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from torch import nn

from dlkit.analysis.convolution_steps import (
    convolution_windows,
    convolve_cell,
    padded,
    pool_cell,
    sub_sampling_windows,
)
from dlkit.models.convnet import ScaledTanh
from dlkit.models.convolution import KINDS, Subsample


@pytest.fixture
def images():
    """Five images of 9x11 pixels."""
    return torch.rand(5, 9, 11, generator=seeded(1))


def layers(kind="average", size=2, stride=2, **options):
    """A convolution of one map into three by kernels of 3x3, its activation, and its sub-sampling."""
    convolution, sub_sampling = nn.Conv2d(1, 3, 3, **options), Subsample(3, size, kind, stride)
    for parameter in (*convolution.parameters(), *sub_sampling.parameters()):
        nn.init.normal_(parameter, generator=seeded(2))
    return convolution, nn.Tanh(), sub_sampling


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(inplace=True), ScaledTanh()])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"padding": (1, 2), "stride": (1, 2)}, {"bias": False}])
def test_each_cell_of_a_convolution_is_torchs(images, activation, options):
    convolution = nn.Conv2d(1, 3, 3, **options)
    bias = 0 if convolution.bias is None else convolution.bias[:, None, None]
    sums = F.conv2d(images[:1, None], convolution.weight, None, convolution.stride, convolution.padding)[0]
    image = padded(images[:1], convolution)[0]
    assert convolution_windows(tuple(image.shape), convolution).cells == tuple(sums.shape[1:])
    for of, row, column in np.ndindex(*sums.shape):
        cell = convolve_cell(image, convolution, activation, of, row, column)
        torch.testing.assert_close(cell.patch * cell.kernel, cell.products)
        assert float(cell.products.sum()) == pytest.approx(cell.total, abs=1e-6)
        assert cell.total == pytest.approx(float(sums[of, row, column].detach()), abs=1e-5)
        value = activation((sums + bias).detach().clone())[of, row, column]
        assert cell.value == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_cell_of_sub_sampling_is_its_forwards(kind, size, stride):
    sub_sampling = layers(kind, size, stride)[2]
    maps = torch.randn(1, 3, 6, 7, generator=seeded(3))
    whole = sub_sampling(maps)[0].detach()
    assert sub_sampling_windows((6, 7), sub_sampling).cells == tuple(whole.shape[1:])
    for of, row, column in np.ndindex(*whole.shape):
        cell = pool_cell(maps[0, of], sub_sampling, of, row, column)
        assert cell.value == pytest.approx(float(whole[of, row, column]), abs=1e-5)
        assert (cell.chosen is not None) == (kind in ("max", "strided"))
        if cell.chosen is not None:
            assert cell.window[cell.chosen] == cell.value


def test_a_cell_sees_what_changes_it(images):
    """A pixel is in a cell's field if, and only if, the cell's value depends on it."""
    convolution, activation, sub_sampling = layers(size=3, padding=1)
    image = padded(images[:1], convolution)[0].requires_grad_()
    maps = activation(F.conv2d(image[None, None], convolution.weight, convolution.bias))
    small = sub_sampling(maps)
    for windows, below, values in (
        (convolution_windows(tuple(image.shape), convolution), image, maps),
        (sub_sampling_windows(tuple(maps.shape[2:]), sub_sampling), maps, small),
    ):
        for row, column in np.ndindex(*windows.cells):
            gradient = torch.autograd.grad(values[0, 0, row, column], below, retain_graph=True)[0]
            seen = torch.zeros(windows.shape)
            seen[windows.field(row, column)] = 1
            assert torch.equal((gradient.view(-1, *windows.shape)[0] != 0).float(), seen)
