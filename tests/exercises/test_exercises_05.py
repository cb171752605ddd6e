"""Notebook 05: right answers of several styles are taken, and each usual mistake has a hint of its own."""

from functools import reduce
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import points, solutions, verdict
from torch import nn

from dlkit.exercises import cnn_feature_maps as check
from dlkit.exercises import small_net
from dlkit.models import ConvNet

SOLUTIONS = solutions("05_cnn_feature_maps")
TENSORS, NUMBERS = ["convolve", "sub_sample"], ["parameters", "receptive_field"]


@pytest.mark.parametrize("name", TENSORS + NUMBERS)
@pytest.mark.parametrize("nonsense", ["three", [1.0], torch.zeros(2, 7), float("nan"), True])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_of_nan_is_no_answer(capsys, name):
    assert verdict(capsys, getattr(check, name), lambda *x: torch.nan * SOLUTIONS[name](*x)).startswith("✗ Not yet")


@pytest.mark.parametrize("name", TENSORS + NUMBERS)
def test_the_second_wrong_try_is_told_a_smaller_case(capsys, name):
    exercise = getattr(check, name)
    exercise.wrong_tries = 1
    exercise(lambda *_: 7.5)
    assert "A step further: " in capsys.readouterr().out


# 1. A convolution.


def slid(image, kernel):
    return F.conv2d(image[None, None], kernel[None, None])[0, 0]


def by_matrix_products(image, kernel, bias):
    size = len(kernel)
    high, wide = (length - size + 1 for length in image.shape)
    rows = [[(image[r : r + size, c : c + size] @ kernel).sum() for c in range(wide)] for r in range(high)]
    return torch.stack([torch.stack(row) for row in rows]) + bias


def in_numpy(image, kernel, bias):
    image, kernel = image.numpy().astype("float64"), kernel.numpy()
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape)
    return (windows * kernel).sum((2, 3)) + float(bias)


def by_shifted_images(image, kernel, bias):
    """One shifted copy of the image for each number of the kernel."""
    (height, width), k = image.shape, len(kernel)
    shifted = [kernel[i, j] * image[i : height - k + 1 + i, j : width - k + 1 + j] for i in range(k) for j in range(k)]
    return sum(shifted) + bias


def by_lists(image, kernel, bias):
    k, (height, width) = len(kernel), image.shape
    return [
        [
            sum(float(kernel[i, j] * image[r + i, c + j]) for i in range(k) for j in range(k)) + float(bias)
            for c in range(width - k + 1)
        ]
        for r in range(height - k + 1)
    ]


MAPS = {
    "by lists of numbers": by_lists,
    "in float64 by numpy": in_numpy,
    "by shifted images": by_shifted_images,
    "by unfold": lambda x, k, b: (x.unfold(0, len(k), 1).unfold(1, len(k), 1) * k).sum((2, 3)) + b,
    "by torch": lambda x, k, b: F.conv2d(x[None, None], k[None, None], b[None])[0, 0],
    "rows as a list of tensors": lambda x, k, b: list(slid(x, k) + b),
}


@pytest.mark.parametrize("style", MAPS)
def test_a_map_of_another_style_is_right(capsys, style):
    assert verdict(capsys, check.convolve, MAPS[style]).startswith("✓")


