"""The exercises of notebook 05: a convolution, what it has to learn, sub-sampling, how far a unit sees, a small net.

`dlkit.exercises.small_net` measures the last one.
"""

from collections.abc import Iterator, Sequence
from math import prod
from operator import eq
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.exercises import Answer, Hint, Points, ReturnsNothing, exercise, task
from dlkit.exercises.answers import (
    close,
    first_wrong,
    floats,
    largest_error,
    over_cases,
    refuse_mistakes,
    seeded,
    shaped,
    whole,
    windowed,
)
from dlkit.exercises.small_net import CONNECTIONS, DIGITS, PARAMETERS, STEPS, counted, error_after_training
from dlkit.models.convnet import LENET_TABLE, SURVEY_TABLE

SQUASHES = (torch.tanh, torch.sigmoid, torch.relu)
Layers = list[tuple[int, int]]  # (size, stride) of each layer's window, from the lowest layer up


@exercise(
    "one small kernel, moved over the whole image: a map says where the image looks like it",
    deeper="Image [[1, 2], [3, 4]], kernel [[1, 0], [0, 10]], bias 5: the kernel has one place in it, and the map one "
    "value, 1·1 + 2·0 + 3·0 + 4·10 + 5 = 46.",
)
def convolve(answer: Answer) -> None:
    """`answer(image, kernel, bias)`: the map (H - k + 1, W - k + 1) of an image (H, W) under a kernel (k, k)."""
    g = seeded(1)
    for height, width, size in ((6, 9, 3), (6, 9, 2), (5, 7, 5), (8, 4, 3)):
        image, kernel = torch.randn(height, width, generator=g), torch.randn(size, size, generator=g)
        bias = torch.randn((), generator=g) + 2
        feature_map = windowed(floats(answer(image, kernel, bias)), (height, width), size)

        def slid(kernel: Tensor, image: Tensor = image) -> Tensor:
            """The kernel moved over the image, without a bias."""
            return F.conv2d(image[None, None], kernel[None, None])[0, 0]

        right = slid(kernel) + bias
        if close(feature_map, right):
            continue
        high, wide = right.shape
        sums = [
            (right - bias, "The bias is missing: it is added to every value of the map."),
            (right - 2 * bias, "The bias is *added*: plus."),
            (right + (size**2 - 1) * bias, "The bias is added once a window, not once a product."),
            (slid(kernel) / size**2 + bias, "That is the mean of the products: a convolution takes their sum."),
            ((right - bias) * bias, "The bias is added to the sum, not multiplied by it."),
        ]
        refuse_mistakes(feature_map, sums)
        squashed = [(squash(right), "Right, but squashed: the exercise ends before that.") for squash in SQUASHES]
        refuse_mistakes(feature_map, squashed)
        products = torch.stack([(window @ kernel).sum() for window in windows_of(image, size)]).view(high, wide)
        refuse_mistakes(feature_map, [(products + bias, "`@` is the matrix product: `*` multiplies number by number.")])
        early = slid(kernel, F.pad(image, (1, 0, 1, 0)))[:high, :wide]
        variants = [
            (slid(kernel.flip(0, 1)), "Your kernel is flipped: here its [0, 0] meets the window's [0, 0]."),
            (slid(kernel.T), "Your kernel is transposed: its rows go with the rows of the window."),
            (early, "Your windows begin one pixel too early: that of [r, c] begins at image[r, c]."),
            (slid(torch.ones(size, size)), "The kernel is missing: each pixel of a window has its own factor in it."),
        ]
        for other, hint in variants:  # with the bias or without: one hint at a time
            if close(feature_map, other + bias) or close(feature_map, other):
                raise Hint(hint)
        if close(feature_map, feature_map[:1, :1].expand(high, wide)):
            raise Hint("All values of your map are equal: the window has to move, `image[r : r + k, c : c + k]`.")
        row, column = largest_error(feature_map, right)
        raise Hint(
            f"At [{row}, {column}] of this check's map it should be {right[row, column]:.3f}; yours is "
            f"{feature_map[row, column]:.3f}. Sum of kernel times window, number by number, plus the bias."
        )


