"""Notebook 08: each usual mistake has a hint of its own, and no answer is an error message."""

import math

import numpy as np
import pytest
import torch
from answers import points, solutions, verdict

from dlkit.distributed.links import Link
from dlkit.distributed.recorder import Span
from dlkit.distributed.timeline import Timeline
from dlkit.exercises import data_parallel as check
from dlkit.training import linear_schedule

SOLUTIONS = solutions("08_data_parallel")
NAMES = ["whole_gradient", "waits", "smallest_batch", "learning_rate"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nonsense", ["three", ["one"], {}, torch.zeros(2, 7), float("nan"), True, torch.tensor(1j)])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


def as_right(exercise, how):
    """An answer that is right, in another style: the solution's result, after `how`."""
    return lambda *given: how(SOLUTIONS[exercise](*given))


# 1. An uneven batch.


def in_a_loop(parts, counts):
    total = torch.zeros_like(parts[0])
    for part, count in zip(parts, counts, strict=True):
        total += part * (count / sum(counts))
    return total


RIGHT_GRADIENTS = {
    "a loop": in_a_loop,
    "numpy": lambda parts, counts: np.average(np.stack(parts), axis=0, weights=counts),
    "a product": lambda parts, counts: torch.tensordot(
        torch.tensor(counts, dtype=torch.float32) / sum(counts), torch.stack(parts), 1
    ),
    "float64": lambda parts, counts: sum(p.double() * n for p, n in zip(parts, counts, strict=True)) / sum(counts),
    "a list": as_right("whole_gradient", lambda gradient: gradient.tolist()),
    "each image once": lambda parts, counts: torch.cat(
        [part.expand(n, *part.shape) for part, n in zip(parts, counts, strict=True)]
    ).mean(0),
}


@pytest.mark.parametrize("style", RIGHT_GRADIENTS)
def test_a_gradient_may_be_put_together_in_any_style(capsys, style):
    assert verdict(capsys, check.whole_gradient, RIGHT_GRADIENTS[style]).startswith("✓")


def in_place(parts, counts):
    for part, count in zip(parts, counts, strict=True):
        part *= count
    return sum(parts) / sum(counts)


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
    "yours has shape (3, 4, 3)": lambda parts, counts: parts,
    "has changed `parts`": in_place,
    "That is 0 everywhere": mean_by(lambda counts, rank: counts[rank] // sum(counts)),
    "cannot be multiplied by weights": lambda parts, counts: SOLUTIONS["whole_gradient"](parts, counts) > 0,
    "yours has shape (4, 1)": lambda parts, counts: SOLUTIONS["whole_gradient"](parts, counts).mean(-1, keepdim=True),
    "For parts of 2 and 4 and 1 and 5 and 3 images": mean_by(  # of three parts at most
        lambda counts, rank: counts[rank] / sum(counts[:3]) if rank < 3 else 0
    ),
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
    "until the very last begin of all": lambda exchanges: [
        sum(max(begin for of_rank in exchanges for begin, _ in of_rank) - begin for begin, _ in of_rank)
        for of_rank in exchanges
    ],
    "3 ranks have 2 exchanges each here": lambda exchanges: [
        sum(max(begins) - begin for begin in begins)
        for begins in ([begin for begin, _ in exchange] for exchange in zip(*exchanges, strict=True))
    ],
    "rank 0 waits 1.25 s; yours says 7": lambda exchanges: [7.0] * len(exchanges),
    "3 numbers here; yours has 1": lambda exchanges: [sum(SOLUTIONS["waits"](exchanges))],
    "3 numbers in a list; yours is of type float": lambda exchanges: sum(SOLUTIONS["waits"](exchanges)),
    "has changed `exchanges`": lambda exchanges: [of_rank.pop()[0] for of_rank in exchanges],
    "yours is of type str": lambda exchanges: ["a"] * len(exchanges),
}


@pytest.mark.parametrize("hint", WAITS)
def test_a_wrong_wait_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.waits, WAITS[hint])


def by_arrays(exchanges):
    begins = np.array(exchanges)[:, :, 0]
    return (begins.max(0) - begins).sum(1)


def by_rank(exchanges):
    waited = []
    for of_rank in exchanges:
        total = 0
        for i, (begin, _) in enumerate(of_rank):
            total += max(other[i][0] for other in exchanges) - begin
        waited.append(total)
    return waited


RIGHT_WAITS = {
    "an array": by_arrays,
    "loops": by_rank,
    "a tuple": as_right("waits", tuple),
    "a tensor of float32": as_right("waits", torch.tensor),
    "numpy's numbers": as_right("waits", lambda seconds: [np.float32(value) for value in seconds]),
    "tensors": as_right("waits", lambda seconds: [torch.tensor(value) for value in seconds]),
}


