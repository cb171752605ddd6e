"""The open task of notebook 09: a large net, split over four ranks that hold and send little."""

import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlkit.data import load
from dlkit.exercises import Answer, Hint, Points, students_code, task
from dlkit.exercises.answers import number
from dlkit.strategies import cost

RANKS, BATCH, STEPS, MOMENTUM = 4, 32, 100, 0.9
HELD, SENT = 2_000_000, 80_000  # bytes, at most
PARAMETERS = (174_000, 500_000)  # above each of which there is a point
ERRORS = (100 / 4, 100 / 5, 100 / 6)  # percent, below each of which there is a point
PATIENCE = 8.0  # seconds of training; what fits takes less than one


@task
def design(answer: Any) -> Iterator[Points]:
    """`answer()`: a net that gives ten logits for images of 28x28, a strategy, and a learning rate."""
    with torch.random.fork_rng(devices=[]):
        net, strategy, lr = _read(answer)
    count = sum(parameter.numel() for parameter in net.parameters())
    try:
        on_paper = cost(net, (28, 28), BATCH, RANKS, strategy)
    except (ValueError, TypeError) as error:
        yield Points(0, 10, f"nothing can be measured, since it cannot be split so: {error}")
        return
    yield Points(1, 1, f"{type(strategy).__name__} can split it over {RANKS} ranks")
    held, sent = (max(map(of_rank, range(RANKS))) for of_rank in (on_paper.memory_bytes, on_paper.bytes_sent))
    fits = held <= HELD
    yield Points(2 * fits, 2, f"the fullest rank holds {held:,} bytes, of {HELD:,} that it has")
    yield Points(2 * (sent <= SENT), 2, f"a rank sends up to {sent:,} bytes in a step, of {SENT:,} that it may")
    remark = "" if fits else ", and it does not fit"
    large = fits * sum(count > least for least in PARAMETERS)
    yield Points(large, len(PARAMETERS), f"it has {count:,} parameters{remark}")
    if not fits:
        yield Points(0, len(ERRORS), "it was not trained, since it does not fit")
        return
    error, steps = _error_after_training(net, lr)
    learned = sum(error < most for most in ERRORS)
    yield Points(learned, len(ERRORS), f"{error:.1f} % of the held-out digits are wrong after {steps} steps")


def _read(answer: Any) -> tuple[nn.Module, Any, float]:
    """The design. Raises Hint for what is none."""
    if not isinstance(answer, Answer):
        raise Hint("Hand in the function itself, which makes a net each time that it is called: design, not design().")
    torch.manual_seed(0)
    made = answer()
    if not isinstance(made, tuple | list) or len(made) != 3:
        raise Hint("The function should return three things: the net, the strategy and the learning rate.")
    net, strategy, lr = made
    if not isinstance(net, nn.Module):
        raise Hint(f"The net should be an nn.Module; yours is of type {type(net).__name__}.")
    if isinstance(strategy, type):
        raise Hint(f"Make a strategy of the class: {strategy.__name__}(...), in place of {strategy.__name__}.")
    if not hasattr(strategy, "layer_costs"):
        raise Hint("The second is a strategy of dlkit.strategies, such as DataParallel().")
    with students_code(), torch.no_grad():
        logits = net(torch.zeros(2, 28, 28))  # a lazy layer learns its size from this
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, 10):
        shape = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise Hint(f"The net should give ten logits for each image, (2, 10) for two; yours gives {shape}.")
    try:
        rate = number(lr)
    except Hint as hint:
        raise Hint(f"The learning rate: {hint}") from None
    if rate <= 0:
        raise Hint(f"The learning rate should be above 0; yours is {rate:g}.")
    return net, strategy, rate


def _error_after_training(net: nn.Module, lr: float) -> tuple[float, int]:
    """Percent of the held-out digits after so many steps: STEPS, or fewer where PATIENCE has come to its end."""
    digits = load("mnist")
    train, held_out, steps = digits.train, digits.validation[:1000], 0
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=MOMENTUM)
    began = time.monotonic()
    with students_code():
        while steps < STEPS and time.monotonic() - began < PATIENCE:
            batch = slice(BATCH * steps, BATCH * (steps + 1))
            optimizer.zero_grad()
            F.cross_entropy(net(train.images[batch]), torch.as_tensor(train.labels)[batch]).backward()
            optimizer.step()
            steps += 1
        with torch.no_grad():
            logits = net.eval()(held_out.images)
    right = logits.argmax(1).eq(torch.as_tensor(held_out.labels)) & logits.isfinite().all()
    return 100 * (1 - float(right.float().mean())), steps
