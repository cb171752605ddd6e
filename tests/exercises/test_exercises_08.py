"""Notebook 08: each usual mistake has a hint of its own, and no answer is an error message."""

import math

import pytest
import torch
from answers import solutions, verdict

from dlkit.distributed.links import Link
from dlkit.distributed.recorder import Span
from dlkit.distributed.timeline import Timeline
from dlkit.exercises import data_parallel as check

SOLUTIONS = solutions("08_data_parallel")
NAMES = ["whole_gradient", "waits", "smallest_batch", "learning_rate"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", ["one"], {}, torch.zeros(2, 7), float("nan"), True, torch.tensor(1j)])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


# 1. An uneven batch.


def mean_by(weight):
    """The parts weighted by `weight(counts, rank)`."""
    return lambda parts, counts: sum(weight(counts, rank) * part for rank, part in enumerate(parts))


GRADIENTS = {
    "one part's gradient: all": lambda parts, counts: parts[0],
    "the plain mean": mean_by(lambda counts, rank: 1 / len(counts)),
    "the plain sum": mean_by(lambda counts, rank: 1),
    "the sum over all images": mean_by(lambda counts, rank: counts[rank]),
    "divided by the number of parts": mean_by(lambda counts, rank: counts[rank] / len(counts)),
    "the wrong way round": mean_by(lambda counts, rank: counts[-1 - rank] / sum(counts)),
    "counts little": mean_by(lambda counts, rank: 1 / counts[rank] / sum(1 / count for count in counts)),
    "already a mean": mean_by(lambda counts, rank: 1 / sum(counts)),
    "For parts of 8 and 1 and 7 images": mean_by(lambda counts, rank: 0.1),
    "For parts of 3 and 9 images": mean_by(lambda counts, rank: counts[rank] / 16),
    "yours has shape (12,)": lambda parts, counts: torch.cat([part.flatten() for part in parts])[:12],
    "yours is of type list": lambda parts, counts: parts,
}


@pytest.mark.parametrize("hint", GRADIENTS)
def test_a_wrong_gradient_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.whole_gradient, GRADIENTS[hint])


def test_the_parts_gradients_make_up_that_of_a_net(capsys):
    net, x = torch.nn.Linear(4, 1), torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    parts = [torch.autograd.grad(net(part).tanh().mean(), net.weight)[0] for part in x.split([3, 9])]
    (whole,) = torch.autograd.grad(net(x).tanh().mean(), net.weight)
    torch.testing.assert_close(SOLUTIONS["whole_gradient"](parts, [3, 9]), whole)


# 2. Who waits.


def by_exchange(wait, total=sum):
    """An answer by `wait(begins, rank)`, a rank's wait in one exchange, and `total` of the rank's waits."""

    def answer(exchanges):
        begins = [[begin for begin, _ in exchange] for exchange in zip(*exchanges, strict=True)]
        return [total([wait(of_exchange, rank) for of_exchange in begins]) for rank in range(len(exchanges))]

    return answer


def right(begins, rank):
    return max(begins) - begins[rank]


def durations(exchanges):
    return [sum(end - begin for begin, end in of_rank) for of_rank in exchanges]


def communicating(exchanges):
    return [whole - wait for whole, wait in zip(durations(exchanges), SOLUTIONS["waits"](exchanges), strict=True)]


def sums_of_begins(exchanges):
    begun = [sum(begin for begin, _ in of_rank) for of_rank in exchanges]
    return [max(begun) - sum_of_begins for sum_of_begins in begun]


WAITS = {
    "That is all of each exchange": durations,
    "That is how long they communicate": communicating,
    "Minus that": by_exchange(lambda begins, rank: -right(begins, rank)),
    "later than the *first*": by_exchange(lambda begins, rank: begins[rank] - min(begins)),
    "the last exchange only": by_exchange(right, lambda waits: waits[-1]),
    "the first exchange only": by_exchange(right, lambda waits: waits[0]),
    "longest wait": by_exchange(right, max),
    "the mean wait": by_exchange(right, lambda waits: sum(waits) / len(waits)),
    "all ranks' waiting together": lambda exchanges: [sum(SOLUTIONS["waits"](exchanges))] * len(exchanges),
    "the other way round": lambda exchanges: SOLUTIONS["waits"](exchanges)[::-1],
    "Each exchange has a last rank of its own": sums_of_begins,
    "rank 0 waits 1.25 s; yours says 7": lambda exchanges: [7.0] * len(exchanges),
    "Here are 3 ranks, and your list has 1 numbers": lambda exchanges: [sum(SOLUTIONS["waits"](exchanges))],
    "with a number for each rank; yours is of type float": lambda exchanges: sum(SOLUTIONS["waits"](exchanges)),
    "yours is of type str": lambda exchanges: ["a"] * len(exchanges),
}


@pytest.mark.parametrize("hint", WAITS)
def test_a_wrong_wait_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.waits, WAITS[hint])


@pytest.mark.parametrize("kind", [tuple, torch.tensor])
def test_waits_may_be_of_another_type(capsys, kind):
    assert verdict(capsys, check.waits, lambda exchanges: kind(SOLUTIONS["waits"](exchanges))).startswith("✓")


