"""The checks of notebook 12: right answers in other styles, and the usual mistakes with their hints."""

from math import ceil

import numpy as np
import pytest
import torch
from answers import points, solutions, verdict
from torch import nn

from dlkit.exercises import distributed_array as check
from dlkit.models import RICAStage

SOLUTIONS = solutions("12_distributed_array")
NAMES = ["seen", "return_halo", "untied", "memory"]


@pytest.mark.parametrize("name", NAMES)
def test_the_solutions_are_right(capsys, name):
    assert verdict(capsys, getattr(check, name), SOLUTIONS[name]).startswith("✓")


def test_the_solution_of_the_open_task_has_all_points(capsys):
    assert points(capsys, check.detector, SOLUTIONS["detector"])[0] == 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", 1.5, None, torch.zeros(2, 7), float("nan"), (None, 1), [[1]], {}])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


def clipped(a, b, k, s, p, n):
    return [max(a * s - p, 0), min((b - 1) * s - p + k, n)]


def by_counting(a, b, k, s, p, n):
    every = sorted({i * s - p + j for i in range(a, b) for j in range(k)} & set(range(n)))
    return every[0], every[-1] + 1


def by_numpy(a, b, k, s, p, n):
    return np.clip([a * s - p, (b - 1) * s - p + k], 0, n)


def by_torch(a, b, k, s, p, n):
    return torch.tensor([a * s - p, (b - 1) * s - p + k]).clamp(0, n)


@pytest.mark.parametrize("right", [clipped, by_counting, by_numpy, by_torch])
def test_what_windows_see_is_found_in_many_ways(capsys, right):
    assert verdict(capsys, check.seen, right).startswith("✓")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda a, b, k, s, p, n: (a * s - p, (b - 1) * s - p + k), "nobody has those inputs"),
        (lambda a, b, k, s, p, n: (a * s, min((b - 1) * s + k, n)), "Without the padding"),
        (lambda a, b, k, s, p, n: (max(a - p, 0), min(b - 1 - p + k, n)), "where the stride is 1"),
        (lambda a, b, k, s, p, n: (max(a * s - p, 0), min(b * s - p + k, n)), "ends too late"),
        (lambda a, b, k, s, p, n: (max(a * s - p, 0), min((b - 1) * s - p + k, n) - 1), "as in a slice"),
        (lambda a, b, k, s, p, n: (max(a * s - p, 0), min((b - 1) * s - p, n)), "reaches `kernel` inputs"),
        (lambda a, b, k, s, p, n: (a * s + p, min((b - 1) * s + p + k, n)), "to the *left*"),
        (
            lambda a, b, k, s, p, n: (max(a * s - k // 2, 0), min((b - 1) * s + k // 2 + 1, n)),
            "windows around their output",
        ),
        (lambda a, b, k, s, p, n: (a, b), "see (4, 10); yours is (4, 8)"),
        (lambda a, b, k, s, p, n: clipped(a, b, k, s, p, n)[0], "two numbers, start and stop"),
    ],
)
def test_usual_mistakes_with_windows(capsys, wrong, hint):
    assert hint in verdict(capsys, check.seen, wrong)


def summed(gradients, tiles, seen):
    return [
        sum(
            torch.nn.functional.pad(g, (start, tiles[-1][1] - stop))
            for g, (start, stop) in zip(gradients, seen, strict=True)
        )[a:b]
        for a, b in tiles
    ]


def by_loops(gradients, tiles, seen):
    found = []
    for a, b in tiles:
        own = np.zeros(b - a)
        for place in range(a, b):
            for gradient, (start, stop) in zip(gradients, seen, strict=True):
                if start <= place < stop:
                    own[place - a] += gradient[place - start]
        found.append(own)
    return found


def by_autograd(gradients, tiles, seen):
    x = torch.zeros(tiles[-1][1], requires_grad=True)
    torch.cat([x[start:stop] for start, stop in seen]).backward(torch.cat(gradients))
    return tuple(x.grad[a:b] for a, b in tiles)


def by_index_add(gradients, tiles, seen):
    places = torch.cat([torch.arange(*ends) for ends in seen])
    total = torch.zeros(tiles[-1][1]).index_add(0, places, torch.cat(gradients))
    return total.split([b - a for a, b in tiles])


