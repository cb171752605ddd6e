"""Whether a run that goes on from a checkpoint is the run that was never stopped, found by trial before the first step.

A few steps on copies, straight, against some of them, a checkpoint in memory, and the rest from it in fresh copies.
"""

import copy
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.global_generators import seeded
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.training.checkpoint import pack, unpack
from dlkit.training.history import History
from dlkit.training.learner import Learner, Metrics
from dlkit.training.lost_values import Place, distances, lost_by, name_of, numbers, owner, sentence
from dlkit.training.optimizer_state import group_settings
from dlkit.training.shard import Shard
from dlkit.training.trial import copy_of, few_images

STOPS, END = (3, 5), 12  # steps of the optimizer alone: some act every few, and 3 and 5 have no divisor in common
RUN_STOPS, RUN_END = (2,), 4
JUMPS = (5, 9, 10, 20, 49, 50, 99, 100, 500, 1000, 5000, 10_000, 100_000, 1_000_000)  # steps that a count may be at
SHAPES = ((6, 4), (8, 2), (4,))
NOISE = 100  # what is off counts if it is more so than this many times what is off between two of the same runs
REPEATS = 8  # of each run where two of the same differ: an error rate is off by nothing now and then, by chance
Outcome = dict[str, Any]  # tensors, numbers and JSON
Kept = tuple[dict[str, Tensor], str]  # tensors, and JSON


def refuse_what_is_lost(run: Any) -> None:
    """ValueError, which names it, if a checkpoint would not keep what the optimizer, net or learner goes on from.

    The model is whole, and the learner has started; the run is left as it was. What fails without a checkpoint too is
    left to the first step.
    """
    with seeded(run.experiment.seed):
        steps = [Batch(torch.full((1, 1), float(step), device=run.device)) for step in range(END)]
        with suppress(_Fails):  # one that wants the net's own parameters is tried with the net
            _Trial(run, steps, STOPS, partial(_Few, run), _MadeUp).refuse()
        for images in (few_images(run), run.experiment.batch_size):
            first = run.first_images(RUN_END * images)
            labels = [None] * RUN_END if first.labels is None else first.labels.split(images)
            batches = [Batch(*pair) for pair in zip(first.images.split(images), labels, strict=True)]
            with suppress(_Fails):
                return _Trial(run, batches, RUN_STOPS).refuse()


class _Fails(Exception):
    """Also when it is run straight."""


class _Few(nn.Module):
    """A net of a few parameters."""

    def __init__(self, run: Any):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(shape, generator=generator, dtype=run.experiment.dtype) for shape in SHAPES]
        self.parts = nn.ParameterList(value.to(run.device) for value in drawn)