@pytest.mark.parametrize("style", RIGHT_WAITS)
def test_waits_may_be_added_up_in_any_style(capsys, style):
    assert verdict(capsys, check.waits, RIGHT_WAITS[style]).startswith("✓")


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
    "Rounded to the nearest": from_exchange(ring, rounded=round),
    "whole images on each rank": lambda *x: -(-from_exchange(ring, rounded=float)(*x) // x[2]) * x[2],
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


def by_trying(seconds, size, world_size, link):
    exchange = link.seconds("all-reduce", size, world_size)
    batch = int(9 * world_size * exchange / seconds) // 2
    while exchange > 0.1 * (exchange + seconds * batch / world_size):
        batch += 1
    return batch


def one_message_after_another(seconds, size, world_size, link):
    messages = 2 * (world_size - 1)
    exchange = sum(link.latency + size / world_size / link.bandwidth for _ in range(messages))
    return -(-(10 * exchange - exchange) * world_size // seconds)


RIGHT_BATCHES = {
    "tried one after the other": by_trying,
    "a sum of messages, rounded by //": one_message_after_another,
    "numpy's ceil": from_exchange(ring, rounded=np.ceil),
    "a tensor": from_exchange(ring, rounded=lambda batch: torch.tensor(batch, dtype=torch.float64).ceil().long()),
    "int and one more": from_exchange(ring, rounded=lambda batch: int(batch) + 1),
}


@pytest.mark.parametrize("style", RIGHT_BATCHES)
def test_a_batch_may_be_found_in_any_style(capsys, style):
    assert verdict(capsys, check.smallest_batch, RIGHT_BATCHES[style]).startswith("✓")


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
    "`//` cuts the fraction off": lambda epoch, lr, batch, warm_up: (
        lr + (lr * (batch // 256) - lr) * min(epoch / warm_up, 1)
    ),
    "k need not be a whole number": lambda epoch, lr, batch, warm_up: (
        lr + (lr * round(batch / 256) - lr) * min(epoch / warm_up, 1)
    ),
    "Your line ends at epoch 1": lambda epoch, lr, batch, warm_up: SOLUTIONS["learning_rate"](epoch, lr, batch, 1),
    "grows once an epoch": lambda epoch, *x: SOLUTIONS["learning_rate"](math.floor(epoch), *x),
    "For a batch *below* 256": lambda epoch, lr, batch, warm_up: max(
        lr, SOLUTIONS["learning_rate"](epoch, lr, batch, warm_up)
    ),
    "At epoch 0.3 of a warm-up of 1": lambda epoch, lr, batch, warm_up: (
        lr * (1 + (batch / 256 - 1) * min(epoch / warm_up, 1) ** 2)
    ),
    "At epoch 0 of a warm-up of 1": lambda *_: 7.0,
    "yours is of type list": lambda *_: [7.0],
}


@pytest.mark.parametrize("hint", RATES)
def test_a_wrong_rate_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.learning_rate, RATES[hint])


def by_cases(epoch, lr, batch, warm_up):
    target = lr * batch / 256
    if epoch >= warm_up:
        return target
    return (1 - epoch / warm_up) * lr + epoch / warm_up * target


RIGHT_RATES = {
    "by cases": by_cases,
    "numpy's interp": lambda epoch, lr, batch, warm_up: np.interp(epoch, [0, warm_up], [lr, lr * batch / 256]),
    "a tensor": as_right("learning_rate", torch.tensor),
    "clip": lambda epoch, lr, batch, warm_up: lr * (1 + (batch / 256 - 1) * np.clip(epoch / warm_up, 0, 1)),
    "float32": as_right("learning_rate", np.float32),
    "the kit's schedule": lambda epoch, lr, batch, warm_up: linear_schedule(lr, lr * batch / 256, warm_up)(epoch),
}


@pytest.mark.parametrize("style", RIGHT_RATES)
def test_a_rate_may_be_computed_in_any_style(capsys, style):
    assert verdict(capsys, check.learning_rate, RIGHT_RATES[style]).startswith("✓")


# The open task: (plan, points, and what is said).

ONE_BY_ONE = {"batch": 256, "every": 1, "lr": 0.2, "steps": 44}
PLANS = {
    "the solution": (SOLUTIONS["plan"], 10, "10 of 10 points"),
    "a schedule": ({"batch": 512, "every": 8, "lr": lambda step: 0.1 + 0.02 * min(step, 10), "steps": 77}, 10, ""),
    "numpy's numbers": ({name: np.float64(value) for name, value in ONE_BY_ONE.items()}, 6, "compute 24% of the time"),
    "too many steps": (ONE_BY_ONE | {"steps": 400}, 3, "after 44 steps, when the time is up"),
    "the example": ({"batch": 64, "every": 1, "lr": 0.1, "steps": 10}, 3, "19% of the time is used"),
    "far too long steps": (ONE_BY_ONE | {"lr": 1e9, "steps": 5}, 3, "100.0 % of the held-out digits"),
    "not shared evenly": (ONE_BY_ONE | {"batch": 100}, 0, "a multiple of 8"),
    "one step too long": (ONE_BY_ONE | {"batch": 80_000}, 0, "takes longer than 0.3 s"),
    "half a step": (ONE_BY_ONE | {"steps": 4.5}, 0, "steps: It should be a whole number"),
    "no meeting": (ONE_BY_ONE | {"every": 0}, 0, "1 or more"),
    "no rate": ({"batch": 256, "every": 1, "steps": 44}, 0, "batch, every, lr and steps"),
    "a rate that is none": (ONE_BY_ONE | {"lr": lambda step: None}, 0, "lr at step 0"),
    "a rate that raises": (ONE_BY_ONE | {"lr": lambda step: 1 / step}, 0, "Your code raised ZeroDivisionError"),
    "nonsense": ("fast", 0, "A plan is a dict"),
    "untouched": (..., 0, "Not answered yet"),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_gets_its_points(capsys, name):
    plan, most, said = PLANS[name]
    given, printed = points(capsys, check.plan, plan)
    assert given == most
    assert said in printed