def windows_of(image: Tensor, size: int) -> Tensor:
    """All windows of size x size, row by row: (windows, size, size)."""
    return image.unfold(0, size, 1).unfold(1, size, 1).flatten(0, 1)


@exercise(
    "a kernel is learnt once and used everywhere, so the size of the image does not count, only the connections",
    deeper="Two maps, of which one sees maps 0 and 1 and the other map 1 only, and kernels of 2x2: three connections "
    "with 4 numbers each make 12, and two maps with a bias each make 2 more: 14.",
)
def parameters(answer: Answer) -> None:
    """`answer(table, size)`: how many numbers a convolution with kernels of size x size learns.

    `table[o]` has the indices of the maps below that map o sees.
    """
    odd = ((0, 2), (1,), (0, 1, 2), (1, 2), (0, 1, 2))
    cases: list[tuple[Sequence[Sequence[int]], int]] = [(LENET_TABLE, 5), (SURVEY_TABLE, 5), (odd, 3), (((0,),), 7)]
    counts = [whole(answer(table, size)) for table, size in cases]
    right = [sum(len(row) for row in table) * size**2 + len(table) for table, size in cases]
    if counts == right:
        return
    refuse_mistakes(counts, over_cases(_wrong_parameters(table, size) for table, size in cases), eq)
    kernels = [count - len(table) for count, (table, _) in zip(right, cases, strict=True)]
    for once in (right, kernels):  # with the biases or without
        if all(count > 9 * n and count % n == 0 for count, n in zip(counts, once, strict=True)):
            raise Hint("That counts them again at each place of the map: a kernel is *shared* by all places.")
    i = first_wrong(counts, right, eq)
    table, size = cases[i]
    raise Hint(
        f"For {len(table)} maps with {sum(map(len, table))} connections to maps below, and kernels of {size}x{size}, "
        f"it is {right[i]:,}; yours is {counts[i]:,}. What does a connection need, and what does a map?"
    )


def _wrong_parameters(table: Sequence[Sequence[int]], size: int) -> list[tuple[int, str]]:
    """The usual wrong counts of parameters, with their hints."""
    maps, below, connections, area = len(table), len({i for row in table for i in row}), sum(map(len, table)), size**2
    return [
        (connections * area, "Each map has a bias too."),
        (maps * below * area + maps, "That joins every map to all below: count only the connections in the table."),
        (maps * below * area, "That joins every map to all below, and without biases: count what the table has."),
        (maps * area + maps, "That is one kernel a map. A map that sees three maps has three, one for each."),
        (maps * area, "That is one kernel a map. A map that sees three maps has three; and it has a bias."),
        (connections * (area + 1), "That is a bias for each connection: a map adds up what it sees, plus *one* bias."),
        (connections * area + below, "That is a bias for each map *below*: the maps that are made have them."),
        (connections * area + 1, "That is one bias in all: each map has its own."),
        (connections * size + maps, "A kernel is square: size times size numbers."),
        (connections, "That is how many connections there are: each has a kernel, and each map a bias."),
        (connections + maps, "That is a single weight a connection: each has a kernel of size times size."),
    ]


@exercise(
    "half as high and half as wide: a map keeps what it saw, and forgets exactly where",
    deeper="One map of 2x4 pixels, [[1, 2, 10, 20], [3, 6, 30, 60]]: the windows are 1, 2, 3, 6 and 10, 20, 30, 60. "
    "Their averages are 3 and 30, their largest values 6 and 60.",
)
def sub_sample(answer: Answer) -> None:
    """`answer(maps, kind)`: maps (maps, height, width) half as high and half as wide.

    Windows of 2x2 lie side by side; `kind` says what each gives: "average" or "max".
    """
    g = seeded(3)
    for shape in ((4, 6, 10), (3, 8, 6), (1, 2, 4)):
        _judge_halves(answer, torch.randn(shape, generator=g) - 0.5)


