"""The open task of notebook 11: sixteen workers that are not there, not all of them as fast, and a server's cable."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from dlkit.analysis.recognition import by_net, error
from dlkit.data import load
from dlkit.exercises import Hint, Points, task
from dlkit.exercises.answers import named, number, whole
from dlkit.strategies import Adagrad, ByStaleness, Downpour, Plain, Rule, train_virtually
from dlkit.training import CrossEntropy, Experiment

SECONDS = (1.0,) * 12 + (3.0,) * 3 + (10.0,)  # of a batch, on each of the sixteen
LIMIT = 60.0  # seconds of training
MOST = 200e6  # bytes through the servers
VALUES = 79_510  # of the net
ERRORS = (16.0, 12.0, 10.5, 9.5)  # percent, below each of which there is a point
NEAR = 0.1  # how far the predicted staleness may be off, as a part of the true one
RULES: dict[str, Callable[[], Rule]] = {"plain": Plain, "adagrad": Adagrad, "staleness": ByStaleness}
NAMES = ("workers", "fetch", "push", "rule", "lr", "predicted")


class Plan(NamedTuple):
    """What is handed in. predicted: the mean staleness."""

    workers: int
    fetch: int
    push: int
    rule: str
    lr: float
    predicted: float

    @property
    def batches(self) -> int:
        """That the workers have done when the time is up."""
        return int(sum(LIMIT / seconds for seconds in SECONDS[: self.workers]))

    @property
    def bytes_sent(self) -> float:
        return self.batches * (1 / self.fetch + 1 / self.push) * VALUES * 4


@task
def plan(answer: Any) -> Iterator[Points]:
    """`answer`: a dict of workers, fetch, push, rule ("plain", "adagrad" or "staleness"), lr, and predicted."""
    planned = _read(answer)
    size = planned.bytes_sent
    yield Points(
        3 if size <= MOST else 0,
        3,
        f"{planned.batches:,} batches send {size / 1e6:.0f} MB through the server, and {MOST / 1e6:.0f} MB are allowed",
    )
    digits = load("mnist")
    experiment = Experiment(_net, digits.train[:12_800], CrossEntropy(), batch_size=32, lr=planned.lr, row_every=50)
    strategy = Downpour(rule=RULES[planned.rule], fetch=planned.fetch, push=planned.push, overlap=False)
    slowed = dict(enumerate(SECONDS[: planned.workers]))
    run = train_virtually(experiment, strategy, planned.workers, batches=planned.batches, slowed=slowed)
    staleness = run.mean_staleness
    close = abs(planned.predicted - staleness) <= NEAR * staleness
    yield Points(3 if close else 0, 3, f"the mean staleness is {staleness:.1f}; predicted: {planned.predicted:g}")
    held_out = digits.validation[:2000]
    wrong = 100.0 if run.stopped else error(by_net(run.model, held_out.images), held_out)
    reached = sum(wrong < most for most in ERRORS)
    ended = f": {run.stopped}" if run.stopped else ""
    yield Points(reached, len(ERRORS), f"{wrong:.1f} % of the held-out digits are wrong{ended}")


def _net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


def _read(answer: Any) -> Plan:
    """The plan. Raises Hint for what is none."""
    if not isinstance(answer, Mapping) or set(answer) != set(NAMES):
        raise Hint(f"A plan is a dict with {', '.join(NAMES[:-1])} and {NAMES[-1]}, and nothing else.")
    workers, fetch, push = (named(name, whole, answer[name]) for name in NAMES[:3])
    lr, predicted = (named(name, number, answer[name]) for name in ("lr", "predicted"))
    if not 1 <= workers <= len(SECONDS):
        raise Hint(f"workers is {workers}: there are {len(SECONDS)}, and the fast ones come first.")
    if fetch < 1 or push < 1:
        raise Hint("fetch and push are 1 or more: after how many batches.")
    rule = answer["rule"]
    if not isinstance(rule, str) or rule not in RULES:
        raise Hint(f"rule is {rule!r}: it is one of {', '.join(RULES)}.")
    if lr <= 0:
        raise Hint("lr is more than 0.")
    planned = Plan(workers, fetch, push, rule, lr, predicted)
    least = planned.batches // workers
    if max(fetch, push) > least:
        raise Hint(f"A worker has about {least} batches: fetch and push are no more than that.")
    return planned
