"""The open task of notebook 08: a training of 0.3 seconds on eight workers that are not there."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dlkit.data import load
from dlkit.distributed.links import GIGABIT
from dlkit.exercises import Hint, Points, students_code, task
from dlkit.exercises.answers import named, number, seeded, whole

WORKERS = 8
SHAPES = ((784, 100), (100,), (100, 10), (10,))
IMAGE = 50e-6  # seconds of a worker for an image
MEETING = GIGABIT.seconds("all-reduce", 318_040, WORKERS)  # seconds
LIMIT = 0.3  # seconds
SMALLEST = 64  # images of a batch
MOMENTUM = 0.9
ERRORS = (16.0, 12.0, 9.0, 8.0)  # percent, below each of which there is a point


class Plan(NamedTuple):
    """What is handed in; lr is of the step."""

    batch: int
    every: int
    lr: Callable[[int], float]
    steps: int

    def seconds(self, steps: int) -> float:
        """What so many steps take; -(-a // b) is a / b, rounded up: the last meeting ends the training."""
        return steps * self.batch / WORKERS * IMAGE + -(-steps // self.every) * MEETING


@task
def plan(answer: Any) -> Iterator[Points]:
    """`answer`: a dict of batch, every, lr (a number, or a function of the step) and steps."""
    planned = _read(answer)
    steps, seconds = planned.steps, planned.seconds(planned.steps)
    yield Points(
        3 if seconds <= LIMIT else 0, 3, f"{steps:,} steps take {seconds:.3f} s on paper, and {LIMIT:g} s there are"
    )
    while planned.seconds(steps) > LIMIT:
        steps -= 1
    used = planned.seconds(steps) / LIMIT
    yield Points(1 if used >= 0.9 else 0, 1, f"{used:.0%} of the time is used")
    share = steps * planned.batch / WORKERS * IMAGE / planned.seconds(steps)
    yield Points(2 if share >= 0.6 else 0, 2, f"the workers compute {share:.0%} of the time that is used")
    error = _error(_train(planned, steps))
    reached = sum(error < most for most in ERRORS)
    cut = f" after {steps} steps, when the time is up" if steps < planned.steps else ""
    yield Points(reached, len(ERRORS), f"{error:.1f} % of the held-out digits are wrong{cut}")


def _read(answer: Any) -> Plan:
    """The plan. Raises Hint for what is none."""
    names = ("batch", "every", "lr", "steps")
    if not isinstance(answer, Mapping) or set(answer) != set(names):
        raise Hint("A plan is a dict with batch, every, lr and steps, and nothing else.")
    batch, every, steps = (named(name, whole, answer[name]) for name in ("batch", "every", "steps"))
    if batch < SMALLEST or batch % WORKERS:
        raise Hint(
            f"batch is {batch}: {WORKERS} workers share it evenly, so it is a multiple of {WORKERS}, from {SMALLEST}."
        )
    if every < 1 or steps < 1:
        raise Hint("every and steps are 1 or more.")
    if Plan(batch, every, float, 1).seconds(1) > LIMIT:
        raise Hint(f"One step of {batch:,} images takes longer than {LIMIT:g} s.")
    lr = answer["lr"]
    if callable(lr):
        return Plan(batch, every, lambda step: _rate(lr, step), steps)
    rate = named("lr", number, lr)
    return Plan(batch, every, lambda step: rate, steps)


def _rate(lr: Callable[[int], Any], step: int) -> float:
    with students_code():
        rate = lr(step)
    return named(f"lr at step {step}", number, rate)


def _train(planned: Plan, steps: int) -> list[Tensor]:
    """The parameters after so many steps; all copies are trained at once, each in a row of the parameters."""
    train = load("mnist").train[:12_800]
    images, labels = train.images.flatten(1), torch.as_tensor(train.labels)
    copies = 1 if planned.every == 1 else WORKERS  # with a mean after every step all copies are alike
    order, g = torch.empty(0, dtype=torch.long), seeded(0)
    parameters = [_initial(shape, g).repeat(copies, *[1] * len(shape)).requires_grad_() for shape in SHAPES]
    optimizer = torch.optim.SGD(parameters, momentum=MOMENTUM, fused=True)
    for step in range(steps):
        if len(order) < planned.batch:
            passes = -(-planned.batch // len(images))
            order = torch.cat([order, *(torch.randperm(len(images), generator=g) for _ in range(passes))])
        rows, order = order[: planned.batch], order[planned.batch :]
        logits = _logits(parameters, images[rows].reshape(copies, -1, SHAPES[0][0]))
        optimizer.zero_grad()
        (F.cross_entropy(logits.flatten(0, 1), labels[rows]) * copies).backward()  # the sum of the copies' mean losses
        optimizer.param_groups[0]["lr"] = planned.lr(step)
        optimizer.step()
        if copies > 1 and ((step + 1) % planned.every == 0 or step + 1 == steps):
            with torch.no_grad():
                for parameter in parameters:
                    parameter.copy_(parameter.mean(0, keepdim=True).expand_as(parameter))
    return [parameter.detach()[:1] for parameter in parameters]


def _initial(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Of He's size for weights, zero for biases."""
    if len(shape) == 1:
        return torch.zeros(shape)
    return torch.randn(shape, generator=generator) * (2 / shape[0]) ** 0.5


def _logits(parameters: list[Tensor], images: Tensor) -> Tensor:
    """Of every copy (copies, images, 10), from its images (copies, images, 784)."""
    W1, b1, W2, b2 = parameters
    hidden = torch.baddbmm(b1[:, None], images, W1).relu()
    return torch.baddbmm(b2[:, None], hidden, W2)


def _error(parameters: list[Tensor]) -> float:
    """Percent of the held-out digits; 100 where training has ended in numbers that are not finite."""
    held_out = load("mnist").validation[:2000]
    logits = _logits(parameters, held_out.images.flatten(1)[None])[0]
    right = logits.argmax(1).eq(torch.as_tensor(held_out.labels)) & logits.isfinite().all()
    return 100 * (1 - float(right.float().mean()))
