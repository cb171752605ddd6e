"""Whether a learner can learn from parts of a batch, and what its gradients do meanwhile, found by trials on copies."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlkit.core.draws import ShardedDraws
from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch
from dlkit.distributed.batch_norm import Exchange, Part, shared_statistics
from dlkit.strategies.checks import class_name
from dlkit.strategies.statistics_trial import Fixed, Kept, wrong_statistics
from dlkit.training.learner import Backprop, Learner
from dlkit.training.trial import Passes, copies_of, few_images

TRIED = 48  # images of the first batch
TOLERANCE = 1e-6  # of gradients in float64: relative to their norm
SCALES = (1.0, 30.0)  # of the weights: what is clipped may be too small to be clipped at first


def refuse_what_does_not_add_up(run: Any, strategy: str, *, in_turn: bool = False) -> None:
    """ValueError unless the gradient on a batch is the weighted sum of those on its two parts, as a trial shows.

    So, too, the model's buffers must be after a part what they are after the whole; in_turn: after both, where one
    rank passes parts one after the other. Where they are not passed in turn, BatchNorm takes in both parts the
    statistics of the whole batch, as it does on ranks.

    The trial is on the first images of the first batch, `TRIED` or, where a learner has a state for each image of a
    batch, all. It is on copies, in float64 where they can be, with the same random numbers; the run is left as it was.
    The parts are a third and two thirds, so that a forgotten weight shows. Scalars reported are tried as well.
    """
    size = run.experiment.batch_size
    batch = run.first_images(size if run.learner.state else min(size, TRIED))
    count = len(batch)
    if count < 2:
        return
    cut = count // 3 | 1  # odd, lest pairs of images stay together
    parts = [Slice(0, cut, count), Slice(cut, count, count)]
    for scale in SCALES:
        try:
            wrong = _trial(run, batch, parts, torch.float64, TOLERANCE, in_turn, scale)
        except (RuntimeError, TypeError, ValueError):  # it may want the dtype that it has
            wrong = _trial(run, batch, parts, None, 0.01, in_turn, scale)
        if wrong:
            break
    if wrong:
        raise ValueError(
            f"under {strategy} a rank learns from a part of each batch, and {wrong} that {class_name(run.learner)} "
            "gives for the first batch differs from the weighted sum of those for its two parts: fill_grad and loss "
            "must be means over the images of a batch, what an image gives must not depend on the others, and what is "
            "drawn for each image must be drawn by dlkit.core.random or by torch; or train in one process."
        )


def refuse_passes_of_its_own(run: Any, strategy: str, mend: str) -> None:
    """ValueError unless the learner's gradient is that of its `loss`, as a trial on the first images shows.

    A learner that overrides `fill_grad`, to penalise a gradient say, may do more than a strategy that runs the net
    itself can do in its place.
    """
    if type(run.learner).fill_grad is Backprop.fill_grad:
        return
    batch = run.first_images(min(run.experiment.batch_size, TRIED))
    same = True
    for scale in SCALES:
        own = outcome(run, run.model, batch, None, 0, None, scale)
        try:
            plain = outcome(run, run.model, batch, None, 0, None, scale, fill=Backprop.fill_grad)
            same = same and torch.allclose(own.gradient, plain.gradient, rtol=0, atol=0, equal_nan=True)
        except (AttributeError, NotImplementedError):  # it has no loss
            same = False
    if not same:
        raise ValueError(
            f"{class_name(run.learner)} fills gradients by a fill_grad of its own, and {strategy} backpropagates "
            f"through its `loss` alone: {mend}."
        )


def _trial(
    run: Any, batch: Batch, parts: list[Slice], dtype: torch.dtype | None, tolerance: float, in_turn: bool, scale: float
) -> str:
    """What of the whole batch's is not the sum of its parts', in words; "" if all is."""
    kept = Kept()
    of_parts = [] if in_turn else [Kept(kept), Kept(kept)]
    shared: list[Kept | None] = [None] * 3 if in_turn else [kept, *of_parts]
    whole = outcome(run, run.model, batch, None, 0, dtype, scale, statistics=shared[0])
    if not whole.gradient.isfinite().all():
        return ""
    first = outcome(run, run.model, batch, parts[0], 0, dtype, scale, statistics=shared[1])
    behind, its_scale = (first.model, 1.0) if in_turn else (run.model, scale)
    second = outcome(run, behind, batch, parts[1], 1, dtype, its_scale, statistics=shared[2])
    if wrong := _difference(whole, first, second, tolerance):
        return wrong
    if wrong := "" if in_turn else wrong_statistics(kept, of_parts, tolerance):
        return wrong
    for name, value in whole.model.named_buffers():
        for part in (second,) if in_turn else (first, second):
            other = part.model.get_buffer(name)
            if other.shape != value.shape or not torch.allclose(other.double(), value.double(), rtol=1e-5, atol=1e-8):
                return f"the buffer {name}"
    for name, value in whole.state.items():
        for part in (first, second):
            other = part.state.get(name, value)
            if not torch.allclose(other.double(), value.double(), rtol=1e-5, atol=1e-8):
                return f'state["{name}"]'
    return ""


class Outcome(NamedTuple):
    """Of a pass: the model after it, all gradients as one vector, the scalars, and what the learner keeps whole."""

    model: nn.Module
    gradient: Tensor
    metrics: dict[str, float]
    state: dict[str, Tensor]


def outcome(
    run: Any,
    model: nn.Module,
    batch: Batch,
    part: Slice | None,
    rank: int,
    dtype: torch.dtype | None,
    scale: float = 1.0,
    *,
    moved: float = 0.0,
    fill: Any = None,
    started: tuple[nn.Module, Any] | None = None,
    statistics: Exchange | None = None,
) -> Outcome:
    """Of a batch or of a part of it, from copies of the model and the run's learner; `fill` in place of its own.

    scale: how many times as large trained parameters are. moved: how far each is from that, relative to itself.
    started: a learner in place of the run's, behind the model that it was started on. statistics: what BatchNorm takes
    them from; None leaves it to torch.
    """
    started_on, learner = started or (run.model, run.learner)
    model, learner = copies_of(model, learner, run, started_on)
    model.zero_grad()
    with torch.no_grad():
        for parameter in model.parameters() if scale != 1 else ():
            parameter *= scale if parameter.requires_grad else 1
    generator = ShardedGenerator(run.generator.device)
    generator.set_state(run.generator.get_state())
    batch = Batch(batch.images.clone(), None if batch.labels is None else batch.labels.clone())
    divided: dict[str, Slice] = {}
    if dtype is not None:
        model.to(dtype)
        batch = Batch(batch.images.to(dtype), batch.labels)
        for name, value in learner.state.items():
            learner.state[name] = value.to(dtype) if value.is_floating_point() else value
    if moved:
        move(model, moved)
    rows = Slice(0, len(batch), len(batch))
    if part is not None:
        divided = learner.split(rank, 2)
        labels = None if batch.labels is None else batch.labels[part.start : part.stop]
        batch = Batch(batch.images[part.start : part.stop], labels, part.count / part.whole, part)
        generator.rows = rows = part
    plan = run.trial.plan
    draws = nullcontext() if plan is None else ShardedDraws(plan).part_of(rows.start, rows.count, rows.whole)
    sharing = nullcontext() if statistics is None else sharing_statistics(model, learner, batch, statistics)
    with run.own_generators(0), draws, sharing:
        metrics = (fill or type(learner).fill_weighted_grad)(learner, model, batch, generator)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().double() for p in trained]
    state = {name: value for name, value in learner.state.items() if name not in divided}
    model.zero_grad()  # memory
    return Outcome(model, torch.cat(gradients), {name: float(value) for name, value in metrics.items()}, state)


def sharing_statistics(
    model: nn.Module, learner: Any, batch: Batch, exchange: Exchange
) -> AbstractContextManager[object]:
    """Context of the learner's passes of a part of a batch, in which BatchNorm takes the whole batch's statistics."""
    weighted_after = type(learner).fill_weighted_grad is Learner.fill_weighted_grad
    return shared_statistics(model, exchange, Part(batch.weight > 0, batch.weight if weighted_after else 1.0))


@torch.no_grad()
def move(model: nn.Module, by: float) -> None:
    """Move each weight up or down, by so much relative to itself, to see how much rounding changes."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        signs = torch.randint(0, 2, parameter.shape, generator=generator).to(parameter) * 2 - 1
        parameter *= 1 + by * signs