@pytest.mark.parametrize("right", [summed, by_loops, by_autograd, by_index_add])
def test_the_way_back_of_a_halo_is_found_in_many_ways(capsys, right):
    assert verdict(capsys, check.return_halo, right).startswith("✓")


def own_alone(gradients, tiles, seen):
    return [g[a - s : b - s] for g, (a, b), (s, _) in zip(gradients, tiles, seen, strict=True)]


def averaged(gradients, tiles, seen):
    ones = [torch.ones_like(g) for g in gradients]
    return [x / n for x, n in zip(summed(gradients, tiles, seen), summed(ones, tiles, seen), strict=True)]


def of_others(gradients, tiles, seen):
    return [x - y for x, y in zip(summed(gradients, tiles, seen), own_alone(gradients, tiles, seen), strict=True)]


def overwritten(gradients, tiles, seen):
    total = torch.zeros(tiles[-1][1])
    for gradient, (start, stop) in zip(gradients, seen, strict=True):
        total[start:stop] = gradient
    return [total[a:b] for a, b in tiles]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (own_alone, "others have used its inputs too"),
        (averaged, "that is the mean"),
        (of_others, "own gradient is missing"),
        (overwritten, "has taken the place of an earlier one's"),
        (lambda g, tiles, seen: g, "Rank 0's is of all that it saw"),
        (lambda g, tiles, seen: torch.cat(summed(g, tiles, seen)), "a list with a gradient for each of the 2 ranks"),
        (lambda g, tiles, seen: summed(g, tiles, seen)[:1], "a list with a gradient for each of the 2 ranks"),
        (lambda g, tiles, seen: [2 * x for x in summed(g, tiles, seen)], "is the sum over all ranks that saw it"),
        (lambda g, tiles, seen: summed(g, tiles, seen)[::-1], "is the sum over all ranks that saw it"),
    ],
)
def test_usual_mistakes_with_the_way_back(capsys, wrong, hint):
    assert hint in verdict(capsys, check.return_halo, wrong)


def places(length, size, stride):
    return (length - size) // stride + 1


def counted(i, m, k, h, w, s):
    return len(range(0, h - k + 1, s)) * len(range(0, w - k + 1, s)) * i * m * k * k


def by_unfold(i, m, k, h, w, s):
    return torch.zeros(1, i, h, w).unfold(2, k, s).unfold(3, k, s).numel() * m


def by_a_layer(i, m, k, h, w, s):
    return nn.Conv2d(i, 1, k, s)(torch.zeros(1, i, h, w)).numel() * np.int64(i * m * k**2)


def as_a_tensor(i, m, k, h, w, s):
    return torch.tensor(counted(i, m, k, h, w, s))


