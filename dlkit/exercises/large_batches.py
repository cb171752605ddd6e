"""Two exercises of notebook 08: how large a batch a slow link wants, and a learning rate with a warm-up."""

from functools import partial
from math import ceil, floor
from operator import eq
from typing import Any

from dlkit.distributed.links import GIGABIT, TEN_GIGABIT, Link
from dlkit.exercises import Answer, Hint, exercise
from dlkit.exercises.answers import first_wrong, near, number, over_cases, refuse_mistakes

same_rate = partial(near, rel=1e-5)


@exercise(
    "exchange does not grow with the batch, and computing does: a slow link wants a large batch",
    deeper="If an exchange takes 1 ms, the step may take 10 ms, and 9 of them are computing. How many images does a "
    "rank compute in this time? And all ranks? Which way must that be rounded, so that the exchange stays within "
    "a tenth?",
)
def smallest_batch(answer: Answer) -> None:
    """`answer(seconds, size, world_size, link)`: the fewest images in a batch whose exchange is a tenth of the step.

    `seconds` is the time to compute on one image, `size` the gradient's in bytes; the link has a `bandwidth` in bytes a
    second and a `latency` in seconds. A rank computes on batch / world_size images, also where that is no whole number.
    """
    cases = [
        (1e-4, 240_000, 2, GIGABIT),
        (2e-4, 1_590_040, 8, TEN_GIGABIT),
        (5e-4, 80_000, 5, Link(3e-3, 2e9, "far away")),
        (3e-5, 9_000_000, 16, Link(7e-6, 6.8e9, "near")),
        (7e-4, 500_000, 3, Link(1e-4, 1e8, "slow")),
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
        (floor(right), "Rounded down, the exchange takes a little more than a tenth."),
        (round(right), "Rounded to the nearest number, it is too small where that lies below: which way is safe?"),
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
        (
            world_size * ceil(right / world_size),
            "Rounded up to whole images on each rank: here a rank may also compute on a fraction of an image.",
        ),
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


@exercise(
    "from the lr that is known to be good, in a line, to the one in proportion to the batch",
    deeper="lr 0.1, batches of 1,024, a warm-up of 2 epochs: 0.1 at epoch 0, and 0.4 from epoch 2 on. Half-way, at "
    "epoch 1, a straight line has done half of the way from 0.1 to 0.4.",
)
def learning_rate(answer: Answer) -> None:
    """`answer(epoch, lr, batch, warm_up)`: the learning rate at this epoch, by linear scaling after a gradual warm-up.

    `lr` is right for batches of 256 images; the warm-up takes `warm_up` epochs.
    """
    cases = [
        (epoch, lr, batch, warm_up)
        for lr, batch, warm_up in _TRAININGS
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


_TRAININGS = [(0.2, 1024, 1.0), (0.1, 8192, 5.0), (0.05, 512, 2.5), (0.3, 384, 2.0), (0.1, 128, 3.0), (0.02, 1000, 0.5)]


def _warmed_up(epoch: float, lr: float, batch: float, warm_up: float) -> float:
    """The right learning rate."""
    return lr + (lr * batch / 256 - lr) * min(epoch / warm_up, 1.0)


_WRONG_RATES = [
    (
        lambda epoch, lr, batch, warm_up: _warmed_up(epoch, lr, batch // 256 * 256, warm_up),
        "Right where the batch is a multiple of 256: `//` cuts the fraction off, and 384 is 1.5 times 256.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed_up(epoch, lr, round(batch / 256) * 256, warm_up),
        "Right where the batch is a multiple of 256: k need not be a whole number, and 384 is 1.5 times 256.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed_up(epoch, lr, batch, 1.0),
        "Your line ends at epoch 1: it should end at epoch `warm_up`.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed_up(int(epoch), lr, batch, warm_up),
        "That grows once an epoch. It should grow in every step: `epoch` may be a fraction.",
    ),
    (
        lambda epoch, lr, batch, warm_up: _warmed_up(epoch, lr, max(batch, 256), warm_up),
        "For a batch *below* 256 the rule holds as well: the rate then falls.",
    ),
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
