"""The survey's network and LeNet-5 against what was published of them."""

import pytest
import torch
import torch.nn.functional as F
from oracles import seeded
from torch import nn

from dlkit import Experiment
from dlkit.analysis.layer_counts import LayerCount, counts
from dlkit.models import ConvNet, LeNet5
from dlkit.models.convnet import ACTIVATIONS, LENET_TABLE, SURVEY_TABLE
from dlkit.models.convolution import KINDS
from dlkit.models.lenet_codes import digit_codes
from dlkit.training import CrossEntropy

IMAGES = torch.rand(5, 28, 28, generator=seeded())


def published(net, images=IMAGES):
    return {row.name.split(".")[0]: (row.parameters, row.connections) for row in counts(net, images)}


def test_lenet_has_the_published_parameters_and_connections():
    """LeCun 1998, section II.B, gives each of these."""
    measured = published(LeNet5())
    assert measured == {
        "c1": (156, 122_304),
        "s2": (12, 5_880),
        "c3": (1_516, 151_600),
        "s4": (32, 2_000),
        "c5": (48_120, 48_120),
        "f6": (10_164, 10_164),
        "output": (0, 840),
    }
    assert sum(parameters for parameters, _ in measured.values()) == 60_000
    assert sum(connections for _, connections in measured.values()) == 340_908
    rows = counts(LeNet5(), IMAGES)
    assert repr(rows) == "LayerCounts(7 layers, 60,000 parameters, 340,908 connections)"
    assert "<td>c3.0</td><td>16x10x10</td><td>1,516</td><td>151,600</td>" in rows._repr_html_()


def test_lenets_table_is_the_published_one():
    """Table I: each S2-map feeds ten C3-maps; the first six see three, the next nine four, the last all."""
    assert [len(row) for row in LENET_TABLE] == [3] * 6 + [4] * 9 + [6]
    assert [sum(i in row for row in LENET_TABLE) for i in range(6)] == [10] * 6
    assert len(set(LENET_TABLE)) == 16


def test_the_surveys_table_counts_from_one_as_the_survey_does():
    seen = {number: len(row) for number, row in enumerate(SURVEY_TABLE, 1)}
    assert [number for number, count in seen.items() if count == 1] == [1, 3, 4, 6]
    assert [number for number, count in seen.items() if count == 2] == [2, 5]
    assert {i for row in SURVEY_TABLE for i in row} == {0, 1, 2, 3}


def test_the_surveys_maps_have_their_number_and_size():
    net, sizes = ConvNet(), {}
    x = IMAGES
    for name, module in net.named_children():
        x = module(x)
        sizes[name] = tuple(x.shape[1:])
    assert [sizes[name] for name in ("c1", "s1", "c2", "s2", "output")] == [
        (4, 24, 24),
        (4, 12, 12),
        (6, 8, 8),
        (6, 4, 4),
        (10,),
    ]


def test_a_map_of_the_survey_does_not_change_with_one_it_does_not_see():
    net = ConvNet()
    maps = torch.randn(2, 4, 12, 12, generator=seeded())
    for changed in range(4):
        other = maps.clone()
        other[:, changed] += 1
        moved = (net.c2(maps) - net.c2(other)).abs().amax((0, 2, 3)) > 0
        assert moved.tolist() == [changed in row for row in SURVEY_TABLE]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_choice_trains(kind, activation):
    labels = torch.arange(20) % 10
    images = torch.rand(20, 28, 28, generator=seeded())
    for model in (
        lambda: ConvNet(sub_sampling=kind, activation=activation),
        lambda: LeNet5(sub_sampling=kind, activation=activation, output="softmax"),
    ):
        run = Experiment(model, (images, labels), CrossEntropy(), 10, 2, lr=0.01).run(progress=False, device="cpu")
        assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in run.model.parameters())


def test_the_rbf_output_is_less_the_squared_distance_to_the_drawings():
    net, codes = LeNet5(), digit_codes()
    assert codes.shape == (10, 84)
    assert set(codes.flatten().tolist()) == {-1.0, 1.0}
    assert len({tuple(code.tolist()) for code in codes}) == 10
    x = torch.randn(3, 84, generator=seeded())
    wanted = torch.stack([-((x - code) ** 2).sum(1) for code in codes], 1)
    torch.testing.assert_close(net.output(x), wanted)
    assert torch.equal(net.output(codes).argmax(1), torch.arange(10))


