"""What strategies refuse before a run starts, each in a sentence with the mend."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch
from dlkit.training.learner import Backprop, Learner
from dlkit.training.schedules import at

# Optimizers that are not element by element: they take dot products, norms or factors of whole parameters.
USES_WHOLE_PARAMETERS = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon)
TRIED = 48  # images of the first batch
TOLERANCE = 1e-6  # of gradients in float64: relative to their norm


def class_name(instance: Any) -> str:
    return type(instance).__name__


def refuse_batch_statistics(model: nn.Module, strategy: str) -> None:
    """ValueError for layers that compute something else on a part of a batch, or on one of several ranks."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{path}, a {class_name(module)}, takes its statistics from a whole batch, and under {strategy} a rank "
                "sees a part: use nn.GroupNorm or nn.LayerNorm."
            )
    refuse_random(model, strategy)


def refuse_random(model: nn.Module, strategy: str) -> None:
    """ValueError for layers that draw from torch's global generator, which has another state on each rank."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"{path}, a {class_name(module)}, draws from torch's own generator, which {strategy} cannot keep in "
                "step: drop inputs by `CrossEntropy(distortion=InputDropout())`."
            )


def refuse_optimizer(experiment: Any, strategy: str, *refused: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """The experiment's optimizer, of one parameter. ValueError if it is `refused`, by default if not elementwise."""
    optimizer = experiment.optimizer([{"params": [nn.Parameter(torch.zeros(1, 1))]}], lr=at(experiment.lr, 0.0))
    if isinstance(optimizer, refused or USES_WHOLE_PARAMETERS):
        raise ValueError(
            f"{class_name(optimizer)} looks at whole parameters at once, and under {strategy} a rank has parts of "
            "them: use SGD or Adam."
        )
    return optimizer


def refuse_what_does_not_add_up(run: Any, strategy: str) -> None:
    """ValueError unless the gradient on a batch is the weighted sum of those on its two parts, as a trial shows.

    The trial is on the first images of the first batch, `TRIED` or, where a learner has a state for each image of a
    batch, all. It is on copies, in float64 where they can be, with the same random numbers; the run is left as it was.
    The parts are a third and two thirds, so that a forgotten weight shows. Scalars reported are tried as well.
    """
    batch = run.first_batch(None if run.learner.state else TRIED)
    count = len(batch)
    if count < 2:
        return
    cut = max(count // 3, 1)
    parts = [Slice(0, cut, count), Slice(cut, count, count)]
    try:
        wrong = _trial(run, batch, parts, torch.float64, TOLERANCE)
    except (RuntimeError, TypeError, ValueError):  # it may want the dtype that it has
        wrong = _trial(run, batch, parts, None, tolerance=0.01)
    if wrong:
        raise ValueError(
            f"under {strategy} a rank learns from a part of each batch, and {wrong} that {class_name(run.learner)} "
            "gives for the first batch differs from the weighted sum of those for its two parts: fill_grad and loss "
            "must be means over the images of a batch, and must draw random numbers by dlkit.core.random from the "
            "generator; or train in one process."
        )


def refuse_passes_of_its_own(run: Any, strategy: str, mend: str) -> None:
    """ValueError unless the learner's gradient is that of its `loss`, as a trial on the first images shows.

    A learner that overrides `fill_grad`, to penalise a gradient say, may do more than a strategy that runs the net
    itself can do in its place.
    """
    if type(run.learner).fill_grad is Backprop.fill_grad:
        return
    batch = run.first_batch(TRIED)
    own = _gradient(run, batch, None, 0, None)
    try:
        plain = _gradient(run, batch, None, 0, None, Backprop.fill_grad)
        same = torch.equal(own[0], plain[0])
    except (AttributeError, NotImplementedError):  # it has no loss
        same = False
    if not same:
        raise ValueError(
            f"{class_name(run.learner)} fills gradients by a fill_grad of its own, and {strategy} backpropagates "
            f"through its `loss` alone: {mend}."
        )


def _trial(run: Any, batch: Batch, parts: list[Slice], dtype: torch.dtype | None, tolerance: float) -> str:
    """What of the whole batch's is not the sum of its parts', in words; "" if all is."""
    whole = _gradient(run, batch, None, 0, dtype)
    first, second = (_gradient(run, batch, part, rank, dtype) for rank, part in enumerate(parts))
    return _difference(whole, first, second, tolerance)


def _gradient(
    run: Any, batch: Batch, part: Slice | None, rank: int, dtype: torch.dtype | None, fill: Any = None
) -> tuple[Tensor, dict[str, float]]:
    """All gradients as one vector, and the scalars, for a batch or for a part of it, from copies of the run's."""
    model, learner = copy.deepcopy(run.model), copy.deepcopy(run.learner)
    generator = ShardedGenerator(run.generator.device)
    generator.set_state(run.generator.get_state())
    if dtype is not None:
        model.to(dtype)
        batch = Batch(batch.images.to(dtype), batch.labels)
        for name, value in learner.state.items():
            learner.state[name] = value.to(dtype) if value.is_floating_point() else value
    if part is not None:
        learner.split(rank, 2)
        labels = None if batch.labels is None else batch.labels[part.start : part.stop]
        batch = Batch(batch.images[part.start : part.stop], labels, part.count / part.whole, part)
        generator.rows = part
    metrics = (fill or type(learner).fill_weighted_grad)(learner, model, batch, generator)
    gradients = [p.grad.flatten().double() for p in model.parameters() if p.requires_grad and p.grad is not None]
    return torch.cat(gradients), {name: float(value) for name, value in metrics.items()}


def _difference(whole: Any, first: Any, second: Any, tolerance: float) -> str:
    gradient, metrics = whole
    if not len(gradient) == len(first[0]) == len(second[0]):
        return "the number of gradients"
    if (gradient - first[0] - second[0]).norm() > tolerance * gradient.norm() + 1e-12:
        return "the gradient"
    for name, value in metrics.items():
        if abs(value - first[1][name] - second[1][name]) > tolerance * max(abs(value), 1.0):
            return f'"{name}"'
    return ""


def check_learner(learner: Any, kind: type[Learner], why: str) -> None:
    """ValueError, which begins with the learner's class and goes on with `why`, unless it is of the kind."""
    if not isinstance(learner, kind):
        raise ValueError(f"{class_name(learner)} {why}")
