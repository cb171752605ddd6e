"""Locally connected layers against torch's convolution and against a loop over places."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from torch import nn

from dlkit import Experiment, data
from dlkit.analysis.features import map_layers, receptive_field
from dlkit.analysis.layer_counts import counts
from dlkit.models.convnet import channels_last
from dlkit.models.locally_connected import ContrastNorm, L2Pool, LocalContrastNorm, LocallyConnected2d, LocalNet
from dlkit.training import CrossEntropy

CASES = {  # in_maps, out_maps, size, input, stride
    "one map": (1, 4, 3, (7, 7), 1),
    "maps, oblong": (3, 2, 3, (8, 6), 1),
    "steps": (2, 3, 3, (9, 7), 2),
    "steps with a rest": (2, 3, 3, (8, 10), 2),
    "steps with gaps": (2, 2, 2, (8, 8), 3),
    "one place": (2, 5, 4, (4, 4), 1),
    "one pixel": (3, 2, 1, (4, 5), 1),
}


def made(name, dtype=torch.float64):
    in_maps, out_maps, size, shape, stride = CASES[name]
    layer = LocallyConnected2d(in_maps, out_maps, size, shape, stride, generator=seeded()).to(dtype)
    return layer, torch.randn(5, in_maps, *shape, dtype=dtype, generator=seeded(1))


def by_loops(x, layer):
    """One place after the other, each a matrix of its own."""
    high, wide, out_maps, _ = layer.weight.shape
    output = torch.empty(len(x), out_maps, high, wide, dtype=x.dtype)
    for i in range(high):
        for j in range(wide):
            top, left = i * layer.stride, j * layer.stride
            seen = x[:, :, top : top + layer.size, left : left + layer.size].flatten(1)
            output[:, :, i, j] = seen @ layer.weight[i, j].T + layer.bias[i, j]
    return output


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_product_a_place(name):
    layer, x = made(name)
    x.requires_grad_()
    output, expected = layer(x), by_loops(x, layer)
    torch.testing.assert_close(output, expected)
    weights = torch.randn(output.shape, dtype=torch.float64, generator=seeded(2))
    leaves = [x, layer.weight, layer.bias]
    ours = torch.autograd.grad((output * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", CASES)
def test_with_one_kernel_at_all_places_it_is_a_convolution(name):
    layer, x = made(name)
    kernels = torch.randn(layer.out_maps, layer.in_maps, layer.size, layer.size, dtype=x.dtype, generator=seeded(2))
    bias = torch.randn(layer.out_maps, dtype=x.dtype, generator=seeded(3))
    with torch.no_grad():
        layer.weight.copy_(kernels.flatten(1).expand_as(layer.weight))
        layer.bias.copy_(bias.expand_as(layer.bias))
    torch.testing.assert_close(layer(x), F.conv2d(x, kernels, bias, layer.stride))


@pytest.mark.parametrize("name", ["maps, oblong", "steps"])
def test_its_gradient_is_that_of_finite_differences(name):
    layer, x = made(name)
    x = x[:2].requires_grad_()

    def given(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(given, (x, layer.weight, layer.bias))


def test_a_unit_sees_its_field_and_no_other_units_weights():
    layer, x = made("steps")
    before = layer(x)
    with torch.no_grad():
        layer.weight[1, 2, 0] += 1
        layer.bias[3, 0, 1] += 1
    moved = (layer(x) - before).abs().amax(0).nonzero().tolist()
    assert moved == [[0, 1, 2], [1, 3, 0]]
    field = torch.zeros_like(x)
    field[:, :, 2:5, 4:7] = x[:, :, 2:5, 4:7]
    torch.testing.assert_close(layer(field)[:, :, 1, 2], layer(x)[:, :, 1, 2])


@pytest.mark.parametrize("name", [name for name in CASES if name != "one place"])
def test_bands_of_rows_make_the_whole(name):
    layer, x = made(name)
    high, size, stride = layer.weight.shape[0], layer.size, layer.stride
    whole = layer(x)
    for first, last in ((0, 1), (0, high), (1, high), (high - 1, high)):
        band = {"weight": layer.weight[first:last], "bias": layer.bias[first:last]}
        assert all(part.is_contiguous() for part in band.values())
        start, rows = first * stride, (last - first - 1) * stride + size
        output = torch.func.functional_call(layer, band, x[:, :, start : start + rows])
        torch.testing.assert_close(output, whole[:, :, first:last])


def test_a_band_is_a_module_too():
    layer, x = made("maps, oblong")
    whole = layer(x)
    layer.weight, layer.bias = nn.Parameter(layer.weight[2:5].detach()), nn.Parameter(layer.bias[2:5].detach())
    torch.testing.assert_close(layer(x[:, :, 2:7]), whole[:, :, 2:5])
    assert "positions=3x4" in repr(layer)


def test_the_layout_of_memory_changes_nothing():
    layer, x = made("maps, oblong", torch.float32)
    wanted = layer(x)
    channels_last(layer)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), wanted)
    assert layer(x[:0]).shape == (0, *wanted.shape[1:])


def test_it_has_a_kernel_for_each_unit():
    """A convolution of these sizes has 8 (3 * 25 + 1) = 608 parameters; here each of 24 x 20 places has as many."""
    layer = LocallyConnected2d(3, 8, 5, (28, 24))
    assert sum(p.numel() for p in layer.parameters()) == 24 * 20 * 608
    assert layer.weight.shape == (24, 20, 8, 75)
    assert layer.bias.shape == (24, 20, 8)


def test_units_start_as_torchs_do():
    layer = LocallyConnected2d(3, 4, 5, (9, 9), generator=seeded())
    again = LocallyConnected2d(3, 4, 5, (9, 9), generator=seeded())
    bound = 75**-0.5
    for value, other in zip(layer.parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other)
        assert 0.9 * bound < value.abs().max() <= bound
        assert value.mean().abs() < 0.2 * bound
        assert value.min() < 0 < value.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 3, (9, 9)), "0 maps to 4: at least 1 to 1 is needed"),
        ((1, 4, 0, (9, 9)), "kernels of 0x0 at steps of 1: at least 1x1 and 1 are needed"),
        ((1, 4, 3, (9, 9), 0), "kernels of 3x3 at steps of 0"),
        ((1, 4, 3, (9, 2)), "kernels of 3x3 for maps of 9x2: none fits, make them smaller"),
        ((1, 4, 3, 9), r"input=9: give the size of the maps that come in, \(height, width\)"),
        ((1, 4, 3, (9, 9, 9)), r"input=\(9, 9, 9\): give the size"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LocallyConnected2d(*arguments)


@pytest.mark.parametrize(
    "shape", [(2, 3, 9, 7), (2, 2, 8, 7), (2, 2, 11, 7), (2, 2, 9, 6), (2, 2, 2, 2), (2, 9, 7), (2,)]
)
def test_another_input_is_refused(shape, unchecked):
    layer = made("steps", torch.float32)[0]
    with pytest.raises(ValueError, match=r"for 2 maps with weights at 4x3 positions: \(batch, 2, 9, 7\)"):
        layer(torch.zeros(shape))


# Pooling and normalisation.


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (2, 2), (3, 1), (1, 1)])
def test_l2_pooling_is_the_length_of_each_window(size, stride):
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64, generator=seeded())
    output = L2Pool(size, stride, epsilon=0.01)(x)
    for i in range(output.shape[2]):
        for j in range(output.shape[3]):
            window = x[:, :, i * stride : i * stride + size, j * stride : j * stride + size].flatten(2)
            torch.testing.assert_close(output[:, :, i, j], torch.hypot(window.norm(dim=2), torch.tensor(0.1).double()))
    assert output.shape[2:] == ((8 - size) // stride + 1, (7 - size) // stride + 1)
    torch.testing.assert_close(L2Pool(size, stride, epsilon=0)(x), F.lp_pool2d(x, 2, size, stride))


def test_normalised_maps_have_mean_0_and_variance_1_at_each_place():
    x = 3 + 5 * torch.randn(4, 6, 3, 2, dtype=torch.float64, generator=seeded())
    output = ContrastNorm()(x)
    torch.testing.assert_close(output, (x - x.mean(1, True)) / x.std(1, unbiased=False, keepdim=True))
    faint = 1 + 1e-4 * (x - 3)
    torch.testing.assert_close(ContrastNorm(0.5)(faint), (faint - faint.mean(1, True)) / 0.5)


def windows_mean(x, size, sigma):
    """The mean over all maps and the places of each window that lie within the image, weighted by a Gaussian."""
    means = torch.empty(len(x), 1, *x.shape[2:], dtype=x.dtype)
    reach = size // 2
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            places = [
                (a, b, math.exp(-((a - i) ** 2 + (b - j) ** 2) / (2 * sigma**2)))
                for a in range(max(i - reach, 0), min(i + reach + 1, x.shape[2]))
                for b in range(max(j - reach, 0), min(j + reach + 1, x.shape[3]))
            ]
            total = sum(weight for *_, weight in places)
            means[:, 0, i, j] = sum(weight * x[:, :, a, b].mean(1) for a, b, weight in places) / total
    return means


@pytest.mark.parametrize("floor", [0.01, 0.9, None])
@pytest.mark.parametrize(("size", "sigma"), [(5, None), (3, 0.5), (9, 2.0)])
def test_local_contrast_is_that_of_windows(size, sigma, floor):
    x = 3 + torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=seeded())
    centred = x - windows_mean(x, size, sigma or size / 4)
    deviation = windows_mean(centred.square(), size, sigma or size / 4).sqrt()
    least = deviation.mean((2, 3), keepdim=True) if floor is None else torch.tensor(floor, dtype=x.dtype)
    norm = LocalContrastNorm(size, sigma, floor).double()
    output = norm(x)
    torch.testing.assert_close(output, centred / torch.maximum(deviation, least), rtol=1e-5, atol=1e-6)
    shifted = norm(x + 10)
    torch.testing.assert_close(shifted, output, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("module", [L2Pool(2, 1), ContrastNorm(), LocalContrastNorm(3), LocalContrastNorm(floor=None)])
def test_they_have_a_slope_everywhere(module):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=seeded()).requires_grad_()
    assert torch.autograd.gradcheck(module.double(), x)
    module.float()
    empty = torch.zeros(2, 3, 4, 4, requires_grad=True)
    module(empty).sum().backward()
    assert empty.grad is not None
    assert empty.grad.isfinite().all()


def test_windows_that_do_not_fit_are_refused(unchecked):
    with pytest.raises(ValueError, match="windows of 0x0 at steps of 2: at least 1x1 and 1 are needed"):
        L2Pool(0)
    with pytest.raises(ValueError, match="windows of 4x4: an odd size, so that each has a middle"):
        LocalContrastNorm(4)
    for shape in ((2, 3, 2, 9), (2, 9, 9)):
        with pytest.raises(ValueError, match=r"for windows of 3x3: \(batch, maps, height, width\), both at least 3"):
            L2Pool()(torch.zeros(shape))


# The network.


def test_its_maps_have_their_number_and_size():
    net, sizes = LocalNet(), {}
    x = torch.rand(5, 28, 28, generator=seeded())
    for name, module in net.named_children():
        x = module(x)
        sizes[name] = tuple(x.shape[1:])
    assert sizes == {
        "pad": (1, 28, 28),
        **{"filter1": (4, 25, 25), "pool1": (4, 12, 12), "norm1": (4, 12, 12)},
        **{"filter2": (8, 9, 9), "pool2": (8, 4, 4), "norm2": (8, 4, 4)},
        **{"flatten": (128,), "output": (10,)},
    }
    stages = 25 * 25 * 4 * (16 + 1) + 9 * 9 * 8 * (4 * 16 + 1)
    assert sum(p.numel() for p in net.parameters()) == stages + 10 * 129 == 85_910


def test_a_unit_sees_what_its_stages_see():
    """norm2 at (1, 2) pools rows 2 to 4 of filter2, of rows 2 to 7 of pool1, of rows 4 to 16 of filter1."""
    net, image = LocalNet(), torch.rand(28, 28, generator=seeded())
    assert map_layers(net, image) == ["filter1", "pool1", "norm1", "filter2", "pool2", "norm2"]
    assert receptive_field(net, image, "norm2", 1, 2) == (slice(4, 20), slice(8, 24))


def test_other_images_maps_and_parts():
    colour = LocalNet((3, 29, 40), classes=4, maps=(2, 3, 5), size=3)
    images = torch.rand(2, 3, 29, 40, generator=seeded())
    part = colour[:4]
    assert type(part) is nn.Sequential
    assert torch.equal(colour[4:](part(images)), colour(images))
    assert colour(images).shape == (2, 4)
    grey, pictures = LocalNet(), torch.rand(2, 28, 28, generator=seeded())
    assert torch.equal(grey(pictures), grey(pictures[:, None]))


def test_the_smallest_images_pass_and_smaller_ones_are_refused(unchecked):
    assert LocalNet((16, 16))(torch.zeros(1, 16, 16)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"images of 28x15 are too small for 2 stages of 4x4 filters.*at least 16x16"):
        LocalNet((28, 15))
    with pytest.raises(ValueError, match="shape=28: give that of an image, "):
        LocalNet(28)
    with pytest.raises(ValueError, match=r"images of shape \(2, 20, 28\) for a net that takes 1x28x28"):
        LocalNet()(torch.zeros(2, 20, 28))


def test_it_learns_digits():
    """2,000 digits, four times over: guessing leaves 90 % wrong, and a linear classifier of as few 11 %."""
    digits = data.load("mnist")
    run = Experiment(LocalNet, digits.train[:2000], CrossEntropy(), 20, epochs=4, lr=0.02, momentum=0.9).run(
        progress=False, device="cpu"
    )
    some = digits.validation[:2000]
    with torch.no_grad():
        wrong = (run.model(some.images).argmax(1) != some.labels).float().mean()
    assert wrong < 0.08
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in run.model.parameters())


def test_connections_are_counted_as_a_derivative_shows_them():
    for layer, biases in ((LocallyConnected2d(2, 3, 3, (7, 9), 2), 1), (L2Pool(3, 2), 0)):
        jacobian = torch.autograd.functional.jacobian(lambda x, layer=layer: layer(x[None])[0], torch.rand(2, 7, 9) + 1)
        (row,) = counts(nn.Sequential(layer), torch.rand(1, 2, 7, 9))
        units = jacobian.shape[:3].numel()
        assert row.connections == (jacobian != 0).sum() + biases * units
        assert row.parameters == sum(p.numel() for p in layer.parameters())
        assert row.fully_connected == units * (2 * 7 * 9 + 1)