def _judge_halves(answer: Answer, maps: Tensor) -> None:
    """Raises Hint if the maps are not halved right by both kinds."""
    average, largest = (_halved(_of_kind(answer, maps, kind), maps.shape) for kind in ("average", "max"))
    windows = maps.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    right = {"average": windows.mean(3), "max": windows.amax(3)}
    if close(average, right["max"]) and close(largest, right["average"]):
        raise Hint('The two kinds are swapped: "average" gives the largest.')
    if close(average, largest):
        for kind, value in right.items():
            if close(average, value):
                raise Hint(f"Both kinds give the {kind}: look at what `kind` is.")
    count, high, wide, _ = windows.shape
    in_a_row = maps.reshape(count, high, wide, 4)
    far_apart = maps.reshape(count, 2, high, 2, wide).permute(0, 2, 4, 1, 3).flatten(3)
    for kind, halved, value in (("average", average, right["average"]), ("max", largest, right["max"])):
        if close(halved, value):
            continue
        pool = {"average": lambda x: x.mean(3), "max": lambda x: x.amax(3)}[kind]
        row = "A window is two by two: `reshape(maps, height // 2, 2, width // 2, 2)`, then both dimensions of 2."
        variants = [
            *((windows[..., i], "that is one pixel of each window: all four have a say.") for i in range(4)),
            (pool(in_a_row), f"those are four pixels in a row. {row}"),
            (pool(far_apart), f"those four pixels lie far apart. {row}"),
            (windows.sum(3), "that is the sum of the window."),
            (windows.amin(3), "that is the smallest of the window."),
            (windows.abs().amax(3), "maps have negative values too, and -3 is less than 1: no `abs`."),
            (windows.relu().amax(3), "maps have negative values too: the largest of a window may be below 0."),
        ]
        refuse_mistakes(halved, [(other, f"{kind}: {hint}") for other, hint in variants])
        if close(halved[0, 0, 0], value[0, 0, 0]):
            raise Hint(f"{kind}: right at first, but not everywhere: a window begins at every second row and column.")
        four = ", ".join(f"{x:.2f}" for x in windows[0, 0, 0])
        raise Hint(f"{kind}: a window of {four} should give {value[0, 0, 0]:.2f}; yours gives {halved[0, 0, 0]:.2f}.")


def _of_kind(answer: Answer, maps: Tensor, kind: str) -> Any:
    """What the answer gives for this kind. Raises Hint if that is nothing."""
    try:
        return answer(maps, kind)
    except ReturnsNothing:
        raise Hint(f'kind="{kind}" gives nothing yet: each of the two kinds has to return maps.') from None


def _halved(answer: Any, before: Sequence[int]) -> Tensor:
    """The answer, if it has the shape of maps that were (maps, height, width) before, halved. Raises Hint if not."""
    if isinstance(answer, tuple) and hasattr(answer, "indices"):
        raise Hint("Return one tensor. (`maps.max(dim)` gives the places too; `maps.amax(dim)` only the values.)")
    halves = floats(answer)
    shape, (count, height, width) = tuple(halves.shape), before
    high, wide = height // 2, width // 2
    if shape == (count, high, wide):
        return halves
    if shape == (count, height - 1, width - 1):
        raise Hint("Your windows overlap: they lie side by side, so the next begins two pixels on, not one.")
    if shape == (count, height, width):
        raise Hint("Your maps are as large as before: one value for each window of 2x2.")
    if shape in [(count, high, width), (count, height, wide)]:
        raise Hint(f"Yours are {shape[1]}x{shape[2]}, from {height}x{width}: both height and width are halved.")
    if shape == (count, wide, high):
        raise Hint("Your maps are transposed: height first, then width, as they came.")
    if len(shape) == 3 and shape[0] != count:
        raise Hint(
            f"{count} maps went in and {shape[0]} came out: each map is halved for itself, dimensions 1 and 2 only."
        )
    return shaped(halves, (count, high, wide), f"{count} maps, half as high and half as wide")


@exercise(
    "each layer adds its own size less one, in steps of all the strides below it",
    deeper="[(3, 2), (3, 1)]: a unit of the first layer sees 3 pixels, and the next one begins 2 pixels further on. "
    "Three of them in a row see 3 + 2 + 2 = 7 pixels.",
)
def receptive_field(answer: Answer) -> None:
    """`answer(layers)`: how many pixels wide a unit of the last layer sees.

    `layers` are (size, stride) of each layer's window, the lowest first.
    """
    lenet = [(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)]
    odd = [(3, 2), (4, 3), (2, 1), (3, 1)]
    cases: list[Layers] = [lenet[:1], lenet[:2], lenet[:3], lenet, odd, [(4, 4), (3, 1)], [(7, 4)]]
    widths = [whole(answer(layers)) for layers in cases]
    right = [field(layers) for layers in cases]
    if widths == right:
        return
    refuse_mistakes(widths, over_cases(_wrong_fields(layers) for layers in cases), eq)
    i = first_wrong(widths, right, eq)
    raise Hint(
        f"For {cases[i]} it is {right[i]}; yours is {widths[i]}. "
        "How many pixels apart are two neighbours of the layer below? A window of `size` of them is size - 1 such "
        "steps wider than what one of them sees."
    )


