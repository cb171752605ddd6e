"""The exercises of notebook 08: an uneven batch, how large a batch a link wants, a warm-up, and who waits."""

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from dlkit.distributed.links import GIGABIT, TEN_GIGABIT, Link
from dlkit.exercises import Hint, exercise, given
from dlkit.exercises.answers import close, number, seeded, shaped, tensor, wrong

ROUNDED = 3  # of the mistakes in a batch's size
Exchanges = list[list[tuple[float, float]]]  # (begin, end) of each exchange, for each rank


@exercise("each part counts by its images, and then no one can tell how the batch was split")
def whole_gradient(answer: Any) -> None:
    """`answer(gradients, counts)`: a batch's mean gradient, from those of its parts and their numbers of images."""
    g = seeded(1)
    for counts in ([8, 1, 7], [3, 9], [5, 5]):
        parts = [torch.randn(4, 3, generator=g) for _ in counts]
        right = weighted(parts, counts)
        found = tensor(answer([part.clone() for part in parts], list(counts)))
        if not close(found, right):
            _wrong_gradient(found, parts, counts, right)


def weighted(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The mean of the parts, by weights that need not add up to 1."""
    return torch.stack([weight * part for part, weight in zip(parts, weights, strict=True)]).sum(0) / sum(weights)


def _wrong_gradient(found: Tensor, parts: list[Tensor], counts: list[int], right: Tensor) -> None:
    total, ranks = sum(counts), len(counts)
    wrong(found, [(part, "That is one part's gradient: all have a say.") for part in parts])
    plain = weighted(parts, [1] * ranks)
    variants = [
        (plain, "That is the plain mean: an image of a small part then counts more than one of a large part."),
        (plain * ranks, "That is the plain sum: a batch twice as large would make a step twice as long."),
        (right * total, "That is the sum over all images: the batch's gradient is their *mean*."),
        (right * total / ranks, "Weighted rightly, but divided by the number of parts: how many images are there?"),
        (weighted(parts, counts[::-1]), "The counts are the wrong way round: each part has its own."),
        (weighted(parts, [1 / n for n in counts]), "A part of *few* images counts little; yours counts more."),
        (plain * ranks / total, "Each part's gradient is already a mean: make it a sum over its images first."),
    ]
    wrong(found, variants)
    shaped(found, tuple(right.shape), "like one part's gradient")
    raise Hint(
        f"For parts of {' and '.join(map(str, counts))} images the first number should be {right[0, 0]:.3f}; yours is "
        f"{found[0, 0]:.3f}. What does one image of a part weigh in the mean over all?"
    )


@exercise("exchange does not grow with the batch, and computing does: a slow link wants a large batch")
def smallest_batch(answer: Any) -> None:
    """`answer(seconds, size, ranks, link)`: the images in the smallest batch whose exchange is a tenth of the step.

    `seconds` to compute on one image; `size` of the gradient, bytes; `link.bandwidth`, bytes/s, and `link.latency`, s.
    """
    cases = [
        (1e-4, 240_000, 2, GIGABIT),
        (2e-4, 1_590_040, 8, TEN_GIGABIT),
        (5e-4, 80_000, 5, Link(3e-3, 2e9, "far away")),
        (3e-5, 9_000_000, 16, Link(7e-6, 6.8e9, "near")),
    ]
    found = [number(answer(*case)) for case in cases]
    right = [_batch(*case) for case in cases]
    if [ceil(batch) for batch in right] == found:
        return
    _wrong_batch(found, [_wrong_batches(*case) for case in cases])
    place = next(i for i, batch in enumerate(right) if ceil(batch) != found[i])
    seconds, size, ranks, link = cases[place]
    raise Hint(
        f"With {seconds:g} s an image, {size:,} bytes, {ranks} ranks and {link.bandwidth:g} bytes/s after "
        f"{link.latency:g} s it is {ceil(right[place]):,}; yours is {found[place]:,.6g}. Write down the seconds of the "
        "exchange and those of computing; the first are to be a tenth of both together."
    )


def _batch(seconds: float, size: int, ranks: int, link: Link) -> float:
    """Not yet rounded up."""
    return 9 * ranks * link.seconds("all-reduce", size, ranks) / seconds


def _wrong_batches(seconds: float, size: int, ranks: int, link: Link) -> list[tuple[float, str]]:
    right, hops = _batch(seconds, size, ranks, link), ranks - 1
    moved, latencies = size / link.bandwidth, hops * link.latency

    def batch(exchange: float) -> float:
        return 9 * ranks * exchange / seconds

    return [
        (right, "Right but for one thing: a batch is a whole number of images. Which way do you round?"),
        (ceil(right) - 1, "Rounded down, the exchange takes a little more than a tenth."),
        (ceil(right) + 1, "One image more than is needed: round up, and no further."),
        (right / ranks, "Those are the images of *one* rank: the batch is all of theirs."),
        (right * ranks, "Each image is computed on by one rank only: the ranks share the batch."),
        (right * 10 / 9, "That is a tenth of the *computing*: the step is computing and exchange together."),
        (right / 9, "Then both take half of the step each: exchange is to take a tenth."),
        (right / 10, "Then exchange takes about half of the step: it is to take a tenth."),
        (batch(2 * moved * hops / ranks), "The latencies are missing: a ring has 2 (n - 1) messages, one by one."),
        (batch(2 * (moved * hops / ranks) + link.latency), "One latency is not enough: how many messages has a ring?"),
        (batch(2 * moved * hops / ranks + latencies), "Latencies of half the ring: it goes round twice."),
        (batch(moved * hops / ranks + latencies), "The ring goes round twice: once to add up, once to hand round."),
        (batch(2 * (moved + latencies)), "Of the bytes S a rank sends 2 (n - 1) / n, not 2."),
        (batch(2 * hops * (moved + link.latency)), "A message of the ring is one n-th of the gradient, not all of it."),
        (batch(moved), "That sends the gradient once. What does a rank of a ring send, in how many messages?"),
        (batch(8 * 2 * moved * hops / ranks + 2 * latencies), "Both are in bytes here: no factor 8 for bits."),
    ]


def _wrong_batch(found: list[float], wrong_ones: list[list[tuple[float, str]]]) -> None:
    """Raise the hint of the first mistake that gives what was found in all cases; after those of rounding, roughly."""
    for place, mistakes in enumerate(zip(*wrong_ones, strict=True)):
        off = 1e-6 if place < ROUNDED else 1.0
        if all(abs(mine - one) <= off for mine, (one, _) in zip(found, mistakes, strict=True)):
            raise Hint(mistakes[0][1])


@exercise("from the lr that is known to be good, in a line, to the one in proportion to the batch")
def learning_rate(answer: Any) -> None:
    """`answer(epoch, lr, batch, warm_up)`: lr is right for batches of 256; linear scaling, after a gradual warm-up."""
    cases = [
        (epoch, lr, batch, warm_up)
        for lr, batch, warm_up in [(0.2, 1024, 1.0), (0.1, 8192, 5.0), (0.05, 512, 2.5)]
        for epoch in (0.0, 0.3, 1.0, 2.0, 2.5, 4.5, 5.0, 60.0)
    ]
    found = [number(answer(*case)) for case in cases]

    def gives(values: Sequence[float]) -> bool:
        return all(abs(mine - one) <= 1e-6 * abs(one) + 1e-12 for mine, one in zip(found, values, strict=True))

    right = [_warmed(*case) for case in cases]
    if gives(right):
        return
    for mistake, hint in _WRONG_RATES:
        if gives([mistake(*case) for case in cases]):
            raise Hint(hint)
    place = next(i for i, value in enumerate(right) if abs(found[i] - value) > 1e-6 * value)
    epoch, lr, batch, warm_up = cases[place]
    raise Hint(
        f"At epoch {epoch:g} of a warm-up of {warm_up:g}, for batches of {batch} and lr {lr:g} at 256, it should be "
        f"{right[place]:.4g}; yours is {found[place]:.4g}. Where does the line begin, where does it end, and when?"
    )


def _warmed(epoch: float, lr: float, batch: float, warm_up: float) -> float:
    return lr + (lr * batch / 256 - lr) * min(epoch / warm_up, 1.0)


_WRONG_RATES = [
    (lambda epoch, lr, batch, warm_up: lr * batch / 256, "The warm-up is missing: at epoch 0 it is still lr."),
    (lambda epoch, lr, batch, warm_up: lr, "That never changes: after the warm-up it is in proportion to the batch."),
    (
        lambda epoch, lr, batch, warm_up: lr + (lr * batch / 256 - lr) * epoch / warm_up,
        "It goes on growing after the warm-up: then it should stay.",
    ),
    (
        lambda epoch, lr, batch, warm_up: lr * batch / 256 * min(epoch / warm_up, 1.0),
        "It begins at 0. A gradual warm-up begins at lr, which was right for batches of 256.",
    ),
    (
        lambda epoch, lr, batch, warm_up: lr if epoch < warm_up else lr * batch / 256,
        "That jumps when the warm-up ends: gradual means a straight line.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed(epoch, lr, 256 * (batch / 256) ** 0.5, warm_up),
        "That grows with the square root of the batch. Linear scaling: a batch k times as large, an lr k times.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed(epoch, lr, 256 * 256 / batch, warm_up),
        "A larger batch makes fewer steps an epoch, so each has to be longer: yours gets shorter.",
    ),
    (
        lambda epoch, lr, batch, warm_up: lr + lr * batch / 256 * min(epoch / warm_up, 1.0),
        "It ends too high, by lr: the line *ends* at lr times batch / 256, it does not rise by that.",
    ),
    (
        lambda epoch, lr, batch, warm_up: lr * (batch / 256) ** min(epoch / warm_up, 1.0),
        "Both ends are right, and the line is curved: it should rise by the same amount in each step.",
    ),
]


@exercise("whoever comes early waits for the last, and the sum over ranks is time that was paid for and not used")
def waits(answer: Any) -> None:
    """`answer(exchanges)`: seconds that each rank waits; `exchanges[rank]` has (begin, end) of each, in their order."""
    cases: list[Exchanges] = [
        [[(0.5, 2.0), (3.0, 4.0)], [(0.75, 2.1), (2.25, 4.1)], [(1.75, 2.2), (2.5, 4.2)]],
        [[(1.0, 2.1), (3.5, 3.9), (5.0, 5.5)], [(2.0, 2.2), (3.0, 4.0), (5.25, 5.6)]],
        [[(1.0, 1.75)], [(1.5, 1.8)]],
    ]
    for exchanges in cases:
        found, right = answer([list(each) for each in exchanges]), _waits(exchanges)
        found = _listed(found, len(exchanges))
        if not _near(found, right):
            _wrong_waits(found, exchanges, right)


def _waits(exchanges: Exchanges) -> list[float]:
    last = [max(begin for begin, _ in together) for together in zip(*exchanges, strict=True)]
    return [sum(all_in - begin for all_in, (begin, _) in zip(last, each, strict=True)) for each in exchanges]


def _wrong_waits(found: list[float], exchanges: Exchanges, right: list[float]) -> None:
    together = list(zip(*exchanges, strict=True))
    begins = [[begin for begin, _ in those] for those in together]
    by_rank = list(zip(*begins, strict=True))
    latest = max(sum(mine) for mine in by_rank)
    whole = [sum(end - begin for begin, end in each) for each in exchanges]
    variants = [
        (whole, "That is all of each exchange: from when the last rank has come they *communicate*."),
        ([each - wait for each, wait in zip(whole, right, strict=True)], "That is what they communicate: not wait."),
        ([-wait for wait in right], "Minus that: from when the rank comes until the last one has come."),
        ([sum(b - min(those) for b, those in zip(mine, begins, strict=True)) for mine in by_rank],
         "That is how much later than the *first* each comes: who is first does the waiting."),
        ([max(begins[-1]) - mine[-1] for mine in by_rank], "That is the last exchange only: add all of them up."),
        ([max(begins[0]) - mine[0] for mine in by_rank], "That is the first exchange only: add all of them up."),
        ([max(max(those) - b for b, those in zip(mine, begins, strict=True)) for mine in by_rank],
         "That is each rank's longest wait: add all of them up."),
        ([wait / len(begins) for wait in right], "That is the mean wait of an exchange: add them up."),
        ([sum(right)] * len(right), "That is all ranks' waiting together: give each its own."),
        (right[::-1], "That is the other way round: who comes first waits."),
        ([latest - sum(mine) for mine in by_rank],
         "Each exchange has a last rank of its own: look for it exchange by exchange."),
    ]  # fmt: skip
    for other, hint in variants:
        if _near(found, other):
            raise Hint(hint)
    rank = next(i for i, wait in enumerate(right) if abs(found[i] - wait) > 1e-6)
    raise Hint(
        f"For {exchanges} rank {rank} waits {right[rank]:g} s; yours says {found[rank]:g}. "
        "When has the last rank come to the first exchange? To the next?"
    )


def _near(found: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) < 1e-6 for a, b in zip(found, other, strict=True))


def _listed(found: Any, ranks: int) -> list[float]:
    """The answer, if it is a number for each rank."""
    value = given(found)
    if isinstance(value, Tensor):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Hint(f"Return a list, with a number for each rank; yours is of type {type(found).__name__}.")
    if len(value) != ranks:
        raise Hint(f"Here are {ranks} ranks, and your list has {len(value)} numbers.")
    return [number(each) for each in value]
