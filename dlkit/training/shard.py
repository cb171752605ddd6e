"""What one process has of a run: all of it, or the shard that a strategy gives it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from dlkit.core.draw_plan import DrawPlan
from dlkit.core.draws import ShardedDraws
from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch
from dlkit.training.learner import Learner
from dlkit.training.optimizer_state import Settings, pack_optimizer, unpack_optimizer


@runtime_checkable
class Strategy(Protocol):
    """How a run is split. Each rank calls it with the same run: its model whole, its learner started."""

    def shard(self, run: Any) -> "Shard":
        """This rank's shard of the run. ValueError, with the reason, if the run cannot be split so."""
        ...


@runtime_checkable
class OwnLoop(Protocol):
    """A strategy whose ranks take no common steps, and so has a loop of its own."""

    def run_on_ranks(self, experiment: Any, **settings: Any) -> Any:
        """The result of `Experiment.run` with these settings, on each rank."""
        ...


class Shard:
    """All of a run. A strategy's shards say how ranks take a step together, and how their parts make up the whole.

    A checkpoint, and the model that comes back, are always whole: a run can go on split otherwise.
    """

    rank, world_size = 0, 1
    replicas = 1  # models that are trained apart
    model_is_whole = True
    draws: ShardedDraws | None = None  # of the net's own draws, where they must be made for a whole batch

    def __init__(self, model: nn.Module, learner: Learner):
        self.model, self.learner = model, learner
        self.names = trained(model)
        self.settings: Settings = []  # of the optimizer's parameter groups before the first step

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, rank {self.rank} of {self.world_size})"

    def select(self, data: Batch, indices: Int64[Tensor, " batch"]) -> Batch:
        """The rows of `data`, of those that make up a batch, that this rank learns from: here all."""
        labels = None if data.labels is None else data.labels.index_select(0, indices)
        return Batch(data.images.index_select(0, indices), labels)

    def fill_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        """Fill .grad of the parameters on this rank; the metrics are the whole batch's."""
        with self.drawing_for(batch):
            return self.learner.fill_weighted_grad(self.model, batch, generator)

    def sharded_draws(self, plan: DrawPlan) -> ShardedDraws | None:
        """How this rank makes the net's own draws; None if torch makes them as they should be."""
        return ShardedDraws(plan, model=self.model) if plan.depends_on_values else None

    def drawing_for(self, batch: Batch) -> AbstractContextManager[object]:
        """Context of the passes of a batch, of which this rank may have a part: the net's draws are the whole's."""
        if self.draws is None:
            return nullcontext()
        rows = batch.rows or Slice(0, len(batch), len(batch))
        return self.draws.part_of(rows.start, rows.count, rows.whole)

    @property
    def has_a_part(self) -> bool:
        """Has this rank a part of the one model that is trained?"""
        return not self.model_is_whole and self.replicas == 1 and self.world_size > 1

    def refuse_wrong_parts(self, run: Any, strategy: str, model: nn.Module, learner: Learner) -> None:
        """ValueError unless ranks with parts of a model learn what it learns whole; both as before the split."""

    def after_step(self, step: int) -> None:
        """Called when the optimizer has taken a step."""

    def reduce_metrics(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums of metrics over all ranks, for a row of the history."""
        return sums

    def agree_to_stop(self, asked: str | None, step: int) -> str | None:
        """Why to stop after this step, if the ranks agree to; `asked`: why this rank was asked to, or None."""
        return asked

    def on_first_rank(self, write: Callable[[], None]) -> None:
        """Let rank 0 write something; an OSError there is raised on all ranks, which so stay in step."""
        write()

    def agree_at_row(self, asked: str | None, changed: bool, step: int) -> str | None:
        """Why to stop after this step, at the end of which all ranks make a row; `asked` as above, of any rank.

        changed: have callbacks changed this rank's weights? ValueError if ranks cannot take that.
        """
        return asked

    def close(self) -> None:
        """Called when the run has ended."""

    def gather(self, name: str, part: Tensor) -> Tensor:
        """The whole of a parameter, a buffer, or what is kept beside it, of which this rank has a part."""
        return part

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of such a whole."""
        return whole

    def optimized(self) -> dict[str, nn.Parameter]:
        """What the optimizer has of each parameter on this rank, by name."""
        return dict(self.model.named_parameters())

    # The whole's state, as a checkpoint keeps it.

    def model_state(self) -> dict[str, Tensor]:
        return {name: self.gather(name, value) for name, value in self.model.state_dict().items()}

    def load_model(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict({name: self.scatter(name, state[name]) for name in self.model.state_dict()})

    def learner_state(self) -> dict[str, Tensor]:
        return dict(self.learner.state)

    def load_learner(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        for name, value in state.items():
            own = self.learner.state.get(name)
            if own is not None and (own.shape, own.dtype) == (value.shape, value.dtype):
                with torch.no_grad():
                    own.copy_(value)  # where a captured pass looks for it
            else:
                self.learner.state[name] = value.to(device)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The whole's tensors and numbers, by the index of their parameter among all that are trained."""
        tensors, numbers = pack_optimizer(optimizer, self.settings)
        parameters = self.optimized()
        packed = {}
        for key, value in tensors.items():
            _, index, kind = key.split(".", 2)
            name = trained(self.model)[int(index)]
            whole = self.gather(name, value) if value.shape == parameters[name].shape else value
            packed[f"optimizer.{self.names.index(name)}.{kind}"] = whole
        return packed, numbers

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        own = trained(self.model)
        packed = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, kind = key.split(".", 2)
                name = self.names[int(index)]
                if name in own:
                    whole = self.scatter(name, value) if value.ndim else value
                    packed[f"optimizer.{own.index(name)}.{kind}"] = whole
        unpack_optimizer(optimizer, packed, numbers)


def trained(model: nn.Module) -> list[str]:
    """The names of the parameters that are trained, in the optimizer's order: weights, then biases."""
    weights, biases = weights_and_biases(model)
    return weights + biases


def weights_and_biases(model: nn.Module) -> tuple[list[str], list[str]]:
    """The names of trained weights, and of trained biases: a layer without shared weights has one at each position."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    biases = [name for name, p in named if p.ndim <= 1 or name.split(".")[-1] == "bias"]
    return [name for name, _ in named if name not in biases], biases