CONVOLUTIONS = {
    "kernel is flipped": lambda x, k, b: slid(x, k.flip(0, 1)) + b,
    "kernel is transposed": lambda x, k, b: slid(x, k.T) + b,
    "bias is missing": lambda x, k, b: slid(x, k),
    "*added*": lambda x, k, b: slid(x, k) - b,
    "once a window": lambda x, k, b: slid(x, k) + k.numel() * b,
    "not multiplied by it": lambda x, k, b: slid(x, k) * b,
    "the mean of the products": lambda x, k, b: slid(x, k) / k.numel() + b,
    "The kernel is missing": lambda x, k, b: slid(x, torch.ones_like(k)) + b,
    "Right, but squashed": lambda x, k, b: (slid(x, k) + b).tanh(),
    "the exercise ends before that": lambda x, k, b: (slid(x, k) + b).relu(),
    "`@` is the matrix product": by_matrix_products,
    "one pixel too early": lambda x, k, b: (slid(F.pad(x, (1, 0, 1, 0)), k) + b)[:-1, :-1],
    "as large as the image": lambda x, k, b: F.conv2d(x[None, None], k[None, None], padding="same")[0, 0] + b,
    "Yours is transposed, 7x4": lambda x, k, b: (slid(x, k) + b).T,
    "Off by one: a window of 3x3 has 4x7 places in 6x9": lambda x, k, b: (slid(x, k) + b)[:-1, :-1],
    "yours is 5x8": lambda x, k, b: F.pad(slid(x, k) + b, (0, 1, 0, 1)),
    "window of 2x2 has 5x8 places": lambda x, k, b: (slid(x, k) + b)[:4, :7],
    "side by side": lambda x, k, b: F.conv2d(x[None, None], k[None, None], stride=len(k))[0, 0] + b,
    "That is one number": lambda x, k, b: (x.sum() * k).sum() + b,
    "All values of your map are equal": lambda x, k, b: (slid(x, k)[0, 0] + b).expand_as(slid(x, k)),
    "At [": lambda x, k, b: slid(x, k).relu() + b,
    "of shape (4, 7) here; yours has shape (1, 1, 4, 7)": lambda x, k, b: (slid(x, k) + b)[None, None],
    "yours has shape (1, 1)": lambda x, k, b: [[float(b)]],
    "is of dtype int32": lambda x, k, b: (slid(x, k) + b).int(),
    "has changed `x`": lambda x, k, b: slid(x.sub_(x.mean()), k) + b,
    "has 4x7 places in 6x9 pixels": lambda x, k, b: [[0.0] * 8] * 5,
    "returns nothing": lambda x, k, b: print(end=""),
}


@pytest.mark.parametrize("hint", CONVOLUTIONS)
def test_a_wrong_convolution_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.convolve, CONVOLUTIONS[hint])


def test_of_two_mistakes_the_kernels_is_told_first(capsys):
    assert "kernel is flipped" in verdict(capsys, check.convolve, lambda x, k, b: slid(x, k.flip(0, 1)))


def test_a_kernel_of_a_constant_size_is_not_right(capsys):
    def three_by_three(image, kernel, bias):
        return slid(image, kernel) + bias if len(kernel) == 3 else slid(image, kernel[:2, :2]) + bias

    assert verdict(capsys, check.convolve, three_by_three).startswith("✗ Not yet")


# 2. What it has to learn.


def joined(table):
    return sum(len(row) for row in table)


def below(table):
    return 1 + max(max(row) for row in table)


COUNTS = {
    "Each map has a bias too": lambda t, s: joined(t) * s * s,
    "joins every map to all below: count only": lambda t, s: len(t) * (below(t) * s * s + 1),
    "to all below, and without biases": lambda t, s: len(t) * below(t) * s * s,
    "one kernel a map. A map that sees three maps has three, one": lambda t, s: len(t) * (s * s + 1),
    "three; and it has a bias": lambda t, s: len(t) * s * s,
    "a bias for each connection": lambda t, s: joined(t) * (s * s + 1),
    "a bias for each map *below*": lambda t, s: joined(t) * s * s + below(t),
    "one bias in all": lambda t, s: joined(t) * s * s + 1,
    "A kernel is square": lambda t, s: joined(t) * s + len(t),
    "how many connections there are": lambda t, s: joined(t),
    "a single weight a connection": lambda t, s: joined(t) + len(t),
    "What does a connection need": lambda t, s: 2 * (joined(t) * s * s + len(t)),
    "at each place of the map": lambda t, s: 10 * 10 * (joined(t) * s * s + len(t)),
    "a kernel is *shared*": lambda t, s: 10 * 10 * joined(t) * s * s,
    "For 16 maps with 60 connections": lambda t, s: 7,
    "For 6 maps with 8 connections": lambda t, s: 1516,
    "kernels of 3x3": lambda t, s: joined(t) * 25 + len(t),
    "should be a whole number; yours is 2.5": lambda t, s: 2.5,
    "yours is of type tuple": lambda t, s: (joined(t), len(t)),
}


@pytest.mark.parametrize("hint", COUNTS)
def test_a_wrong_count_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.parameters, COUNTS[hint])