class _MadeUp(Learner):
    """The gradient of the squared distance from values that are drawn for each step."""

    def fill_grad(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Metrics:
        own = torch.Generator().manual_seed(int(batch.images))
        loss = torch.zeros((), device=batch.images.device)
        for p in model.parameters():
            p.grad = p.detach() - torch.randn(p.shape, generator=own, dtype=p.dtype).to(p.device)
            loss = loss + p.grad.square().sum() / 2
        return {"loss": loss}


class _Trial:
    """Resumes of a run after some of its steps; model, learner: make others in place of copies of the run's."""

    def __init__(
        self, run: Any, batches: Sequence[Batch], stops: Sequence[int], model: Any = None, learner: Any = None
    ):
        self.run, self.batches, self.stops = run, batches, stops
        self.model, self.learner = model, learner

    def refuse(self) -> None:
        """ValueError if a resumed run is not the straight one; _Fails if that one cannot be run."""
        straight, resumes = self.fresh(), []
        for stop in self.stops:
            self.learn(straight, stop)
            kept, resumed = self.kept(straight)
            resumes.append((kept, resumed, numbers(straight), numbers(resumed)))
        expected = self.outcome(straight)
        for kept, resumed, then, loaded in resumes:
            if self.off(expected, self.outcome_if_any(resumed), partial(self.resumed, kept)):
                raise ValueError(self.what_is_lost(kept, expected))
            for place, value in then.items():
                start = loaded.get(place, getattr(type(owner(resumed, place)), place.name, None))
                if type(start) is type(value) and start != value:
                    self.refuse_count(place, kept, start, value, numbers(straight).get(place))

    def fresh(self, model: nn.Module | None = None, learner: Learner | None = None) -> Any:
        """A copy of the run before its first step; with this model or learner, if one is given."""
        try:
            return self.twin(model, learner)
        except Exception as error:
            raise _Fails from error

    def twin(self, model: nn.Module | None, learner: Learner | None) -> Any:
        run, twin = self.run, copy.copy(self.run)
        if self.model is not None:
            own = self.model(), self.learner()
        else:
            try:
                own = copy.deepcopy((run.model, run.learner))  # together: one may refer to the other
            except (TypeError, RuntimeError):
                own = copy_of(run.model, run), copy.deepcopy(run.learner)
        twin.model, twin.learner = model or own[0], learner or own[1]
        twin.shard = Shard(twin.model, twin.learner)
        twin.generator = ShardedGenerator(run.generator.device)
        twin.generator.set_state(run.generator.get_state())
        twin.history, twin._sums, twin.captured = History(), {}, None
        twin.optimizer = run.make_optimizer(twin.model)
        twin.shard.settings = group_settings(twin.optimizer)
        return twin

    def kept(self, twin: Any) -> tuple[Kept, Any]:
        """A checkpoint in memory, and a copy that goes on from it. ValueError if it cannot be made."""
        try:
            for name, value in twin.learner.state.items():
                if not isinstance(value, Tensor):
                    raise TypeError(f'state["{name}"] is of type {type(value).__name__}')
            tensors, state = pack(twin)
            kept = {name: value.clone() for name, value in tensors.items()}, json.dumps(state)
            return kept, self.resumed(kept)
        except Exception as error:
            who = self.who_cannot_be_kept(twin)
            why = f"{type(error).__name__}: {error}".split("\n")[0]
            raise ValueError(sentence(who, f"a value of {name_of(twin, who)} ({why})")) from error

    def resumed(self, kept: Kept, **own: Any) -> Any:
        """A fresh copy that goes on from a checkpoint."""
        twin = self.fresh(**own)
        unpack(twin, {name: value.clone() for name, value in kept[0].items()}, json.loads(kept[1]))
        return twin

    def learn(self, twin: Any, end: int) -> Outcome:
        """Take the steps up to `end`, and give their metrics. _Fails if one cannot be taken."""
        known: Outcome = {}
        for batch in self.batches[twin.step : end]:
            labels = None if batch.labels is None else batch.labels.clone()
            try:
                metrics = twin._learn(Batch(batch.images.clone(), labels))
            except Exception as error:
                raise _Fails from error
            twin.step += 1
            known |= {f"{name} at {twin.step}": value for name, value in metrics.items()}
        return known

    def outcome(self, twin: Any, end: int | None = None) -> Outcome:
        """The metrics of the steps after the last stop, up to `end`, and all that a checkpoint keeps then."""
        self.learn(twin, self.stops[-1])
        metrics = self.learn(twin, end or len(self.batches))
        tensors, state = pack(twin)
        return metrics | tensors | {"numbers": json.dumps(state["optimizer"], sort_keys=True)}

    def stopped(self, stop: int) -> Any:
        """A copy of the run that has taken the first steps."""
        twin = self.fresh()
        self.learn(twin, stop)
        return twin

    def outcome_if_any(self, twin: Any) -> Outcome:
        """Nothing if a step cannot be taken: for want of a value, say."""
        with suppress(_Fails):
            return self.outcome(twin)
        return {}

    def off(self, expected: Outcome, found: Outcome, resumed: Callable[[], Any]) -> bool:
        """Whether something is off. resumed: makes the run again that has found it."""
        return _differ(expected, lambda: self.outcome(self.fresh()), found, lambda: self.outcome_if_any(resumed()))

    def what_is_lost(self, kept: Kept, expected: Outcome) -> str:
        """In a sentence: what is lost, found by putting it back."""
        after = self.resumed(kept)
        before = self.stopped(after.step)
        if self.model is not None:
            return lost_by("optimizer", before, after)

        def with_its(learner: bool = False, model: bool = False) -> Any:
            own = {"learner": copy.deepcopy(before.learner)} if learner else {}
            return self.resumed(kept, **own, **({"model": copy_of(before.model, self.run)} if model else {}))

        def with_gradients() -> Any:
            twin = self.resumed(kept)
            for own, other in zip(twin.model.parameters(), before.model.parameters(), strict=True):
                own.grad = None if other.grad is None else other.grad.clone()
            return twin

        def mended(resumed: Callable[[], Any]) -> bool:
            return not self.off(expected, self.outcome_if_any(resumed()), resumed)

        if mended(partial(with_its, learner=True)):
            return lost_by("learner", before, after)
        if mended(partial(with_its, model=True)):
            return lost_by("net", before, after)
        if mended(with_gradients):
            kind = name_of(before, "learner")
            return sentence("learner", f"the gradient that {kind} leaves for the next step")
        both = mended(partial(with_its, learner=True, model=True))
        return lost_by("net" if both else "optimizer", before, after)

    def refuse_count(self, place: Place, kept: Kept, start: float, then: float, last: float | None) -> None:
        """ValueError if what is lost grows evenly, from `start` over `then` to `last`, and matters after many steps."""

        def one_step(count: float | None = None) -> Outcome:
            twin = self.resumed(kept)
            if count is None:
                return self.outcome(twin, twin.step + 1)
            setattr(owner(twin, place), place.name, count)
            with suppress(Exception):  # of what cannot be so large
                return self.outcome(twin, twin.step + 1)
            return expected

        twin = self.resumed(kept)
        by = (then - start) / twin.step
        if last is None or last - then != by * (len(self.batches) - twin.step):
            return
        expected = one_step()
        for steps in JUMPS:
            later = partial(one_step, type(start)(start + by * steps))
            if _differ(expected, one_step, later(), later):
                raise ValueError(sentence(place.who, f"{place} of {name_of(twin, place.who)}"))

    def who_cannot_be_kept(self, twin: Any) -> str:
        """Whose state is no tensors and numbers, or cannot be loaded."""
        if self.model is not None:
            return "optimizer"
        if not all(isinstance(value, Tensor) for value in twin.learner.state.values()):
            return "learner"
        try:
            self.fresh().model.load_state_dict(twin.model.state_dict())
        except RuntimeError:
            return "net"
        return "optimizer"


def _differ(expected: Outcome, straight: Callable[[], Outcome], found: Outcome, other: Callable[[], Outcome]) -> bool:
    """Whether two runs come to something else, by far more than each of them does from itself when it is run again."""
    off = distances(expected, found)
    for _ in range(REPEATS):
        if not off:
            return False
        noise = [distances(expected, straight()), distances(found, other())]
        if not any(noise):
            return True
        off = {name: off[name] for name in off if off[name] > NOISE * max(own.get(name, 0.0) for own in noise)}
    return bool(off)
