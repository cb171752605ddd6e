"""By layers: every rank has some that follow one another, and microbatches flow through the ranks as down a line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from dlkit.core.matmul import fast_linear
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.strategies.base import DistributedShard, kind, refuse_optimizer, refuse_what_differs
from dlkit.strategies.pipeline.partition import Block, best_cut, cut_at_weights, divisors, weigh
from dlkit.strategies.pipeline.stage import Log, OnWire, Stage, bubble, measured_bubble
from dlkit.training.learner import Backprop, Splits
from dlkit.training.shard import trained

__all__ = ["Pipeline", "bubble", "measured_bubble"]

SCHEDULES = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


@dataclass(frozen=True)
class Pipeline:
    """Each rank has a stage of the net, layers that follow one another; a batch goes through it in `microbatches`.

    Activations go to the next rank, gradients to the one before. schedule: "gpipe", all forward passes, then all
    backward ones; "1f1b", each stage turns to a backward pass as soon as there is one, and so keeps the activations of
    no more microbatches than there are stages. `stages`: names, or positions in the net, of the modules with which the
    second and later stages begin; by default the cut is where the slowest stage has least to do, by the
    multiplications of both passes and the values that layers give.
    A last batch that does not divide goes in fewer microbatches; where those are fewer than the stages, by GPipe.
    Callbacks see this rank's stage in `run.model`, other layers being nn.Identity: to call it there makes no sense.
    Spans of kind "compute" are the passes of a microbatch, F3 and B3 and on the last stage L3, its loss; their `number`
    is that of the batch. A send is noted when it is handed over: it goes on beside what follows.
    Sources: Huang et al. 2019, GPipe: efficient training of giant neural networks using pipeline parallelism, §2.2;
    Narayanan et al. 2019, PipeDream: generalized pipeline parallelism for DNN training, §3.2 (1F1B; here, as in GPipe,
    all take a step when the batch is through).
    """

    microbatches: int = 4
    schedule: str = "1f1b"
    stages: Sequence[str | int] | None = None

    def __post_init__(self):
        if self.microbatches < 1:
            raise ValueError(f"microbatches={self.microbatches}: at least 1.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f'schedule="{self.schedule}": it is one of {", ".join(SCHEDULES)}.')

    def shard(self, run: Any) -> "PipelineShard":
        """ValueError, with the reason, for nets that are no chain of enough layers, and for what needs more of one."""
        if not isinstance(run.learner, Backprop):
            raise ValueError(
                f"{kind(run.learner)} has no loss of a net's answer, and so no backward pass from stage to stage: "
                "Pipeline is for CrossEntropy and Reconstruction, and DataParallel splits the batch."
            )
        if isinstance(run.learner, Splits):
            run.learner.split(0, 1)  # a microbatch is a part of a batch
        refuse_optimizer(run.experiment, "Pipeline", torch.optim.LBFGS)
        refuse_what_differs(run.model, "Pipeline")
        size = run.experiment.batch_size
        if size % self.microbatches:
            close = sorted(sorted(divisors(size), key=lambda n: abs(n - self.microbatches))[:3])
            some = f"{', '.join(map(str, close[:-1]))} or {close[-1]} do"
            raise ValueError(f"a batch of {size} does not divide into {self.microbatches} microbatches: {some}.")
        return PipelineShard(run, run.learner, self)


class PipelineShard(DistributedShard):
    """One stage: the net with nn.Identity in place of the layers of other ranks."""

    model_is_whole = False

    def __init__(self, run: Any, learner: Backprop, strategy: Pipeline):
        blocks = cut_at_weights(run.model)
        super().__init__(run.model, run.learner)
        if strategy.schedule == "1f1b" and strategy.microbatches < self.world_size:
            raise ValueError(
                f"microbatches={strategy.microbatches} does not fill {self.world_size} stages: 1F1B needs one for "
                'each, and schedule="gpipe" does not.'
            )
        if len(blocks) < self.world_size:
            raise ValueError(
                f"{self.world_size} ranks need a layer with weights each, and this {kind(run.model)} has "
                f"{len(blocks)}: use fewer ranks."
            )
        self.strategy, self.backprop, self.device = strategy, learner, run.device
        images, labels = run.data.images[:2].to(run.device), run.data.labels
        self.batch = Batch(images, None if labels is None else labels[:2].to(run.device))
        inputs = learner.inputs(self.batch, torch.Generator(run.generator.device)).clone()
        costs, between = weigh(blocks, inputs)
        starts = best_cut(costs, self.world_size) if strategy.stages is None else self.asked(strategy.stages, blocks)
        begins = (0, *starts, len(blocks))
        for place, block in enumerate(blocks):
            if not begins[self.rank] <= place < begins[self.rank + 1]:
                for name, _ in block:
                    self.model.set_submodule(name, nn.Identity())
        self.comes, self.goes = (between[place] for place in begins[self.rank : self.rank + 2])
        self.reported = list(learner.loss(between[-1], self.batch)[1])
        self.reports: list[dict[str, Tensor]] = []
        self.schedules: dict[int, Schedule1F1B | ScheduleGPipe] = {}
        self.log = Log(self.recorder, run.device)

    def asked(self, stages: Sequence[str | int], blocks: list[Block]) -> list[int]:
        """The pieces with which stages begin. ValueError if nothing that is asked for can be one."""
        tops = list(self.model._modules)
        names = [tops[x] if isinstance(x, int) and 0 <= x < len(tops) else x for x in stages]
        firsts = [block[0][0] for block in blocks]
        found = [next((i for i, first in enumerate(firsts) if f"{first}.".startswith(f"{x}.")), 0) for x in names]
        if 0 in found or found != sorted(set(found)):
            raise ValueError(
                f"stages={list(stages)}: give, in the net's order, the layers with which the second and later stages "
                f"begin, of those with weights: {', '.join(firsts[1:])}."
            )
        if len(found) != self.world_size - 1:
            raise ValueError(
                f"stages={list(stages)} makes {len(found) + 1} stages, and there are {self.world_size} ranks: give "
                f"{self.world_size - 1} in all."
            )
        return found

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> dict[str, Tensor]:
        self.model.zero_grad()
        x = self.backprop.inputs(batch, generator).contiguous()
        self.batch, self.reports = batch, []
        self.log.batches += 1
        given = (x,) if self.rank == 0 else ()
        rows = torch.arange(len(x), device=x.device) if self.rank == self.world_size - 1 else None
        with fast_linear(self.model, len(x) // self.parts(len(x))):
            self.schedule(len(x)).step(*given, target=rows, return_outputs=False)
        report = x.new_empty(len(self.reported))
        if self.reports:
            report.copy_(torch.stack([torch.stack([*each.values()]) for each in self.reports]).sum(0))
        self.group.broadcast(report, source=self.world_size - 1)
        return dict(zip(self.reported, report, strict=True))

    def loss(self, found: Tensor, rows: Tensor) -> Tensor:
        """Of a microbatch, these rows of the batch: with those of all others it makes the whole batch's."""
        begin = self.log.moment()
        labels = None if self.batch.labels is None else self.batch.labels[rows]
        share = Batch(self.batch.images[rows], labels, self.batch.weight * len(rows) / len(self.batch))
        loss, report = self.backprop.loss(found, share)
        self.log.computed(f"L{len(self.reports)}", begin)
        self.reports.append(report)
        return loss

    def parts(self, rows: int) -> int:
        """The microbatches of a batch: as many as asked for, or the most that it divides into."""
        return max(n for n in divisors(rows) if n <= self.strategy.microbatches)

    def schedule(self, rows: int) -> Schedule1F1B | ScheduleGPipe:
        """A batch of another size has a schedule of its own, since buffers are made for one size of microbatch."""
        if rows not in self.schedules:
            parts = self.parts(rows)
            wire = torch.device("cpu") if self.group.backend == "gloo" else self.device
            net = OnWire(self.model, self.device, self.device if self.rank == self.world_size - 1 else wire)
            comes, goes = (
                torch.empty(rows // parts, *x.shape[1:], dtype=x.dtype, device="meta", requires_grad=True)
                for x in (self.comes, self.goes)
            )
            stage = Stage(net, self.rank, self.world_size, wire, comes, goes, group=self.group.process_group)
            stage.log = self.log
            made = SCHEDULES[self.strategy.schedule] if parts >= self.world_size else ScheduleGPipe
            self.schedules[rows] = made(stage, parts, loss_fn=self.loss, scale_grads=False)
        return self.schedules[rows]

    # A rank has some tensors, and has them whole.

    def model_state(self) -> dict[str, Tensor]:
        return self.united(self.model.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, numbers = super().optimizer_state(optimizer)
        everywhere = self.group.gather_objects(renumbered(numbers, trained(self.model), self.names))
        return self.united(tensors), {key: value for each in everywhere for key, value in each.items()}

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        super().load_optimizer(optimizer, tensors, renumbered(numbers, self.names, trained(self.model)))

    def united(self, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What all ranks have, stage after stage, on each."""
        whole = {}
        for source, kinds in enumerate(self.group.gather_objects({k: (v.shape, v.dtype) for k, v in mine.items()})):
            for name, (shape, dtype) in kinds.items():
                whole[name] = torch.empty(shape, dtype=dtype, device=self.device)
                if source == self.rank:
                    whole[name].copy_(mine[name])
                self.group.broadcast(whole[name], source)
        return whole


def renumbered(numbers: Mapping[str, Any], before: list[str], after: list[str]) -> dict[str, Any]:
    """Of what is kept by the place of a parameter in `before`, what belongs to one of `after`, by its place there."""
    parted = [(*key.split(".", 1), value) for key, value in numbers.items()]
    named = [(before[int(index)], what, value) for index, what, value in parted]
    return {f"{after.index(name)}.{what}": value for name, what, value in named if name in after}
