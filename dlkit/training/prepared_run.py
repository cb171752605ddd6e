"""A run before its first step: data, model, learner, this process's shard and the optimizer, each of them tried."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dlkit.core.global_generators import seeded
from dlkit.core.imports import import_what_optimizers_need
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.data.mapped import check_memory
from dlkit.data.sources import resolve
from dlkit.distributed.gpu import own_device
from dlkit.distributed.process_group import enter_group, has_ranks
from dlkit.training.capture import captured
from dlkit.training.checkpoint import layers_of
from dlkit.training.first_model import check_trainable, on_its_own
from dlkit.training.history import History
from dlkit.training.optimizer_state import group_settings
from dlkit.training.refusals import refuse_a_lone_image
from dlkit.training.resume_trial import refuse_what_is_lost
from dlkit.training.shard import Shard, Strategy, weights_and_biases
from dlkit.training.trial import copies_of, try_passes

M = TypeVar("M", bound=nn.Module)
START = -1  # in place of a step, for what is drawn before the first


class PreparedRun(Generic[M]):
    """What a run begins with, and what trials ask of it: its first images, the generators of a step, its optimizer."""

    def __init__(
        self,
        experiment: Any,
        steps: int | None,
        device: torch.device,
        rng_device: str | None,
        strategy: Strategy | None = None,
        *,
        capture: bool = True,
        kept: bool = False,
    ):
        """kept: whether it is to be kept in a checkpoint, and must then be able to go on from one."""
        if strategy is not None and has_ranks():
            enter_group()  # before anything is made on a GPU: it says which is this rank's
        device = own_device(device, as_rank=strategy is not None)
        self.experiment = experiment
        self.device = device
        self.data = resolve(experiment.data, experiment.dtype)
        images, labels = self.data.images, self.data.labels
        if len(images) < experiment.batch_size:
            raise ValueError(f"{len(images)} images for batches of {experiment.batch_size}: make batch_size smaller.")
        if device.type == "cuda":
            check_memory(images.nbytes, f"the images, on {device},", device)
        self._on_device = Batch(images.to(device), None if labels is None else labels.to(device))
        self.history = History()
        self.step = 0
        self.seconds = 0.0
        self.stopped: str | None = None
        self._asked: str | None = None  # this process, to stop; the others may not know of it
        self._sums: dict[str, Tensor] = {}
        self._row_start = (0, 0.0, 0)  # step, seconds, images at the last row
        self._images = 0
        self.steps_per_epoch = -(-len(images) // experiment.batch_size)
        self.total_steps = steps if steps is not None else experiment.epochs * self.steps_per_epoch
        with seeded(experiment.seed, START):
            model = on_its_own(experiment.initial_model(), experiment.model)
            self.model = model.to(device)  # none of it is the reader's own now
        check_trainable(self.model, images.dtype, strategy is not None)
        self.model_class = type(self.model).__name__
        self.layers = layers_of(self.model)
        self.shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        self.learner = copy.deepcopy(experiment.learner)
        self.generator = ShardedGenerator(rng_device or device)
        self.generator.manual_seed(experiment.seed)
        with seeded(experiment.seed, START):
            self.learner.start(self.model, self._on_device, experiment.batch_size, self.generator)
            refuse_a_lone_image(self)
            self.trial = try_passes(self)
            if kept:
                refuse_what_is_lost(self)
            self.shard = self._shard(strategy)
        self.model: M = self.shard.model  # type: ignore[assignment]
        self.captured, self.why_not_captured = captured(self) if capture else (None, "capture=False")
        self.optimizer = self.make_optimizer(self.model, self.shard.optimized())
        self.shard.settings = group_settings(self.optimizer)

    def make_optimizer(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter] | None = None
    ) -> torch.optim.Optimizer:
        """The experiment's optimizer, of the model's weights and of its biases. ValueError if it takes no momentum.

        parameters: what it is given, by name, where that is not the model's own.
        """
        experiment, parameters = self.experiment, parameters or dict(model.named_parameters())
        weights, biases = ([parameters[name] for name in names] for names in weights_and_biases(model))
        import_what_optimizers_need()
        optimizer = experiment.make_optimizer(weights, biases)
        if experiment.momentum and "momentum" not in optimizer.defaults:
            raise ValueError(f"{type(optimizer).__name__} takes no momentum: leave momentum out of the Experiment.")
        return optimizer

    def end_replays(self, why: str) -> None:
        """Passes are no longer replayed, but made."""
        self.captured, self.why_not_captured = None, why

    def _shard(self, strategy: Strategy | None) -> Shard:
        """What this process has of the run. ValueError if a part of it would not learn what the whole does."""
        whole = None
        if strategy is not None:
            self.trial.refuse_split(strategy, self.model)
            whole = copies_of(self.model, self.learner, self, self.model)
        shard = Shard(self.model, self.learner) if strategy is None else strategy.shard(self)
        if self.trial.plan is not None:
            shard.draws = shard.sharded_draws(self.trial.plan)
        if whole is not None:
            shard.refuse_wrong_parts(self, type(strategy).__name__, *whole)
        return shard

    def own_generators(self, step: int) -> AbstractContextManager[object]:
        """Context in which the global generators that the net or the learner draws from are the run's, for this step.

        Each step has a seed of its own, so that a run that goes on, and ranks that drew otherwise, are in step.
        """
        if not self.trial.generators:
            return nullcontext()
        return seeded(self.experiment.seed, step, names=self.trial.generators)

    def _order(self, epoch: int) -> Tensor:
        """The order of the images in this epoch: it follows from the seed alone, so that a resumed run has it too."""
        return order_of(len(self._on_device.images), self.experiment.seed, epoch).to(self.device)

    def first_images(self, count: int) -> Batch:
        """The first images that the run trains on, and their labels, on its device; again from the first if there
        are fewer."""
        order = self._order(0)
        indices = order[torch.arange(count, device=order.device) % len(order)]
        return Shard(self.model, self.learner).select(self._on_device, indices)


def order_of(images: int, seed: int, epoch: int) -> Tensor:
    """In which order an epoch goes through so many images."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