def test_the_solution_counts_what_was_published_for_lenet():
    assert SOLUTIONS["parameters"](check.LENET_TABLE, 5) == 1516


def by_making_it(table, size):
    """A layer with one kernel for each connection."""
    layers = [nn.Conv2d(len(row), 1, size) for row in table]
    return sum(p.numel() for layer in layers for p in layer.parameters())


def by_loops(table, size):
    total = 0
    for row in table:
        for _ in row:
            total += size * size
        total += 1
    return total


NUMBERS_OF = {
    "by making it": by_making_it,
    "by loops": by_loops,
    "by numpy": lambda t, s: np.sum([len(row) for row in t]) * s**2 + len(t),
    "by the sum of a table": lambda t, s: joined(t) * s * s + len(t),
    "as a tensor": lambda t, s: torch.tensor(joined(t) * s * s + len(t)),
    "as a float": lambda t, s: float(joined(t) * s * s + len(t)),
}


@pytest.mark.parametrize("style", NUMBERS_OF)
def test_a_count_of_another_style_is_right(capsys, style):
    assert verdict(capsys, check.parameters, NUMBERS_OF[style]).startswith("✓")


# 3. Sub-sampling.


def windows(maps):
    """(maps, high, wide, 4)."""
    return torch.stack([maps[:, r::2, c::2] for r in (0, 1) for c in (0, 1)], 3)


def by_kind(average=lambda w: w.mean(3), largest=lambda w: w.amax(3), windows=windows):
    return lambda maps, kind: {"average": average, "max": largest}[kind](windows(maps))