def _difference(whole: Outcome, first: Outcome, second: Outcome, tolerance: float) -> str:
    if (whole.gradient - first.gradient - second.gradient).norm() > tolerance * whole.gradient.norm() + 1e-12:
        return "the gradient"
    for name, value in whole.metrics.items():
        if abs(value - first.metrics[name] - second.metrics[name]) > tolerance * max(abs(value), 1.0):
            return f'"{name}"'
    return ""


def gradients_are_final(run: Any) -> bool:
    """Is each gradient what it stays from the moment on that a backward pass has made it? By a trial with weights."""
    passes = Passes(run, few_images(run), weight=0.5)
    made: dict[str, list[Tensor]] = {}
    for name, parameter in passes.model.named_parameters():
        if parameter.requires_grad:
            made[name] = []
            parameter.register_post_accumulate_grad_hook(
                lambda parameter, name=name: made[name].append(parameter.grad.detach().clone())
            )
    passes()
    kept = {name: p.grad for name, p in passes.model.named_parameters() if p.requires_grad and p.grad is not None}
    return all(len(made[name]) == 1 and torch.equal(made[name][0], gradient) for name, gradient in kept.items())


def uses_all_for_each_image(run: Any) -> bool:
    """Does each of the first images, on its own, give every trained parameter a gradient, as a trial shows?"""
    return all(unused is not None and not unused for unused in unused_by_image(run))


def uses_same_for_each_image(run: Any) -> bool:
    """Does each of the first images, on its own, give the same parameters a gradient? None may fail."""
    first, *others = list(unused_by_image(run)) or [set()]
    return first is not None and all(unused == first for unused in others)


def unused_by_image(run: Any, most: int = 16) -> Iterator[set[str] | None]:
    """The parameters that each of the first images, on its own, gives no gradient; None where it fails."""
    for number in range(min(most, run.experiment.batch_size)):
        passes = Passes(run, number + 1)
        labels = passes.batch.labels
        passes.batch = Batch(passes.batch.images[number:], None if labels is None else labels[number:])
        try:
            with sharing_statistics(passes.model, passes.learner, passes.batch, Fixed()):
                passes()
        except Exception:  # of the reader's code, which may want more images than one
            yield None
            return
        yield {name for name, p in passes.model.named_parameters() if p.requires_grad and p.grad is None}