def field(layers: Layers) -> int:
    """How many pixels wide a unit of the last layer sees.

    From the top down: `seen` units in a row see (seen - 1) strides and one size of the layer below.
    """
    seen = 1
    for size, stride in reversed(layers):
        seen = (seen - 1) * stride + size
    return seen


def _wrong_fields(layers: Layers) -> list[tuple[int, str]]:
    """The usual wrong widths, with their hints."""
    sizes, strides = zip(*layers, strict=True)
    apart = [prod(strides[:i]) for i in range(len(layers))]  # pixels between two neighbours below each layer

    def grown(apart: list[int]) -> int:
        """What a unit sees if the inputs of each layer are so many pixels apart."""
        return 1 + sum((size - 1) * pixels for size, pixels in zip(sizes, apart, strict=True))

    down = 1
    for size, stride in reversed(layers):
        down = down * stride + size
    no_less = sum(size * pixels for size, pixels in zip(sizes, apart, strict=True))
    own = [prod(strides[: i + 1]) for i in range(len(layers))]
    above = [prod(strides[i + 1 :]) for i in range(len(layers))]
    nearest = [1, *strides][: len(layers)]
    added = [1 + sum(strides[:i]) for i in range(len(layers))]
    less_one = "A layer adds its size *less one*: the first of its windows is already counted."
    return [
        (grown(apart) - 1, "One short: without any layer a unit is a pixel, and sees 1."),
        (grown([1] * len(layers)), "That forgets the strides: units of a higher layer are several pixels apart."),
        (sum(sizes), "That is the sum of the sizes: windows overlap, and strides lay them apart."),
        (prod(sizes), "That is the product of the sizes: neighbouring windows overlap, so they see less than that."),
        (prod(strides), "That is how far apart two units are, in pixels: how wide is what one sees?"),
        (no_less, less_one),
        (no_less + 1, less_one),
        (down, "From the top down: n units in a row see (n - 1) strides and one size, not n strides and one size."),
        (grown(own), "A layer's own stride does not widen what its own unit sees: it counts for the layers above."),
        (grown(above), "Those are the strides *above* each layer: how far apart its inputs are, those *below* decide."),
        (grown(nearest), "All strides below a layer count, multiplied, not only that of the nearest."),
        (grown(added), "Strides multiply: two layers of stride 2 put neighbours 4 pixels apart."),
        (grown(apart) ** 2, "That is the area: how many pixels *wide* is it?"),
        (sizes[-1], "That is what it sees of the layer right below: go on down to the pixels."),
    ]


@task
def small_net(answer: Any) -> Iterator[Points]:
    """`answer()`: a net from images (batch, 28, 28) to ten logits, as small as PARAMETERS and CONNECTIONS allow.

    Judged: its size, and its errors after STEPS steps of training, which the check takes.
    """
    net = counted(answer)
    for name, count, most in (
        ("parameters", net.parameters, PARAMETERS),
        ("connections", net.connections, CONNECTIONS),
    ):
        if count > most:
            raise Hint(
                f"Your net has {count:,} {name}; {most:,} are allowed. `counts(net, test.images[:1])` says where."
            )
    wrong = error_after_training(net.net)
    yield Points(1, 1, f"{net.parameters:,} parameters, of {PARAMETERS:,}")
    yield Points(1, 1, f"{net.connections:,} connections, of {CONNECTIONS:,}")
    points = 2 * sum(wrong <= most for most in (30, 20, 14, 10))
    yield Points(points, 8, f"after {STEPS} steps it reads {wrong:.1f} % of {DIGITS:,} validation digits wrong")