POOLS = {
    "The two kinds are swapped": by_kind(lambda w: w.amax(3), lambda w: w.mean(3)),
    "Both kinds give the average": by_kind(largest=lambda w: w.mean(3)),
    "Both kinds give the max": by_kind(average=lambda w: w.amax(3)),
    'kind="max" gives nothing yet': by_kind(largest=lambda w: None),
    'kind="average" gives nothing yet': by_kind(average=lambda w: None),
    "average: that is one pixel": by_kind(lambda w: w[..., 0], lambda w: w[..., 0]),
    "max: that is one pixel": by_kind(largest=lambda w: w[..., 3]),
    "average: those are four pixels in a row": by_kind(
        windows=lambda maps: maps.reshape(len(maps), maps.shape[1] // 2, maps.shape[2] // 2, 4)
    ),
    "average: those four pixels lie far apart": by_kind(
        windows=lambda maps: (
            maps.reshape(len(maps), 2, maps.shape[1] // 2, 2, maps.shape[2] // 2).permute(0, 2, 4, 1, 3).flatten(3)
        )
    ),
    "average: that is the sum": by_kind(lambda w: w.sum(3)),
    "max: that is the sum": by_kind(largest=lambda w: w.sum(3)),
    "max: that is the smallest": by_kind(largest=lambda w: w.amin(3)),
    "no `abs`": by_kind(largest=lambda w: w.abs().amax(3)),
    "may be below 0": by_kind(largest=lambda w: w.relu().amax(3)),
    "average: right at first, but not everywhere": by_kind(lambda w: w.mean(3).triu()),
    "average: a window of ": by_kind(lambda w: w.median(3).values),
    "gives the places too": by_kind(largest=lambda w: w.max(3)),
    "windows overlap": lambda maps, kind: F.avg_pool2d(maps, 2, stride=1),
    "as large as before": lambda maps, kind: maps,
    "from 6x10: both height and width": lambda maps, kind: maps.reshape(4, 3, 2, 10).mean(2),
    "Yours are 6x5": lambda maps, kind: maps.reshape(4, 6, 5, 2).mean(3),
    "maps are transposed": lambda maps, kind: windows(maps).mean(3).mT,
    "4 maps went in and 2 came out": lambda maps, kind: maps.reshape(2, 2, 3, 2, 10).mean((1, 3)),
    "of shape (4, 3, 5) here; yours has shape (4,)": lambda maps, kind: maps.mean((1, 2)),
    "is of dtype bool": by_kind(lambda w: w.mean(3) > 0),
    "has changed `maps`": by_kind(windows=lambda maps: windows(maps.relu_())),
    "of shape (4, 3, 5) here; yours has shape (1, 4, 3, 5)": lambda maps, kind: F.max_pool2d(maps[None], 2),
}


@pytest.mark.parametrize("hint", POOLS)
def test_a_wrong_sub_sampling_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.sub_sample, POOLS[hint])


def pooled_in_numpy(maps, kind):
    count, height, width = maps.shape
    blocks = maps.numpy().astype("float64").reshape(count, height // 2, 2, width // 2, 2)
    return blocks.mean((2, 4)) if kind == "average" else blocks.max(axis=(2, 4))


def pooled_by_corners(maps, kind):
    corners = maps[:, ::2, ::2], maps[:, ::2, 1::2], maps[:, 1::2, ::2], maps[:, 1::2, 1::2]
    return sum(corners) / 4 if kind == "average" else reduce(torch.maximum, corners)


def pooled_by_lists(maps, kind):
    pool = {"average": lambda values: sum(values) / 4, "max": max}[kind]
    return [
        [
            [pool([float(x) for x in one[r : r + 2, c : c + 2].flatten()]) for c in range(0, one.shape[1], 2)]
            for r in range(0, one.shape[0], 2)
        ]
        for one in maps
    ]


HALVES = {
    "by torch": lambda maps, kind: (F.avg_pool2d if kind == "average" else F.max_pool2d)(maps, 2),
    "by a layer": lambda maps, kind: {"average": nn.AvgPool2d(2), "max": nn.MaxPool2d(2)}[kind](maps),
    "in float64 by numpy": pooled_in_numpy,
    "by the four corners of the windows": pooled_by_corners,
    "by lists of numbers": pooled_by_lists,
    "a list of maps": lambda maps, kind: list(pooled_by_corners(maps, kind)),
    "width first, then height": lambda maps, kind: (
        maps.unfold(2, 2, 2).mean(3).unfold(1, 2, 2).mean(3)
        if kind == "average"
        else maps.unfold(2, 2, 2).amax(3).unfold(1, 2, 2).amax(3)
    ),
}


@pytest.mark.parametrize("style", HALVES)
def test_sub_sampling_of_another_style_is_right(capsys, style):
    assert verdict(capsys, check.sub_sample, HALVES[style]).startswith("✓")


def test_a_stub_in_one_of_two_branches_is_not_answered(capsys):
    assert verdict(capsys, check.sub_sample, by_kind(average=lambda w: ...)).startswith("○")


# 4. The receptive field.


def grown(step, start=1, less=1):
    """The sum of (size - less) times `step(strides, layer)`."""

    def answer(layers):
        strides = [stride for _, stride in layers]
        return start + sum((size - less) * step(strides, i) for i, (size, _) in enumerate(layers))

    return answer


def downwards(seen, window):
    def answer(layers):
        wide = seen
        for size, stride in reversed(layers):
            wide = window(wide, size, stride)
        return wide

    return answer


def below_it(strides, i):
    return prod(strides[:i])


FIELDS = {
    "One short": grown(below_it, start=0),
    "forgets the strides": grown(lambda strides, i: 1),
    "the sum of the sizes": lambda layers: sum(size for size, _ in layers),
    "the product of the sizes": lambda layers: prod(size for size, _ in layers),
    "how far apart two units are": lambda layers: prod(stride for _, stride in layers),
    "*less one*": grown(below_it, start=0, less=0),
    "the first of its windows": grown(below_it, start=1, less=0),
    "not n strides and one size": downwards(1, lambda wide, size, stride: wide * stride + size),
    "A layer's own stride": grown(lambda strides, i: prod(strides[: i + 1])),
    "*above* each layer": grown(lambda strides, i: prod(strides[i + 1 :])),
    "not only that of the nearest": grown(lambda strides, i: [1, *strides][i]),
    "Strides multiply": grown(lambda strides, i: 1 + sum(strides[:i])),
    "That is the area": lambda layers: SOLUTIONS["receptive_field"](layers) ** 2,
    "of the layer right below": lambda layers: layers[-1][0],
    "For [(5, 1), (2, 2)] it is 6; yours is 5": lambda layers: layers[0][0],
    "For [(5, 1)] it is 5; yours is 32": lambda layers: 32,
}


@pytest.mark.parametrize("hint", FIELDS)
def test_a_wrong_field_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.receptive_field, FIELDS[hint])


def by_trial(layers):
    """Pixels that move the first unit, found by differentiating it."""
    x = torch.zeros(400, requires_grad=True)
    y = x
    for size, stride in layers:
        y = F.conv1d(y[None, None], torch.ones(1, 1, size), stride=stride)[0, 0]
    y[0].backward()
    return (x.grad != 0).sum()


def by_ranges(layers):
    seen = range(1)
    for size, stride in reversed(layers):
        seen = range(seen.start * stride, (seen.stop - 1) * stride + size)
    return len(seen)


def by_recursion(layers):
    if not layers:
        return 1
    *below, (size, _) = layers
    return by_recursion(below) + (size - 1) * prod(stride for _, stride in below)


WIDTHS = {
    "from the top down": downwards(1, lambda wide, size, stride: (wide - 1) * stride + size),
    "from the bottom up": grown(below_it),
    "by trial, as a tensor": by_trial,
    "by ranges of pixels": by_ranges,
    "by recursion": by_recursion,
    "by numpy": lambda layers: (
        1 + np.sum((np.array(layers)[:, 0] - 1) * np.cumprod([1, *np.array(layers)[:-1, 1]]))
    ),
    "as a float": lambda layers: float(by_ranges(layers)),
}  # fmt: skip


@pytest.mark.parametrize("style", WIDTHS)
def test_a_width_of_another_style_is_right(capsys, style):
    assert verdict(capsys, check.receptive_field, WIDTHS[style]).startswith("✓")


def test_a_table_of_the_cases_that_lenet_has_is_not_right(capsys):
    seen = {1: 5, 2: 6, 3: 14, 5: 32}
    assert "For [(3, 2), (4, 3), (2, 1), (3, 1)]" in verdict(
        capsys, check.receptive_field, lambda layers: seen.get(len(layers), 0)
    )


def test_what_lenets_c5_sees_is_all_of_the_image():
    assert SOLUTIONS["receptive_field"]([(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)]) == 32


# 5. A small net.


def fully_connected():
    return nn.Sequential(
        nn.Flatten(1), nn.Unflatten(1, (1, 28, 28)), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 18), nn.Tanh(),
        nn.Linear(18, 10),
    )  # fmt: skip


