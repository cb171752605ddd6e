"""Saliency, integrated gradients and activation maximisation, on nets whose answer can be worked out."""

import pytest
import torch
from oracles import seeded
from torch import nn

from dlkit.analysis.attribution import blurred, integrated_gradients, maximise, saliency
from dlkit.analysis.features import module_output
from dlkit.models import ConvNet, LeNet5

IMAGE = torch.rand(28, 28, generator=seeded())


def linear():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))


def test_saliency_of_a_linear_net_is_the_size_of_its_weights():
    net = linear()
    torch.testing.assert_close(saliency(net, IMAGE, 2), net[1].weight[2].detach().abs().view(28, 28))


@pytest.mark.parametrize("net", [LeNet5, ConvNet])
def test_saliency_is_the_slope_of_the_logit(net):
    torch.manual_seed(0)
    net, image = net().double(), IMAGE.double()
    result, h = saliency(net, image, 4), 1e-5
    for y, x in ((3, 7), (14, 14), (20, 11)):
        up, down = image.clone(), image.clone()
        up[y, x] += h
        down[y, x] -= h
        with torch.no_grad():
            slope = (net(up[None]) - net(down[None]))[0, 4] / (2 * h)
        assert float(result[y, x]) == pytest.approx(abs(float(slope)), rel=1e-4, abs=1e-8)


def test_integrated_gradients_share_out_the_whole_rise_of_the_logit():
    torch.manual_seed(0)
    net = LeNet5()
    result = integrated_gradients(net, IMAGE, 3)
    with torch.no_grad():
        rise = float((net(IMAGE[None]) - net(torch.zeros(1, 28, 28)))[0, 3])
    assert float(result.values.sum()) + result.residual == pytest.approx(rise, rel=1e-3)
    assert abs(result.residual) < 0.01 * abs(rise)
    assert repr(result) == f"Attribution(28x28 values, residual {result.residual:.3g})"


def test_integrated_gradients_of_a_square_are_known():
    """Of Σ x², from b to x: (x - b)(x + b) for each pixel."""

    class Square(nn.Module):
        def forward(self, images):
            return images.square().flatten(1).sum(1, keepdim=True)

    base = torch.rand(28, 28, generator=seeded(1))
    torch.testing.assert_close(integrated_gradients(Square(), IMAGE, 0, base).values, IMAGE.square() - base.square())


def test_the_best_image_of_a_linear_unit_is_white_where_its_weights_are_positive():
    net = linear()
    result = maximise(net, "1", 0, torch.full((28, 28), 0.5), steps=400, decay=0.0, blur_every=None)
    weight = net[1].weight[0].detach().view(28, 28)
    large = weight.abs() > 0.1 * weight.abs().max()
    assert torch.equal(result.image[large], (weight > 0).float()[large])
    assert result.activations == sorted(result.activations)
    assert result.activations[-1] == pytest.approx(float(module_output(net, result.image[None], "1")[0, 0]), rel=1e-5)


def test_it_climbs_to_a_map_of_a_students_net_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.ReLU())
    result = maximise(net, "0", 2, torch.full((3, 16, 16), 0.5), steps=50)
    assert result.activations[-1] > result.activations[0] + 0.1
    assert result.image.shape == (3, 16, 16)
    first, last = (f"{result.activations[i]:.3g}" for i in (0, -1))
    assert repr(result) == f"Maximised(image of 3x16x16, activation {first} to {last})"
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert not [module for module in net.modules() if module._forward_hooks]


def test_a_blur_keeps_what_is_even_and_spreads_a_point():
    torch.testing.assert_close(blurred(torch.full((5, 6), 0.3)), torch.full((5, 6), 0.3))
    point = torch.zeros(5, 5)
    point[2, 2] = 16
    assert blurred(point)[1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saliency(ConvNet(), IMAGE, 10), "label 10: the net has 10 classes, 0 to 9"),
        (lambda: saliency(ConvNet(), IMAGE[:27], 1), r"images of shape \(1, 27, 28\) for a net that takes 1x28x28"),
        (lambda: integrated_gradients(ConvNet(), IMAGE, 1, IMAGE[:3]), r"a baseline of shape \(3, 28\) for an image"),
        (lambda: saliency(nn.Conv2d(1, 2, 3), IMAGE[None], 1), r"the net gives \(2, 26, 26\) for an image"),
        (lambda: maximise(ConvNet(), "c9", 0, IMAGE), "no module is named 'c9': there are pad, c1"),
        (lambda: maximise(ConvNet(), "c1", 4, IMAGE), "no unit 4: 'c1' has 4, 0 to 3"),
        (lambda: maximise(ConvNet(), "c1", 0, IMAGE, blur_every=0), "blur_every=0: a number of steps, at least 1"),
        (lambda: saliency(ConvNet(), (255 * IMAGE).byte(), 1), "the images are torch.uint8"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_it_climbs_before_what_works_in_place_and_where_gradients_are_off():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(inplace=True))
    nn.init.constant_(net[0].bias, -5.0)  # behind the ReLU there is nothing to climb
    with torch.no_grad():
        result = maximise(net, "0", 1, IMAGE[None], steps=20)
    assert result.activations[-1] > result.activations[0]
