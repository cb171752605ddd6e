"""The exercises of notebook 12: what windows see, the way back of a halo, untied weights, and memory on a rank.

`detector` has the open task.
"""

from collections.abc import Callable
from math import ceil
from operator import eq
from typing import Any

import torch
from torch import Tensor

from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import (
    close,
    first_wrong,
    numbers,
    refuse_mistakes,
    results,
    seeded,
    shaped,
    whole,
)
from dlkit.exercises.detector import detector

__all__ = ["detector", "memory", "return_halo", "seen", "untied"]

Ends = tuple[int, int]

# (first, last, kernel, stride, padding, length): outputs first to last - 1, of `length` inputs.
WINDOWS = [
    (4, 8, 3, 1, 0, 12),
    (0, 5, 5, 1, 2, 14),
    (7, 14, 5, 1, 2, 14),
    (3, 6, 3, 2, 0, 15),
    (0, 4, 4, 3, 1, 13),
    (2, 4, 11, 4, 2, 32),
    (1, 2, 9, 1, 4, 6),
    (5, 6, 1, 1, 0, 6),
]


@exercise(
    "windows begin at stride times the output, less the padding, and what lies beside the image is nobody's",
    deeper="Outputs 2 and 3, kernel 3, stride 2, padding 1: output 2 begins at 2 * 2 - 1 = 3 and output 3 at 5, where "
    "it sees 5, 6 and 7. Together they see 3 to 7, so the answer is (3, 8).",
)
def seen(answer: Answer) -> None:
    """`answer(first, last, kernel, stride, padding, length)`: (start, stop) of the inputs that these outputs see.

    Outputs first to last - 1, and inputs start to stop - 1, of inputs 0 to length - 1.
    """
    found = [
        (whole(start), whole(stop))
        for start, stop in (numbers(answer(*case), 2, "two numbers, start and stop") for case in WINDOWS)
    ]
    right = [_seen(*case) for case in WINDOWS]
    if found == right:
        return
    mistakes: list[tuple[Callable[..., Ends], str]] = [
        (
            lambda a, b, k, s, p, n: (a * s - p, (b - 1) * s - p + k),
            "Right inside the image. At its edges yours goes beyond: nobody has those inputs to lend.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a * s, 0), min((b - 1) * s + k, n)),
            "Without the padding: with it output 0 begins that far *before* input 0.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a - p, 0), min(b - 1 - p + k, n)),
            "That is right where the stride is 1: output i begins at i * stride, less the padding.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a * s - p, 0), min(b * s - p + k, n)),
            "Yours ends too late: the last output is last - 1, and not last.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a * s - p, 0), min((b - 1) * s - p + k, n) - 1),
            "Yours gives the last input that is seen: `stop` is one behind it, as in a slice.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a * s - p, 0), min((b - 1) * s - p, n)),
            "The last window reaches `kernel` inputs from where it begins.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a * s + p, 0), min((b - 1) * s + p + k, n)),
            "Padding moves windows to the *left*: less the padding.",
        ),
        (
            lambda a, b, k, s, p, n: (max(a * s - k // 2, 0), min((b - 1) * s + k // 2 + 1, n)),
            "That is for windows around their output; where a window begins, the padding says.",
        ),
    ]
    refuse_mistakes(found, [([wrong(*case) for case in WINDOWS], hint) for wrong, hint in mistakes], eq)
    i = first_wrong(found, right, eq)
    first, last, kernel, stride, padding, length = WINDOWS[i]
    raise Hint(
        f"Outputs {first} to {last - 1} of {length} inputs (kernel {kernel}, stride {stride}, padding {padding}) see "
        f"{right[i]}; yours is {found[i]}. Where does the first window begin, and where does the last one end?"
    )


def _seen(first: int, last: int, kernel: int, stride: int, padding: int, length: int) -> Ends:
    return max(first * stride - padding, 0), min((last - 1) * stride - padding + kernel, length)


# What ranks have of a row of numbers, and what they see: (tiles, seen).
HALOS: list[tuple[list[Ends], list[Ends]]] = [
    ([(0, 4), (4, 8)], [(0, 5), (3, 8)]),
    ([(0, 3), (3, 6), (6, 8)], [(0, 4), (2, 7), (5, 8)]),
    ([(0, 2), (2, 3), (3, 7)], [(0, 5), (0, 6), (0, 7)]),  # wider than a tile
    ([(0, 5), (5, 9)], [(0, 5), (5, 9)]),
    ([(0, 6)], [(0, 6)]),
]


@exercise(
    "what was copied to several ranks on the way there is summed on the way back: a copy's adjoint is a sum",
    deeper="Rank 0 has input 0 and rank 1 has input 1, and both see both. Rank 0's gradients are (a, b), rank 1's are "
    "(c, d). Input 0 went into both ranks' outputs, so its gradient is a + c, and it belongs to rank 0.",
)
def return_halo(answer: Answer) -> None:
    """`answer(gradients, tiles, seen)`: of each rank the gradient of its own tile, as a list.

    tiles, seen: (start, stop) of each rank, of what it has and of what it saw. gradients: of what it saw, (seen,).
    """
    g = seeded(0)
    for tiles, seen_by in HALOS:
        gradients = [torch.randn(stop - start, generator=g) for start, stop in seen_by]
        ranks = f"a list with a gradient for each of the {len(tiles)} ranks"
        found = results(answer([x.clone() for x in gradients], list(tiles), list(seen_by)), len(tiles), ranks)
        _check_returned(found, gradients, tiles, seen_by)


def _check_returned(found: list[Any], gradients: list[Tensor], tiles: list[Ends], seen_by: list[Ends]) -> None:
    length = tiles[-1][1]
    total, counts, last = torch.zeros(length), torch.zeros(length), torch.zeros(length)
    for gradient, (start, stop) in zip(gradients, seen_by, strict=True):
        total[start:stop] += gradient
        counts[start:stop] += 1
        last[start:stop] = gradient
    own = [x[a - start : b - start] for x, (a, b), (start, _) in zip(gradients, tiles, seen_by, strict=True)]
    for rank, (part, (a, b)) in enumerate(zip(found, tiles, strict=True)):
        if not isinstance(part, Tensor) or part.shape != gradients[rank].shape or part.shape == (b - a,):
            part = shaped(part, (b - a,), f"rank {rank}'s gradient, of its own {b - a} inputs alone")
        else:
            raise Hint(
                f"Rank {rank}'s is of all that it saw: of the {b - a} inputs that it has, the gradient is wanted."
            )
        if close(part, total[a:b]):
            continue
        said = f"Tiles {tiles}, seen {seen_by}, rank {rank}:"
        mistakes = [
            (own[rank], f"{said} that is what the rank itself computed: others have used its inputs too."),
            (total[a:b] / counts[a:b], f"{said} that is the mean: gradients of copies are *summed*."),
            (total[a:b] - own[rank], f"{said} the rank's own gradient is missing."),
            (last[a:b], f"{said} a later rank's gradient has taken the place of an earlier one's: add them."),
        ]
        refuse_mistakes(part, mistakes)
        raise Hint(f"{said} each input's gradient is the sum over all ranks that saw it.")


# (in_maps, maps, size, height, width, stride)
LAYERS = [(1, 8, 5, 28, 28, 1), (3, 4, 3, 10, 12, 1), (2, 6, 4, 17, 13, 2), (1, 1, 7, 7, 9, 1), (5, 3, 1, 6, 4, 3)]


@exercise(
    "each place has its own filters: places x maps x what a window holds, over all maps that go in",
    deeper="One map of 4x5, two filters of 3x3 at stride 1: windows fit at 2x3 = 6 places. At each there are 2 filters "
    "of 9 weights, so 6 x 2 x 9 = 108; a convolution has 18.",
)
def untied(answer: Answer) -> None:
    """`answer(in_maps, maps, size, height, width, stride)`: the weights of a layer that shares none, without biases."""
    found, right = [whole(answer(*layer)) for layer in LAYERS], [_untied(*layer) for layer in LAYERS]
    if found == right:
        return
    mistakes: list[tuple[Callable[..., int], str]] = [
        (lambda i, m, k, h, w, s: i * m * k**2, "That is a convolution's: the same filters at all places."),
        (
            lambda i, m, k, h, w, s: h * w * i * m * k**2,
            "That has a place for each pixel: windows lie within the image, so there are fewer.",
        ),
        (
            lambda i, m, k, h, w, s: (h - k + 1) * (w - k + 1) * i * m * k**2,
            "That is right where the stride is 1: how many windows are there, if each is `stride` from the last?",
        ),
        (
            lambda i, m, k, h, w, s: _places(h, k, s) * _places(w, k, s) * m * k**2,
            "A window sees all maps that go in, and each has weights of its own.",
        ),
        (
            lambda i, m, k, h, w, s: _places(h, k, s) * _places(w, k, s) * i * m * k,
            "A window has size x size weights for each map that goes in.",
        ),
        (
            lambda i, m, k, h, w, s: _places(h, k, s) * _places(w, k, s) * (i * k**2 + 1) * m,
            "With biases: here it has none.",
        ),
        (
            lambda i, m, k, h, w, s: (h // s) * (w // s) * i * m * k**2,
            "The first window covers `size` pixels: how often can it move by the stride before it is at the edge?",
        ),
        (
            lambda i, m, k, h, w, s: ((h - k) // s) * ((w - k) // s) * i * m * k**2,
            "One place too few along each side: the first window counts too.",
        ),
    ]
    refuse_mistakes(found, [([wrong(*layer) for layer in LAYERS], hint) for wrong, hint in mistakes], eq)
    i = first_wrong(found, right, eq)
    in_maps, maps, size, height, width, stride = LAYERS[i]
    raise Hint(
        f"{in_maps} maps of {height}x{width}, {maps} filters of {size}x{size} at stride {stride}: {right[i]:,}; yours "
        f"is {found[i]:,}. At how many places do windows fit, and how many weights are at each?"
    )


def _places(length: int, size: int, stride: int) -> int:
    return (length - size) // stride + 1


def _untied(in_maps: int, maps: int, size: int, height: int, width: int, stride: int) -> int:
    return _places(height, size, stride) * _places(width, size, stride) * in_maps * maps * size**2


# (places high, places wide, weights at a place, rows and columns of the grid)
GRIDS = [(24, 24, 200, 2, 2), (25, 24, 200, 2, 2), (183, 183, 33048, 8, 8), (7, 10, 9, 3, 4), (5, 5, 18, 1, 1)]


@exercise(
    "the fullest rank has the places that are left over too, and for each weight a gradient",
    deeper="5x4 places over a grid of 2 x 2: one row of ranks has 3 rows of places and the other 2. The fullest rank "
    "has 3x2 places; with 10 weights each that is 60 weights, and 60 gradients: 120 numbers of 4 bytes.",
)
def memory(answer: Answer) -> None:
    """`answer(high, wide, weights, rows, columns)`: bytes of float32 weights and gradients on the fullest rank.

    high, wide: places of an untied layer, with so many weights each, over a grid of rows x columns ranks.
    """
    found = [whole(answer(*case)) for case in GRIDS]
    right = [8 * ceil(h / p) * ceil(w / q) * n for h, w, n, p, q in GRIDS]
    if found == right:
        return
    mistakes: list[tuple[Callable[..., int], str]] = [
        (lambda h, w, n, p, q: 4 * ceil(h / p) * ceil(w / q) * n, "That is the weights: each has a gradient too."),
        (lambda h, w, n, p, q: 2 * ceil(h / p) * ceil(w / q) * n, "That is how many numbers: each has 4 bytes."),
        (
            lambda h, w, n, p, q: 8 * (h // p) * (w // q) * n,
            "That is the emptiest rank: where the places cannot be divided evenly, some ranks have one row more.",
        ),
        (
            lambda h, w, n, p, q: round(8 * h * w * n / (p * q)),
            "That is the mean: places are whole, and the fullest rank has more where they cannot be divided evenly.",
        ),
        (
            lambda h, w, n, p, q: 8 * ceil(h * w / (p * q)) * n,
            "Rows and columns are divided each for itself: a tile is a rectangle.",
        ),
        (lambda h, w, n, p, q: 8 * h * w * n, "That is all ranks together."),
        (lambda h, w, n, p, q: 8 * ceil(h / q) * ceil(w / p) * n, "Rows and columns of the grid are exchanged."),
        (lambda h, w, n, p, q: 16 * ceil(h / p) * ceil(w / q) * n, "float32 has 4 bytes, float64 has 8."),
    ]
    refuse_mistakes(found, [([wrong(*case) for case in GRIDS], hint) for wrong, hint in mistakes], eq)
    i = first_wrong(found, right, eq)
    high, wide, weights, rows, columns = GRIDS[i]
    raise Hint(
        f"{high}x{wide} places of {weights:,} weights over {rows} x {columns} ranks: {right[i]:,} bytes; yours is "
        f"{found[i]:,}. How many rows and columns of places has the fullest rank?"
    )
