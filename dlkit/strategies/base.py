"""What all strategies share: ranks that begin, stop and are counted together."""

import uuid
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group, enter_group
from dlkit.distributed.timeline import Recorder, Span, now
from dlkit.training.experiment import Experiment
from dlkit.training.learner import Learner
from dlkit.training.schedules import at
from dlkit.training.shard import Shard

# Not element by element: dot products, norms or factors of whole parameters.
LOOK_AT_ALL = (torch.optim.LBFGS, torch.optim.Adafactor, torch.optim.Muon)


class DistributedShard(Shard):
    """A share whose ranks stop after the same step; `group` is that of all ranks."""

    def __init__(self, model: nn.Module, learner: Learner):
        super().__init__(model, learner)
        enter_group()
        self.recorder = Recorder()
        self.group = Group(recorder=self.recorder)
        self.rank, self.world_size = self.group.rank, self.group.size
        name = self.group.gather_objects(uuid.uuid4().hex)[0]
        self.store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())
        self._begun = 0.0

    def fill_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        self._begun, self.recorder.counts = now(), True
        generator.rows = batch.rows
        try:
            return self.reduce_grad(batch, generator)
        finally:
            generator.rows = None

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        """What a strategy does in place of `Shard.fill_grad`."""
        return super().fill_grad(batch, generator)

    def after_step(self, step: int) -> None:
        self.recorder.add(Span("step", "step", self._begun, now(), number=step))
        self.recorder.counts = False

    def last_common(self, step: int) -> int:
        """A step after `step` that no rank can be past while rank 0 has just taken `step`."""
        return step + 1

    def agree_to_stop(self, asked: str | None, step: int) -> str | None:
        """Rank 0 names the step after which all stop. No rank is past it: none takes a step without rank 0."""
        if self.group.backend == "nccl":
            torch.cuda.synchronize()  # or a rank's Python would be steps ahead of what its GPU has exchanged
        if asked and self.rank > 0 and not self.store.check(["asked"]):
            self.store.set("asked", asked)
        if self.rank == 0 and not self.store.check(["stop"]):
            why = asked or (self.store.get("asked").decode() if self.store.check(["asked"]) else None)
            if why:
                self.store.set("stop", f"{self.last_common(step)} {why}")
        if not self.store.check(["stop"]):
            return None
        last, why = self.store.get("stop").decode().split(" ", 1)
        return why if step >= int(last) else None


def refuse_what_differs(model: nn.Module, name: str) -> None:
    """ValueError for layers that would do otherwise on a part of a batch, or on one of several ranks."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{path}, a {kind(module)}, takes its statistics from a whole batch, and under {name} a rank sees a "
                "part: use nn.GroupNorm or nn.LayerNorm."
            )
    refuse_random(model, name)


def refuse_random(model: nn.Module, name: str) -> None:
    """ValueError for layers that draw from torch's own generator, which is another on each rank."""
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"{path}, a {kind(module)}, draws from torch's own generator, which {name} cannot keep in step: "
                "drop inputs by `CrossEntropy(distortion=InputDropout())`."
            )


def refuse_optimizer(experiment: Experiment, name: str, *refused: type[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """The experiment's, of one parameter. ValueError if it is `refused`, by default if it looks at whole tensors."""
    optimizer = experiment.optimizer([{"params": [nn.Parameter(torch.zeros(1, 1))]}], lr=at(experiment.lr, 0.0))
    if isinstance(optimizer, refused or LOOK_AT_ALL):
        raise ValueError(
            f"{kind(optimizer)} looks at whole parameters at once, and under {name} a rank has parts of them: "
            "use SGD or Adam."
        )
    return optimizer


def kind(thing: Any) -> str:
    return type(thing).__name__
