"""What a pass of the learner does besides its gradient, found by trial on copies before the first step."""

import copy
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.core.draw_plan import DrawPlan, plan_draws
from dlkit.core.global_generators import moved_by, seeded
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.training.learner import Metrics

NUMBERS = (int, float, str, type(None))  # and the like, in which no model is kept


@dataclass(frozen=True)
class Trial:
    """generators: the global ones that a pass draws from. plan: of its draws from torch's; None if there are none, or
    if `why_no_plan` says why not. repeats: whether the same state gave the same gradient twice.
    """

    generators: tuple[str, ...] = ()
    plan: DrawPlan | None = None
    why_no_plan: str = ""
    repeats: bool = True

    def refuse_split(self, strategy: Any, model: nn.Module) -> None:
        """ValueError if ranks could not be kept in step under the strategy."""
        hooked = [name for name, p in model.named_parameters() if p._backward_hooks or p._post_accumulate_grad_hooks]
        if hooked:
            raise ValueError(
                f"{hooked[0]} has a hook on its gradient, which {type(strategy).__name__} makes of parts: do it in the "
                "step of an optimizer of your own, or train in one process."
            )
        why = "" if self.repeats else "the same state does not give the same gradient twice"
        if why := why or self.why_no_plan:
            raise ValueError(
                f"{type(strategy).__name__} cannot keep ranks in step, for {why}: draw by Dropout, torch.rand, "
                "torch.randn or dlkit.core.random, or train in one process."
            )


def try_passes(run: Any) -> Trial:
    """A few passes on the first images: three of them, or a batch if fewer will not do.

    UserWarning, which names the net, if what it gives does not follow from its parameters, buffers, and generators that
    a run can seed.
    """
    trial = Trial()
    for images in (few_images(run), run.experiment.batch_size):
        with suppress(Exception):  # of the reader's code: it may want more images, and else the first step will say it
            trial = _try(run, images)
            break
    if not trial.repeats:
        warnings.warn(
            f"{type(run.model).__name__} under {run.learner} gave another gradient when it started from the same "
            "state: what it gives depends on a clock, on a generator or a value of its own, so that neither its runs "
            "nor a resumed one can be repeated; keep such values in a buffer, and draw by torch.rand or "
            "dlkit.core.random.",
            stacklevel=4,
        )
    return trial


def few_images(run: Any) -> int:
    """How many images a trial takes: all of a batch where the learner's state may have a row for each."""
    return run.experiment.batch_size if run.learner.state else 3


def _try(run: Any, images: int) -> Trial:
    passes = Passes(run, images)
    generators = moved_by(lambda: passes.step(run))
    repeats = True
    with suppress(RuntimeError):  # of a model that does not take its own state back
        repeats = passes.repeat(generators)
    if "torch" not in generators:
        return Trial(generators, repeats=repeats)
    if run.learner.state:
        return Trial(generators, None, "its learner has a state for each image", repeats)
    try:
        with seeded(0, names=generators):
            return Trial(generators, plan_draws(lambda images: Passes(run, images).passed()), repeats=repeats)
    except ValueError as error:
        return Trial(generators, None, str(error), repeats)


def copy_of(model: nn.Module, run: Any) -> nn.Module:
    """A copy of the run's model in the state of this one; made anew where it holds what cannot be copied."""
    try:
        return copy.deepcopy(model)
    except (TypeError, RuntimeError):  # a generator, say
        made = run.experiment.initial_model(run.device).to(next(model.parameters()).dtype)
        made.load_state_dict(model.state_dict())
        return made


def copies_of(model: nn.Module, learner: Any, run: Any, started_on: nn.Module) -> tuple[nn.Module, Any]:
    """Copies of both; what the learner keeps of the model that it was started on is the copy's in its copy."""
    copied = copy_of(model, run)
    memo: dict[int, Any] = {}
    if all(name == "state" or isinstance(value, NUMBERS) for name, value in vars(learner).items()):
        return copied, copy.deepcopy(learner)
    for named in (nn.Module.named_modules, nn.Module.named_parameters, nn.Module.named_buffers):
        in_copy = dict(named(copied))
        memo.update({id(own): in_copy[name] for name, own in named(started_on) if name in in_copy})
    return copied, copy.deepcopy(learner, memo)


class Passes:
    """Passes of copies of the run's model and learner over its first images; the run is left as it was."""

    def __init__(self, run: Any, images: int, weight: float = 1.0):
        """images: how many, of the first. weight: of the batch that they are."""
        self.model, self.learner = copies_of(run.model, run.learner, run, run.model)
        self.batch, self.weight = run.first_images(images), weight
        self.generator = ShardedGenerator(run.generator.device)
        self.state = run.generator.get_state()
        self.gradient: list[Tensor] = []

    def __call__(self) -> Metrics:
        """One pass, from the run's state; its metrics. The global generators must be seeded."""
        self.generator.set_state(self.state)
        labels = None if self.batch.labels is None else self.batch.labels.clone()
        batch = Batch(self.batch.images.clone(), labels, self.weight)
        metrics = self.learner.fill_weighted_grad(self.model, batch, self.generator)
        self.gradient = [p.grad.detach().to_dense().clone() for p in self.model.parameters() if p.grad is not None]
        return metrics

    def passed(self) -> Any:
        """The model, after a pass."""
        self()
        return self.model

    def step(self, run: Any) -> None:
        """A pass, and a step of the optimizer; what that cannot do, it will say when it is asked in earnest."""
        self()
        with suppress(Exception):
            run.make_optimizer(self.model).step(lambda: torch.zeros(()))

    def repeat(self, generators: tuple[str, ...]) -> bool:
        """Whether two passes from the same parameters, buffers, learner's state and generators have one gradient."""
        model = {name: value.clone() for name, value in self.model.state_dict().items()}
        learner = {name: value.clone() for name, value in self.learner.state.items()}
        found = []
        for _ in range(2):
            self.model.load_state_dict(model)
            self.learner.state.update({name: value.clone() for name, value in learner.items()})
            for parameter in self.model.parameters():
                parameter.grad = None
            with seeded(0, names=generators):
                self()
            found.append(self.gradient)
        exact = {} if self.batch.images.device.type == "cuda" else {"rtol": 0.0, "atol": 0.0}  # its sums vary
        pairs = zip(*found, strict=True)
        return len(found[0]) == len(found[1]) and all(torch.allclose(*pair, equal_nan=True, **exact) for pair in pairs)
