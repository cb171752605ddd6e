"""Whether ranks with parts of a model learn what the whole model learns, found by a trial before the first step."""

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.strategies.checks import class_name
from dlkit.strategies.learner_trial import SCALES, Outcome, outcome
from dlkit.strategies.same_start import start_from_rank_0
from dlkit.training.learner import Learner, Metrics

TRIED = 8  # images of the first batch, or as many as there are ranks
TOLERANCE, ROUNDED = 1e-6, 1e-4  # of gradients, relative to their norms: in float64, and in coarser dtypes
MOVED = 100  # roundings by which weights are moved, to see how much a gradient is changed by one
OF_MODULES = frozenset(vars(nn.Module()))  # attributes that all modules have
CHANGED_IN_PLACE = (list, dict, set, Tensor, np.ndarray)


def refuse_wrong_parts(shard: Any, run: Any, strategy: str, model: nn.Module, learner: Learner) -> None:
    """ValueError unless the shard learns from the first images what one process does: ranks call it together.

    What must be the same are the gradient of each parameter, buffers, scalars reported, and the learner's state; a norm
    of weights, say, is another for a part of them. It is tried in float64, where the model can be. Rounding may decide
    on which side of a kink an activation is: a gradient must be off for other images too, and by more than it is when
    weights are moved a little. `model` and `learner`: as they were before the split. The shard is left as it was.
    """
    start_from_rank_0(model, learner.state, shard.group)
    size = run.experiment.batch_size
    count = size if learner.state else min(size, max(TRIED, shard.world_size))
    images = run.first_images(2 * count)
    wrong = ""
    for rows in torch.arange(2 * count, device=images.images.device).split(count):
        try:
            wrong = _Trial(shard, run, model, learner, images, rows).wrong()
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if not is_reader_s(error):
                raise
            text = str(error).split("\n")[0]
            wrong = f"a step fails on what a rank has ({type(error).__name__}: {text})"
            raise ValueError(refusal(wrong, strategy, model, learner)) from error
        if not wrong:
            return
    shard.close()
    raise ValueError(refusal(wrong, strategy, model, learner))


def is_reader_s(error: Exception) -> bool:
    """Was it raised neither by the kit, which has said why, nor by an exchange with a rank that is gone?"""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return not frames[-1].startswith(("dlkit.", "torch.distributed."))


def refusal(wrong: str, strategy: str, model: nn.Module, learner: Learner) -> str:
    return (
        f"under {strategy} {wrong}: {class_name(learner)} or a forward in {class_name(model)} takes a part of a layer "
        "for the whole, as a norm of weights does: leave it out and give the Experiment a weight_decay, or use "
        "DataParallel, under which a rank has whole layers."
    )


class _Trial:
    """One batch, `rows` of `images`, learned by one process and by the shard, with weights of each of `SCALES`."""

    def __init__(self, shard: Any, run: Any, model: nn.Module, learner: Learner, images: Batch, rows: Tensor):
        self.shard, self.run, self.started = shard, run, (model, learner)
        self.images, self.rows = images, rows

    def wrong(self) -> str:
        """What is not what it is alone, in words that all ranks share; "" if all is."""
        own, draws = self.images.images.dtype, self.shard.draws
        converts = not any(map(is_shell, self.shard.model.parameters()))
        converts = converts and (draws is None or draws.takes_any_dtype)
        for dtype in dict.fromkeys((torch.float64, own) if converts else (own,)):
            wholes = [self.alone(dtype, scale) for scale in SCALES]
            finite = [None if whole is None else bool(whole.gradient.norm().isfinite()) for whole in wholes]
            everywhere = self.agreed(finite)
            if not any(None in one for one in everywhere):
                break
        tolerance, found = TOLERANCE if dtype == torch.float64 else ROUNDED, []
        for scale, whole, *ranks in zip(SCALES, wholes, *everywhere, strict=True):
            if whole is not None and all(ranks):
                with _on_trial(self.shard, dtype, scale):
                    metrics = self.pass_of_shard(dtype)
                    if difference(whole, whole, self.shard, metrics, tolerance):
                        moved = self.alone(dtype, scale, MOVED * torch.finfo(dtype).eps) or whole
                        found.append(difference(whole, moved, self.shard, metrics, tolerance))
        return next((wrong for one in self.agreed(found) for wrong in one if wrong), "")

    def agreed(self, item: Any) -> list[Any]:
        return self.shard.group.gather_objects(item)

    def alone(self, dtype: torch.dtype, scale: float, moved: float = 0.0) -> Outcome | None:
        """moved: how far each weight is, relative to itself, up or down. None if the reader's code fails."""
        labels = None if self.images.labels is None else self.images.labels[self.rows]
        batch = Batch(self.images.images[self.rows].to(dtype), labels)
        model, started = self.started[0], self.started
        with suppress(Exception):  # it may want its own dtype, and else the first step will say it
            return outcome(self.run, model, batch, None, 0, dtype, scale, moved=moved, started=started)
        return None

    def pass_of_shard(self, dtype: torch.dtype) -> Metrics:
        generator = ShardedGenerator(self.run.generator.device)
        generator.set_state(self.run.generator.get_state())
        batch = self.shard.select(Batch(self.images.images.to(dtype), self.images.labels), self.rows)
        with self.run.own_generators(0):
            return self.shard.fill_grad(batch, generator)


