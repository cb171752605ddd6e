"""What a Sandblaster run is to be, and what it refuses."""

import copy
from dataclasses import dataclass, fields
from typing import Any

import torch

from dlkit.core.global_generators import seeded
from dlkit.core.random import ShardedGenerator
from dlkit.strategies.learner_trial import refuse_what_does_not_add_up
from dlkit.strategies.sandblaster.lbfgs import Settings
from dlkit.strategies.sandblaster.portions import PortionQueue
from dlkit.training.fine_tuning import LineSearches
from dlkit.training.run import Run

TRIED = 48  # images
MEND = 'optimizer=partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"), momentum=None, lr=1'


@dataclass(frozen=True, kw_only=True)
class ByPortions:
    """Sandblaster's settings, and what they refuse; how it is carried out is not here."""

    servers: int = 1
    portions: int = 32
    together: int = 4
    backups: int = 8

    def __post_init__(self):
        for field in fields(self):
            least, value = (0 if field.name == "backups" else 1), getattr(self, field.name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{field.name}={value!r}: a whole number, at least {least}.")

    def queue(self) -> PortionQueue:
        """Of a batch at one point."""
        return PortionQueue(self.portions, together=self.together, backups=self.backups)

    def settings(self, run: Run) -> Settings:
        """The optimizer's. ValueError for another one, for a loss that is drawn, and for what does not add up."""
        optimizer: Any = run.optimizer
        given = optimizer.param_groups[0]
        if not isinstance(optimizer, torch.optim.LBFGS) or given["line_search_fn"] != "strong_wolfe":
            raise ValueError(
                f"Sandblaster is L-BFGS with line searches, and the optimizer is {type(optimizer).__name__}: {MEND}."
            )
        if draws(run):
            raise ValueError(
                f"{type(run.model).__name__} draws random numbers, so that its loss is another one each time, and a "
                "line search finds nothing: leave them out, such as Dropout, or use Downpour."
            )
        if run.experiment.batch_size < self.portions:
            raise ValueError(
                f"a batch of {run.experiment.batch_size} in {self.portions} portions: take fewer, or make batch_size "
                "larger."
            )
        refuse_what_does_not_add_up(run, "Sandblaster", in_turn=True)
        names = ("max_iter", "max_eval", "tolerance_grad", "tolerance_change", "history_size")
        values = {name: given[name] for name in names}
        return Settings(lr=float(given["lr"]), forgets=isinstance(optimizer, LineSearches), **values)


def draws(run: Run) -> bool:
    """Is the gradient on the first images another one with other random numbers?"""
    batch, gradients = run.first_images(min(run.experiment.batch_size, TRIED)), []
    for seed in (0, 1):
        model, learner = copy.deepcopy((run.model, run.learner))
        with seeded(seed, 0):
            learner.fill_weighted_grad(model, batch, ShardedGenerator(run.generator.device).manual_seed(seed))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    return not all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))