@pytest.mark.parametrize("right", [counted, by_unfold, by_a_layer, as_a_tensor])
def test_untied_weights_are_counted_in_many_ways(capsys, right):
    assert verdict(capsys, check.untied, right).startswith("✓")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda i, m, k, h, w, s: i * m * k**2, "a convolution's"),
        (lambda i, m, k, h, w, s: h * w * i * m * k**2, "a place for each pixel"),
        (lambda i, m, k, h, w, s: (h - k + 1) * (w - k + 1) * i * m * k**2, "where the stride is 1"),
        (lambda i, m, k, h, w, s: places(h, k, s) * places(w, k, s) * m * k**2, "A window sees all maps"),
        (lambda i, m, k, h, w, s: places(h, k, s) * places(w, k, s) * i * m * k, "size x size weights"),
        (lambda i, m, k, h, w, s: places(h, k, s) * places(w, k, s) * (i * k**2 + 1) * m, "With biases"),
        (lambda i, m, k, h, w, s: (h // s) * (w // s) * i * m * k**2, "before it is at the edge"),
        (lambda i, m, k, h, w, s: ((h - k) // s) * ((w - k) // s) * i * m * k**2, "One place too few"),
        (lambda i, m, k, h, w, s: 1, "115,200; yours is 1."),
    ],
)
def test_usual_mistakes_with_untied_weights(capsys, wrong, hint):
    assert hint in verdict(capsys, check.untied, wrong)


def fullest(h, w, n, p, q):
    return 8 * n * ceil(h / p) * ceil(w / q)


def by_chunks(h, w, n, p, q):
    tiles = [part for band in torch.zeros(h, w).tensor_split(p) for part in band.tensor_split(q, 1)]
    return max(part.numel() for part in tiles) * n * 2 * torch.float32.itemsize


def by_array_split(h, w, n, p, q):
    return 8 * n * len(np.array_split(range(h), p)[0]) * len(np.array_split(range(w), q)[0])


def by_integers(h, w, n, p, q):
    return (h + p - 1) // p * ((w + q - 1) // q) * n * 8


@pytest.mark.parametrize("right", [fullest, by_chunks, by_array_split, by_integers])
def test_memory_is_counted_in_many_ways(capsys, right):
    assert verdict(capsys, check.memory, right).startswith("✓")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda h, w, n, p, q: fullest(h, w, n, p, q) // 2, "each has a gradient too"),
        (lambda h, w, n, p, q: fullest(h, w, n, p, q) // 4, "each has 4 bytes"),
        (lambda h, w, n, p, q: 8 * (h // p) * (w // q) * n, "the emptiest rank"),
        (lambda h, w, n, p, q: round(8 * h * w * n / (p * q)), "That is the mean"),
        (lambda h, w, n, p, q: 8 * ceil(h * w / (p * q)) * n, "a tile is a rectangle"),
        (lambda h, w, n, p, q: 8 * h * w * n, "all ranks together"),
        (lambda h, w, n, p, q: fullest(h, w, n, q, p), "exchanged"),
        (lambda h, w, n, p, q: 2 * fullest(h, w, n, p, q), "float32 has 4 bytes"),
        (lambda h, w, n, p, q: n, "230,400 bytes; yours is 200"),
    ],
)
def test_usual_mistakes_with_memory(capsys, wrong, hint):
    assert hint in verdict(capsys, check.memory, wrong)


# The open task: what is handed in, its points, and what is said.


def filters(net, images):
    return net.filters(images[:, None]).flatten(1)


def stage(maps=60, size=28, **settings):
    generator = torch.Generator().manual_seed(0)
    return RICAStage(1, maps, size, (28, 28), pool=(1, 1), contrast=None, generator=generator, **settings)


class OwnNet(nn.Module):
    """Nothing of the kit's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.03 * torch.randn(80, 784, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        x = images.flatten(1)
        return ((x @ self.weight.T @ self.weight - x) ** 2).sum(1)


HANDED_IN = {
    "fewer units": ((stage(), filters, 0.003), range(6, 10), "47,040 parameters and 60 units"),
    "one of one's own": ((OwnNet(), lambda net, x: x.flatten(1) @ net.weight.T, 0.001), range(6, 10), "80 units"),
    "too many units": ((stage(500), filters, 0.0003), range(2, 5), "which counts only for a net that fits"),
    "pixels": ((stage(4), lambda net, x: x.flatten(1)[:, :400], 0.001), range(4, 7), "+0.0 % against the same net"),
    "far too long steps": ((stage(20), filters, 1e6), range(2, 3), "loss is"),
    "uphill": ((stage(4), filters, -1.0), range(1), "lr is more than 0"),
    "no cost": ((nn.Flatten(), filters, 0.1), range(1), "give a cost for each image"),
    "no net": ((filters, filters, 0.1), range(1), "The first is the net"),
    "no function": ((stage(4), 3, 0.1), range(1), "The second is a function"),
    "one value": ((stage(4), lambda net, x: x.mean(), 0.1), range(1), "(images, units) is wanted"),
    "the net alone": (stage(4), range(1), "Return three things"),
    "two": ((stage(4), 0.1), range(1), "Return three things"),
    "nothing": (None, range(1), ""),
}


@pytest.mark.parametrize("name", HANDED_IN)
def test_a_detector_gets_its_points(capsys, name):
    handed_in, expected, said = HANDED_IN[name]
    given, printed = points(capsys, check.detector, lambda: handed_in)
    assert said in printed
    assert given in expected