def test_the_solution_gets_all_points(capsys):
    assert points(capsys, check.small_net, SOLUTIONS["small_net"])[0] == 10


def test_a_net_without_convolutions_gets_some_points(capsys):
    given, printed = points(capsys, check.small_net, fully_connected())
    assert 2 < given < 10
    assert "1,090 parameters" in printed


def test_weights_that_are_trained_already_start_anew(capsys, monkeypatch):
    monkeypatch.setattr(small_net, "STEPS", 2)
    net = nn.Sequential(nn.MaxPool2d(14), nn.Flatten(), nn.Linear(4, 10))
    first = points(capsys, check.small_net, net)
    nn.init.constant_(net[2].weight, 100.0)
    assert points(capsys, check.small_net, lambda: net) == first
    assert net[2].weight.eq(100).all()


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(784, 2))

    def forward(self, x):
        return (x.flatten(1) @ self.weight).repeat(1, 5)


SIZES = {
    "Your net has 7,850 parameters; 2,000 are allowed": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
    "Your net has 76,746 connections; 40,000 are allowed": ConvNet,
    "Return a net, such as `nn.Sequential(...)`; yours is of type list": lambda: [nn.Linear(784, 2)],
    "yours gives (3, 2)": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 2)),
    "It takes no images of shape": lambda: nn.Sequential(nn.Flatten(), nn.Linear(700, 2)),
    "cannot count the work of Sums": Sums,
    "It cannot be trained": lambda: nn.Sequential(nn.MaxPool2d(14, ceil_mode=True), nn.Flatten(), Tens()),
    "raised NameError": lambda: nn.Sequential(layer),
    "○ Not answered yet": ...,
}


class Tens(nn.Module):
    def forward(self, x):
        return x[:, :1].repeat(1, 10)


@pytest.mark.parametrize("said", SIZES)
def test_what_cannot_be_measured_or_is_too_large_gets_no_points(capsys, said):
    given, printed = points(capsys, check.small_net, SIZES[said])
    assert given == 0
    assert said in printed
