"""Two exercises of notebook 08: how large a batch a slow link wants, and a learning rate with a warm-up."""

from functools import partial
from math import ceil
from operator import eq
from typing import Any

from dlkit.distributed.links import GIGABIT, TEN_GIGABIT, Link
from dlkit.exercises import Hint, exercise
from dlkit.exercises.answers import first_wrong, near, number, over_cases, refuse_mistakes

same_rate = partial(near, rel=1e-6)


@exercise("exchange does not grow with the batch, and computing does: a slow link wants a large batch")
def smallest_batch(answer: Any) -> None:
    """`answer(seconds, size, world_size, link)`: the fewest images in a batch whose exchange is a tenth of the step.

    `seconds` is the time to compute on one image, `size` the gradient's in bytes; the link has a `bandwidth` in bytes a
    second and a `latency` in seconds.
    """
    cases = [
        (1e-4, 240_000, 2, GIGABIT),
        (2e-4, 1_590_040, 8, TEN_GIGABIT),
        (5e-4, 80_000, 5, Link(3e-3, 2e9, "far away")),
        (3e-5, 9_000_000, 16, Link(7e-6, 6.8e9, "near")),
    ]
    batches = [number(answer(*case)) for case in cases]
    right = [ceil(_batch(*case)) for case in cases]
    if right == batches:
        return
    rounded = over_cases(_wrongly_rounded(*case) for case in cases)
    refuse_mistakes(batches, rounded, partial(near, rel=0, absolute=1e-6))
    mistakes = over_cases(_wrong_batches(*case) for case in cases)
    refuse_mistakes(batches, mistakes, partial(near, rel=0, absolute=1.0))  # however they are rounded
    i = first_wrong(batches, right, eq)
    seconds, size, world_size, link = cases[i]
    raise Hint(
        f"With {seconds:g} s an image, {size:,} bytes, {world_size} ranks and {link.bandwidth:g} bytes/s after "
        f"{link.latency:g} s it is {right[i]:,}; yours is {batches[i]:,.6g}. Write down the seconds of the exchange "
        "and those of computing; the first are to be a tenth of both together."
    )


def _batch(seconds: float, size: int, world_size: int, link: Link) -> float:
    """The right number of images, not yet rounded up."""
    return 9 * world_size * link.seconds("all-reduce", size, world_size) / seconds


def _wrongly_rounded(*case: Any) -> list[tuple[float, str]]:
    """Batches that are right but for their rounding, with their hints."""
    right = _batch(*case)
    return [
        (right, "Right, but not rounded: a batch is a whole number of images. Which way do you round?"),
        (ceil(right) - 1, "Rounded down, the exchange takes a little more than a tenth."),
        (ceil(right) + 1, "One image more than is needed: round up, and no further."),
    ]


def _wrong_batches(seconds: float, size: int, world_size: int, link: Link) -> list[tuple[float, str]]:
    """The usual wrong batches, not rounded, with their hints."""
    right, hops = _batch(seconds, size, world_size, link), world_size - 1
    transfer, latencies = size / link.bandwidth, hops * link.latency  # seconds
    once = transfer * hops / world_size  # of sending, when the ring goes round once

    def batch(exchange: float) -> float:
        """Images in the batch whose exchange takes so many seconds."""
        return 9 * world_size * exchange / seconds

    return [
        (right / world_size, "Those are the images of *one* rank: the batch is all of theirs."),
        (right * world_size, "Each image is computed on by one rank only: the ranks share the batch."),
        (right * 10 / 9, "That is a tenth of the *computing*: the step is computing and exchange together."),
        (right / 9, "Then both take half of the step each: exchange is to take a tenth."),
        (right / 10, "Then exchange takes about half of the step: it is to take a tenth."),
        (batch(2 * once), "The latencies are missing: a ring has 2 (n - 1) messages, one by one."),
        (batch(2 * once + link.latency), "One latency is not enough: how many messages has a ring?"),
        (batch(2 * once + latencies), "Latencies of half the ring: it goes round twice."),
        (batch(once + latencies), "The ring goes round twice: once to add up, once to hand round."),
        (batch(2 * (transfer + latencies)), "Of the bytes S a rank sends 2 (n - 1) / n, not 2."),
        (
            batch(2 * hops * (transfer + link.latency)),
            "A message of the ring is one n-th of the gradient, not all of it.",
        ),
        (batch(transfer), "That sends the gradient once. What does a rank of a ring send, in how many messages?"),
        (batch(8 * 2 * once + 2 * latencies), "Both are in bytes here: no factor 8 for bits."),
    ]


@exercise("from the lr that is known to be good, in a line, to the one in proportion to the batch")
def learning_rate(answer: Any) -> None:
    """`answer(epoch, lr, batch, warm_up)`: the learning rate at this epoch, by linear scaling after a gradual warm-up.

    `lr` is right for batches of 256 images; the warm-up takes `warm_up` epochs.
    """
    cases = [
        (epoch, lr, batch, warm_up)
        for lr, batch, warm_up in [(0.2, 1024, 1.0), (0.1, 8192, 5.0), (0.05, 512, 2.5)]
        for epoch in (0.0, 0.3, 1.0, 2.0, 2.5, 4.5, 5.0, 60.0)
    ]
    rates = [number(answer(*case)) for case in cases]
    right = [_warmed_up(*case) for case in cases]
    if same_rate(rates, right):
        return
    refuse_mistakes(rates, [([rate(*case) for case in cases], hint) for rate, hint in _WRONG_RATES], same_rate)
    i = first_wrong(rates, right, same_rate)
    epoch, lr, batch, warm_up = cases[i]
    raise Hint(
        f"At epoch {epoch:g} of a warm-up of {warm_up:g}, for batches of {batch} and lr {lr:g} at 256, it should be "
        f"{right[i]:.4g}; yours is {rates[i]:.4g}. Where does the line begin, where does it end, and when?"
    )


def _warmed_up(epoch: float, lr: float, batch: float, warm_up: float) -> float:
    """The right learning rate."""
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
        lambda epoch, lr, batch, warm_up: _warmed_up(epoch, lr, 256 * (batch / 256) ** 0.5, warm_up),
        "That grows with the square root of the batch. Linear scaling: a batch k times as large, an lr k times.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed_up(epoch, lr, 256 * 256 / batch, warm_up),
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