def test_lenet_sees_a_frame_and_pixels_of_mean_0_as_published():
    framed = LeNet5().pad(torch.tensor([0.0, 1.0]).repeat(28 * 14).view(1, 28, 28))
    assert framed.shape == (1, 1, 32, 32)
    torch.testing.assert_close(framed[0, 0, 2, 2:4], torch.tensor([-0.1, 1.175]))
    assert (framed[0, 0, :2] == -0.1).all()


def test_the_scaled_tanh_is_1_at_1():
    squash = ACTIVATIONS["scaled tanh"]()
    torch.testing.assert_close(
        squash(torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4, rtol=0
    )


def test_maps_and_batches_of_maps_are_taken_alike():
    net = ConvNet()
    assert torch.equal(net(IMAGES), net(IMAGES[:, None]))
    colour = ConvNet((3, 32, 48), classes=4)
    assert colour(torch.rand(2, 3, 32, 48)).shape == (2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvNet((15, 28)), "images of 15x28 are too small for two convolutions of 5x5.*at least 16x16"),
        (lambda: ConvNet(activation="swish"), 'activation "swish": it is one of scaled tanh, tanh, sigmoid, relu'),
        (lambda: ConvNet(sub_sampling="min"), 'sub-sampling "min": it is one of'),
        (lambda: LeNet5(output="svm"), 'output="svm": "rbf", as published, or "softmax"'),
        (
            lambda: ConvNet()(torch.zeros(2, 20, 28)),
            r"images of shape \(2, 20, 28\) for a net that takes 1x28x28: give",
        ),
        (lambda: LeNet5()(torch.zeros(2, 3, 28, 28)), r"\(2, 3, 28, 28\) for a net that takes 1x28x28"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_smallest_images_pass():
    assert ConvNet((16, 16))(torch.zeros(1, 16, 16)).shape == (1, 10)


# Counts.


def test_counts_of_a_students_own_net():
    own = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 32 * 32, 10, bias=False))
    conv, linear = counts(own, torch.zeros(1, 3, 32, 32))
    assert conv == LayerCount("0", (8, 32, 32), 8 * 28, 8 * 32 * 32 * 28, 3_073 * 8 * 32 * 32)
    assert linear == LayerCount("3", (10,), 81_920, 81_920, 81_930)
    assert not any(module._forward_hooks for module in own.modules())


def test_a_fully_connected_unit_has_the_surveys_number_of_weights():
    for size, weights in ((32, 3_072), (300, 270_000)):
        (row,) = counts(
            nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, 1, bias=False)), torch.zeros(1, 3, size, size)
        )
        assert row.parameters == weights


def test_a_count_that_fails_leaves_no_hooks_and_the_mode():
    net = ConvNet()
    with pytest.raises(ValueError, match="for a net that takes"):
        counts(net, torch.zeros(1, 9, 9))
    assert not any(module._forward_hooks for module in net.modules())
    assert net.training


def test_connections_are_the_multiplications_there_are():
    """Of one image through the survey's C2, counted one by one."""
    net = ConvNet()
    row = next(row for row in counts(net, IMAGES) if row.name == "c2.0")
    by_hand = sum(len(seen) * 25 + 1 for seen in SURVEY_TABLE) * 8 * 8
    assert row.connections == by_hand
    assert row.parameters == sum(len(seen) * 25 + 1 for seen in SURVEY_TABLE) == 206
    assert F.conv2d(torch.zeros(1, 4, 12, 12), net.c2[0].dense_weight()).shape == (1, 6, 8, 8)


@pytest.mark.parametrize("net", [ConvNet, LeNet5])
def test_a_part_of_a_net_is_a_plain_sequential(net):
    net, images = net(), torch.rand(2, 28, 28)
    part = net[:3]
    assert type(part) is torch.nn.Sequential
    assert torch.equal(net[3:](part(images)), net(images))
    assert net[-1] is net.output


def test_images_and_shapes_of_another_kind_are_refused(unchecked):
    for net in (ConvNet(), LeNet5()):
        with pytest.raises(ValueError, match=r"images are torch.uint8: give numbers from 0 to 1, such as images.float"):
            net(torch.zeros(2, 28, 28, dtype=torch.uint8))
    for shape in (28, (28,), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match="give that of an image, "):
            ConvNet(shape)


def test_a_layer_that_is_used_twice_is_counted_once():
    shared = nn.Conv2d(4, 4, 3)
    net = nn.Sequential(nn.Conv2d(1, 4, 5), shared, shared)
    assert sum(row.parameters for row in counts(net, torch.rand(1, 1, 28, 28))) == 4 * 26 + 4 * 37