def test_the_solution_waits_as_the_timeline_says():
    exchanges = [[(1.0, 2.1), (3.5, 3.9)], [(2.0, 2.2), (3.0, 4.0)]]
    spans = [
        [Span("step", "step", 0.0, 5.0, number=1)]
        + [Span("exchange", "all-reduce", *times, "all", number) for number, times in enumerate(of_rank)]
        for of_rank in exchanges
    ]
    assert SOLUTIONS["waits"](exchanges) == pytest.approx([rank.wait for rank in Timeline(spans).totals()])


# 3. A batch for a link.


def from_exchange(exchange, times=9, rounded=math.ceil):
    """The batch whose computing takes `times` what `exchange(S / B, latency, world_size)` does."""

    def answer(seconds, size, world_size, link):
        return rounded(times * world_size * exchange(size / link.bandwidth, link.latency, world_size) / seconds)

    return answer


def ring(moved, latency, n):
    return 2 * (n - 1) * (moved / n + latency)


BATCHES = {
    "Which way do you round": from_exchange(ring, rounded=float),
    "Rounded down": from_exchange(ring, rounded=math.floor),
    "One image more": from_exchange(ring, rounded=lambda batch: math.floor(batch) + 2),
    "the images of *one* rank": from_exchange(lambda m, a, n: ring(m, a, n) / n),
    "computed on by one rank only": from_exchange(lambda m, a, n: ring(m, a, n) * n),
    "a tenth of the *computing*": from_exchange(ring, times=10),
    "both take half of the step each": from_exchange(ring, times=1),
    "about half of the step": from_exchange(ring, times=0.9),
    "The latencies are missing": from_exchange(lambda m, a, n: ring(m, 0, n)),
    "One latency is not enough": from_exchange(lambda m, a, n: ring(m, 0, n) + a),
    "Latencies of half the ring": from_exchange(lambda m, a, n: ring(m, a / 2, n)),
    "goes round twice: once to add up": from_exchange(lambda m, a, n: ring(m, a, n) / 2),
    "a rank sends 2 (n - 1) / n, not 2": from_exchange(lambda m, a, n: 2 * m + 2 * (n - 1) * a),
    "one n-th of the gradient": from_exchange(lambda m, a, n: 2 * (n - 1) * (m + a)),
    "sends the gradient once": from_exchange(lambda m, a, n: m),
    "no factor 8": from_exchange(lambda m, a, n: ring(8 * m, a, n)),
    "With 0.0001 s an image, 240,000 bytes, 2 ranks": lambda *_: 7,
    "it is 903; yours is 364": lambda *_: 364,
    "yours is of type list": lambda *_: [364],
    "A number is wanted; yours is inf": lambda *_: math.inf,
}


@pytest.mark.parametrize("hint", BATCHES)
def test_a_wrong_batch_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.smallest_batch, BATCHES[hint])


def test_the_solution_s_batch_is_the_smallest_that_does():
    link = Link(30e-6, 4e8)
    batch = SOLUTIONS["smallest_batch"](1e-3, 5_000_000, 8, link)

    def share(batch):
        exchange = link.seconds("all-reduce", 5_000_000, 8)
        return exchange / (exchange + 1e-3 * batch / 8)

    assert share(batch) <= 0.1 < share(batch - 1)


# 4. Scaling with a warm-up.


def line(start, end, stays=True):
    """From `start(lr, k)` to `end(lr, k)`."""

    def answer(epoch, lr, batch, warm_up):
        k, share = batch / 256, epoch / warm_up
        return start(lr, k) + (end(lr, k) - start(lr, k)) * (min(share, 1) if stays else share)

    return answer


RATES = {
    "The warm-up is missing": line(lambda lr, k: lr * k, lambda lr, k: lr * k),
    "That never changes": line(lambda lr, k: lr, lambda lr, k: lr),
    "goes on growing": line(lambda lr, k: lr, lambda lr, k: lr * k, stays=False),
    "It begins at 0": line(lambda lr, k: 0, lambda lr, k: lr * k),
    "That jumps": lambda epoch, lr, batch, warm_up: lr * batch / 256 if epoch >= warm_up else lr,
    "the square root of the batch": line(lambda lr, k: lr, lambda lr, k: lr * math.sqrt(k)),
    "yours gets shorter": line(lambda lr, k: lr, lambda lr, k: lr / k),
    "ends too high": line(lambda lr, k: lr, lambda lr, k: lr + lr * k),
    "the line is curved": lambda epoch, lr, batch, warm_up: lr * (batch / 256) ** min(epoch / warm_up, 1),
    "At epoch 0.3 of a warm-up of 1": lambda epoch, lr, batch, warm_up: (
        lr * (1 + (batch / 256 - 1) * min(epoch / warm_up, 1) ** 2)
    ),
    "At epoch 0 of a warm-up of 1": lambda *_: 7.0,
    "yours is of type list": lambda *_: [7.0],
}


@pytest.mark.parametrize("hint", RATES)
def test_a_wrong_rate_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.learning_rate, RATES[hint])


def test_a_rate_may_be_a_tensor(capsys):
    assert verdict(capsys, check.learning_rate, lambda *x: torch.tensor(SOLUTIONS["learning_rate"](*x))).startswith("✓")
