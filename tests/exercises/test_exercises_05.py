"""Notebook 05: each usual mistake has a hint of its own, and no answer is an error message."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from answers import solutions, verdict

from dlkit.exercises import cnn_feature_maps as check

SOLUTIONS = solutions("05_cnn_feature_maps")
TENSORS, NUMBERS = ["convolve", "sub_sample"], ["parameters", "receptive_field"]


@pytest.mark.parametrize("name", TENSORS + NUMBERS)
@pytest.mark.parametrize("nonsense", ["three", [1.0], torch.zeros(2, 7), float("nan"), True])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_of_nan_is_no_answer(capsys, name):
    assert verdict(capsys, getattr(check, name), lambda *x: torch.nan * SOLUTIONS[name](*x)).startswith("✗ Not yet")


# 1. A convolution.


def slid(image, kernel):
    return F.conv2d(image[None, None], kernel[None, None])[0, 0]


def by_matrix_products(image, kernel, bias):
    size = len(kernel)
    rows = [[(image[r : r + size, c : c + size] @ kernel).sum() for c in range(10 - size)] for r in range(7 - size)]
    return torch.stack([torch.stack(row) for row in rows]) + bias


CONVOLUTIONS = {
    "kernel is flipped": lambda x, k, b: slid(x, k.flip(0, 1)) + b,
    "kernel is transposed": lambda x, k, b: slid(x, k.T) + b,
    "bias is missing": lambda x, k, b: slid(x, k),
    "*added*": lambda x, k, b: slid(x, k) - b,
    "once a window": lambda x, k, b: slid(x, k) + k.numel() * b,
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
    "All values of your map are equal": lambda x, k, b: (slid(x, k)[0, 0] + b).expand(7 - len(k), 10 - len(k)),
    "At [": lambda x, k, b: slid(x, k).relu() + b,
    "of shape (4, 7) here; yours has shape (1, 1, 4, 7)": lambda x, k, b: (slid(x, k) + b)[None, None],
    "yours is of type list": lambda x, k, b: [[float(b)]],
}


@pytest.mark.parametrize("hint", CONVOLUTIONS)
def test_a_wrong_convolution_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.convolve, CONVOLUTIONS[hint])


def test_of_two_mistakes_the_kernels_is_told_first(capsys):
    assert "kernel is flipped" in verdict(capsys, check.convolve, lambda x, k, b: slid(x, k.flip(0, 1)))


def test_the_library_may_be_used(capsys):
    assert verdict(capsys, check.convolve, lambda x, k, b: slid(x, k) + b).startswith("✓")


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


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_count_may_be_of_another_type(capsys, kind):
    assert verdict(capsys, check.parameters, lambda t, s: kind(SOLUTIONS["parameters"](t, s))).startswith("✓")


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
    'kind="average" gives nothing yet': by_kind(average=lambda w: ...),
    "average: that is one pixel": by_kind(lambda w: w[..., 0], lambda w: w[..., 0]),
    "max: that is one pixel": by_kind(largest=lambda w: w[..., 3]),
    "average: those are four pixels in a row": by_kind(windows=lambda maps: maps.reshape(4, 3, 5, 4)),
    "average: those four pixels lie far apart": by_kind(
        windows=lambda maps: maps.reshape(4, 2, 3, 2, 5).permute(0, 2, 4, 1, 3).flatten(3)
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
}


@pytest.mark.parametrize("hint", POOLS)
def test_a_wrong_sub_sampling_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.sub_sample, POOLS[hint])


def test_torchs_own_sub_sampling_is_right(capsys):
    def answer(maps, kind):
        return (F.avg_pool2d if kind == "average" else F.max_pool2d)(maps, 2)

    assert verdict(capsys, check.sub_sample, answer).startswith("✓")


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


def test_from_the_top_down_is_right_too(capsys):
    right = downwards(1, lambda wide, size, stride: (wide - 1) * stride + size)
    assert verdict(capsys, check.receptive_field, right).startswith("✓")


def test_what_lenets_c5_sees_is_all_of_the_image():
    assert SOLUTIONS["receptive_field"]([(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)]) == 32