def difference(whole: Outcome, moved: Outcome, shard: Any, metrics: Metrics, tolerance: float) -> str:
    """What of the shard's is no part of the whole's, in words; moved: the whole's at weights a little further."""
    for name, value in whole.metrics.items():
        allowed = tolerance * max(abs(value), 1.0) + 10 * abs(moved.metrics[name] - value)
        if name not in metrics or not abs(value - float(metrics[name])) <= allowed:
            return f'"{name}" of the first images is not what it is alone'
    trained = [(name, p) for name, p in whole.model.named_parameters() if p.requires_grad]
    sizes = [p.numel() for _, p in trained]
    vectors = zip(trained, whole.gradient.split(sizes), moved.gradient.split(sizes), strict=True)
    own, floor = dict(shard.model.named_parameters()), 1e-3 * tolerance * whole.gradient.norm() + 1e-12
    for (name, p), gradient, further in vectors:
        if name in own:  # a rank may have some of them
            allowed = tolerance * gradient.norm() + floor + 10 * (further - gradient).norm()
            grad = torch.zeros_like(own[name]) if own[name].grad is None else own[name].grad
            part = gradient.view_as(p)
            if is_shell(grad):
                grad = shard.gather(name, grad)
            else:
                part = shard.scatter(name, part)
            if grad.shape != part.shape or not (grad.double() - part).norm() <= allowed:
                return f"the gradient of {name} is not what it is alone"
    buffers, further = (
        {name: shard.scatter(name, value) for name, value in outcome.model.named_buffers()}
        for outcome in (whole, moved)
    )
    for kind, own, parts, others in (
        ("the buffer {}", dict(shard.model.named_buffers()), buffers, further),
        ('state["{}"]', shard.learner.state, whole.state, moved.state),
    ):
        for name, part in parts.items():
            value, part, other = (x.double() for x in (own.get(name, part), part, others.get(name, part)))
            if value.shape == part.shape:
                allowed = 1e-8 + tolerance * part.abs() + 10 * (other - part).abs().nan_to_num(0.0)
                if not ((value - part).abs() <= allowed).all() and not torch.equal(value, part):
                    return f"{kind.format(name)} is after a step not what it is alone"
    return ""


@contextmanager
def _on_trial(shard: Any, dtype: torch.dtype, scale: float) -> Iterator[None]:
    """Context in which the shard's weights are `scale` times as large, in `dtype`, and nothing is recorded.

    Buffers, the learner's attributes, and what modules keep in theirs are copies meanwhile.
    """
    parameters = [(p, p.detach().clone() if is_shell(p) else p.data) for p in shard.model.parameters()]
    modules = list(shard.model.modules())
    attributes = [(vars(kept), dict(vars(kept))) for kept in (*modules, shard.learner)]
    memo: dict[int, Any] = {id(kept): kept for kept in (*modules, *shard.model.parameters())}
    shard.recorder.on_trial = True
    try:
        for buffer in shard.model.buffers():
            memo[id(buffer)] = in_dtype(buffer, dtype)
        for module in modules:
            own = vars(module)
            own["_buffers"] = {name: memo.get(id(buffer)) for name, buffer in module._buffers.items()}
            for name in own.keys() - OF_MODULES:
                if isinstance(own[name], CHANGED_IN_PLACE):
                    with suppress(Exception):  # of what cannot be copied
                        own[name] = copy.deepcopy(own[name], memo)
        vars(shard.learner).update(copy.deepcopy(vars(shard.learner), memo))
        shard.learner.state.update({name: in_dtype(value, dtype) for name, value in shard.learner.state.items()})
        for parameter, value in parameters:  # scaled before: that is rounded as in one process
            put(parameter, in_dtype(value * scale if parameter.requires_grad else value, dtype))
        yield
    finally:
        for parameter, value in parameters:
            parameter.grad = None
            put(parameter, value)
        for own, before in attributes:
            own.clear()
            own.update(before)
        shard.recorder.on_trial = False


def is_shell(parameter: Tensor) -> bool:
    """Is it, as a DTensor, a shell around a tensor that holds the values?"""
    return is_traceable_wrapper_subclass(parameter)


def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Give a parameter other values, by other memory where it is no shell."""
    if is_shell(parameter):
        with torch.no_grad():
            parameter.copy_(value)
    else:
        parameter.data = value


def in_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy, in `dtype` if it is of floats."""
    return value.detach().to(dtype if value.is_floating_point() else value.dtype, copy=True)
