"""Whether a run that goes on from a checkpoint is the run that was never stopped, found by trial before the first step.

A few steps on copies, straight, against some of them, a checkpoint in memory, and the rest from it in fresh copies.
"""

import copy
import json
from collections.abc import Sequence
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

STOPS, END = (5, 12), 24  # of the optimizer alone: some act every few steps, and 5 and 12 have no divisor in common
RUN_STOP, RUN_END = 2, 4
JUMPS = (5, 9, 10, 20, 49, 50, 99, 100, 500, 1000, 5000, 10_000, 100_000, 1_000_000)  # steps that a count may be at
SHAPES = ((6, 4), (8, 2), (4,))
NOISE = 100  # what is off counts if it is more so than this many times what two straight runs differ by
Kept = tuple[dict[str, Tensor], str]  # tensors, and JSON


def refuse_what_is_lost(run: Any) -> None:
    """ValueError, which names it, if a checkpoint would not keep what the optimizer, net or learner goes on from.

    The model is whole, and the learner has started; the run is left as it was. What fails without a checkpoint too is
    left to the first step.
    """
    with seeded(run.experiment.seed):
        steps = [Batch(torch.full((1, 1), float(step), device=run.device)) for step in range(END)]
        for stop in STOPS:
            with suppress(_Fails):  # one that wants the net's own parameters is tried with the net
                _Trial(run, steps, stop, partial(_Few, run), _MadeUp).refuse()
        for images in (few_images(run), run.experiment.batch_size):
            first = run.first_images(RUN_END * images)
            labels = [None] * RUN_END if first.labels is None else first.labels.split(images)
            batches = [Batch(*pair) for pair in zip(first.images.split(images), labels, strict=True)]
            with suppress(_Fails):
                return _Trial(run, batches, RUN_STOP).refuse()


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
    """A resume of a run after `stop` of the batches; model, learner: make others in place of copies of the run's."""

    def __init__(self, run: Any, batches: Sequence[Batch], stop: int, model: Any = None, learner: Any = None):
        self.run, self.first, self.rest = run, batches[:stop], batches[stop:]
        self.model, self.learner = model, learner

    def refuse(self) -> None:
        """ValueError if the resumed run is not the straight one; _Fails if that one cannot be run."""
        try:
            straight = self.fresh()
            self.learn(straight, self.first)
            stop = numbers(straight)
        except Exception as error:
            raise _Fails from error
        try:
            kept = _kept(straight)
            resumed = self.resumed(kept)
        except Exception as error:
            who = self.who_cannot_be_kept(straight)
            raise ValueError(
                sentence(who, f"a value of {name_of(straight, who)} ({type(error).__name__}: {error})")
            ) from error
        loaded = numbers(resumed)
        try:
            expected = self.outcome(straight, self.rest)
        except Exception as error:
            raise _Fails from error
        try:
            found = self.outcome(resumed, self.rest)
        except Exception:  # for want of a value, say
            found = {}
        if self.off(expected, found):
            raise ValueError(self.what_is_lost(kept, expected))
        fresh = self.fresh()
        for place, value in numbers(straight).items():
            start = getattr(owner(fresh, place), place.name, None)
            if type(start) is not type(value) or place not in stop:
                continue
            by = (stop[place] - start) / len(self.first)
            if by and value - stop[place] == by * len(self.rest) and loaded.get(place, start) != stop[place]:
                self.refuse_count(place, kept, start, by)

    def fresh(self, model: nn.Module | None = None, learner: Learner | None = None) -> Any:
        """A copy of the run before its first step; with this model or learner, if one is given."""
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
        twin.history, twin._sums = History(), {}
        twin.optimizer = run.make_optimizer(twin.model)
        twin.shard.settings = group_settings(twin.optimizer)
        return twin

    def resumed(self, kept: Kept, **own: Any) -> Any:
        """A fresh copy that goes on from a checkpoint."""
        twin = self.fresh(**own)
        unpack(twin, {name: value.clone() for name, value in kept[0].items()}, json.loads(kept[1]))
        return twin

    def learn(self, twin: Any, batches: Sequence[Batch]) -> dict[str, Any]:
        """Take a step on each batch; the metrics of all."""
        known: dict[str, Any] = {}
        for batch in batches:
            labels = None if batch.labels is None else batch.labels.clone()
            metrics = twin._learn(Batch(batch.images.clone(), labels))
            twin.step += 1
            known |= {f"{name} at {twin.step}": value for name, value in metrics.items()}
        return known

    def outcome(self, twin: Any, batches: Sequence[Batch]) -> dict[str, Any]:
        """The metrics of a step on each batch, and all that a checkpoint keeps then."""
        metrics = self.learn(twin, batches)
        tensors, state = pack(twin)
        return metrics | tensors | {"numbers": json.dumps(state["optimizer"])}

    def stopped(self) -> Any:
        """A copy of the run that has taken the first steps."""
        twin = self.fresh()
        self.learn(twin, self.first)
        return twin

    def off(self, expected: dict[str, Any], found: dict[str, Any]) -> bool:
        """Whether something is off, by more than it is where nothing is lost."""
        off = distances(expected, found)
        if not off:
            return False
        noise = distances(expected, self.outcome(self.stopped(), self.rest))
        return any(distance > NOISE * noise.get(name, 0.0) for name, distance in off.items())

    def what_is_lost(self, kept: Kept, expected: dict[str, Any]) -> str:
        """In a sentence: what is lost, found by putting it back."""
        if self.model is not None:
            return lost_by("optimizer", self.stopped(), self.resumed(kept))

        def mended(twin: Any) -> bool:
            with suppress(Exception):
                return not self.off(expected, self.outcome(twin, self.rest))
            return False

        before, after = self.stopped(), self.resumed(kept)
        learner, model = copy.deepcopy(before.learner), copy_of(before.model, self.run)
        if mended(self.resumed(kept, learner=learner)):
            return lost_by("learner", before, after)
        if mended(self.resumed(kept, model=model)):
            return lost_by("net", before, after)
        with_gradients = self.resumed(kept)
        for own, other in zip(with_gradients.model.parameters(), before.model.parameters(), strict=True):
            own.grad = None if other.grad is None else other.grad.clone()
        if mended(with_gradients):
            kind = name_of(before, "learner")
            return sentence("learner", f"the gradient that {kind} leaves for the next step")
        both = mended(self.resumed(kept, learner=copy.deepcopy(before.learner), model=copy_of(before.model, self.run)))
        return lost_by("net" if both else "optimizer", before, after)

    def refuse_count(self, place: Place, kept: Kept, start: float, by: float) -> None:
        """ValueError if what counts `by` a step, and is not kept, makes a difference later on."""

        def one_step(count: float | None) -> dict[str, Any]:
            twin = self.resumed(kept)
            if count is not None:
                setattr(owner(twin, place), place.name, count)
            return self.outcome(twin, self.rest[:1])

        expected = one_step(None)
        noise = distances(expected, one_step(None))
        for steps in JUMPS:
            with suppress(Exception):  # it may not be one that counts
                off = distances(expected, one_step(type(start)(start + by * steps)))
                if any(distance > NOISE * noise.get(name, 0.0) for name, distance in off.items()):
                    break
        else:
            return
        raise ValueError(sentence(place.who, f"{place} of {name_of(self.fresh(), place.who)}"))

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


def _kept(run: Any) -> Kept:
    """A checkpoint in memory."""
    tensors, state = pack(run)
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is of type {type(value).__name__}")
    return {name: value.clone() for name, value in tensors.items()}, json.dumps(state)
