"""Pipeline parallelism: every rank has some layers that follow one another, and microbatches go from rank to rank."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from dlkit.core.draw_plan import DrawPlan, count_draws
from dlkit.core.matmul import fast_linear
from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice
from dlkit.data.batch import Batch
from dlkit.models.sequence import layers_of
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.checks import check_learner, class_name, refuse_batch_statistics, refuse_optimizer
from dlkit.strategies.layer_cost import FLOAT, LayerCost, layer_cost, parameter_bytes
from dlkit.strategies.learner_trial import refuse_passes_of_its_own, refuse_what_does_not_add_up
from dlkit.strategies.pipeline.partition import (
    Block,
    best_cut,
    blocks_of,
    check_enough,
    divisors,
    measure_blocks,
    pass_through,
)
from dlkit.strategies.pipeline.stage import Log, OnWire, Stage
from dlkit.strategies.pipeline.stage_draws import StageDraws, draws_of_stage
from dlkit.training.learner import Backprop, Metrics
from dlkit.training.shard import trained
from dlkit.training.trial import copy_of

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
        """ValueError, with the reason, for nets that are no nn.Sequential of enough layers, or no loss."""
        check_learner(
            run.learner,
            Backprop,
            "has no loss of a net's output, and so no backward pass from stage to stage: Pipeline is for CrossEntropy, "
            "Reconstruction and other `Backprop` learners, and DataParallel splits the batch.",
        )
        run.learner.split(0, 1)  # refuses: a microbatch is a part of a batch
        refuse_optimizer(run.experiment, "Pipeline", has="some of them")
        refuse_batch_statistics(run.model, "Pipeline")
        refuse_passes_of_its_own(run, "Pipeline", "use DataParallel, or put all of it into `loss`")
        size = run.experiment.batch_size
        if size % self.microbatches:
            close = sorted(sorted(divisors(size), key=lambda n: abs(n - self.microbatches))[:3])
            some = f"{', '.join(map(str, close[:-1]))} or {close[-1]} do"
            raise ValueError(f"a batch of {size} does not divide into {self.microbatches} microbatches: {some}.")
        return PipelineShard(run, run.learner, self)

    def layer_costs(self, net: nn.Module, images: Tensor, batch_size: int, world_size: int) -> list[list[LayerCost]]:
        """Some layers that follow one another; activations go to the next rank, and gradients to the one before."""
        layers = layers_of(net, images, "Pipeline")
        blocks = blocks_of(net)
        check_enough(blocks, world_size, class_name(net))
        begins = self.starts(net, blocks, measure_blocks(blocks, images)[0], world_size)
        first = [blocks[index][0][0] for index in begins]
        ranks: list[list[LayerCost]] = [[] for _ in range(world_size)]
        stage = 0
        for layer in layers:
            begin, crossing = layer.name in first, FLOAT * prod(layer.input_shape) * batch_size
            if begin:
                ranks[stage][-1].forward = crossing
                stage += 1
            for rank, costs in enumerate(ranks):
                here = rank == stage
                activations = here * FLOAT * prod(layer.output_shape) * batch_size
                cost = layer_cost(
                    layer, "layer", Slice(0, int(here), 1), here * parameter_bytes(layer.module), activations
                )
                cost.backward = crossing if here and begin else 0
                costs.append(cost)
        return ranks

    def starts(self, net: nn.Module, blocks: list[Block], costs: Sequence[int], world_size: int) -> Sequence[int]:
        """The blocks with which the second and later stages begin. ValueError if `stages` names what cannot be one."""
        if self.stages is None:
            return best_cut(costs, world_size)
        names = list(net._modules)
        asked = [names[x] if isinstance(x, int) and 0 <= x < len(names) else x for x in self.stages]
        firsts = [block[0][0] for block in blocks]
        starts = [next((i for i, first in enumerate(firsts) if f"{first}.".startswith(f"{x}.")), 0) for x in asked]
        if 0 in starts or starts != sorted(set(starts)):
            raise ValueError(
                f"stages={list(self.stages)}: give, in the net's order, the layers with which the second and later "
                "stages "
                f"begin, of those with weights: {', '.join(firsts[1:])}."
            )
        if len(starts) != world_size - 1:
            raise ValueError(
                f"stages={list(self.stages)} makes {len(starts) + 1} stages, and there are {world_size} ranks: give "
                f"{world_size - 1} in all."
            )
        return starts


class PipelineShard(DistributedShard):
    """One stage: the net with nn.Identity in place of the layers of other ranks."""

    model_is_whole = False

    def __init__(self, run: Any, learner: Backprop, strategy: Pipeline):
        blocks = blocks_of(run.model)
        super().__init__(run.model, run.learner)
        if strategy.schedule == "1f1b" and strategy.microbatches < self.world_size:
            raise ValueError(
                f"microbatches={strategy.microbatches} does not fill {self.world_size} stages: 1F1B needs one for "
                'each, and schedule="gpipe" does not.'
            )
        check_enough(blocks, self.world_size, class_name(run.model))
        self.strategy, self.backprop, self.device = strategy, learner, run.device
        images, labels = run.data.images[:2].to(run.device), run.data.labels
        self.dtype = images.dtype
        self.batch = Batch(images, None if labels is None else labels[:2].to(run.device))
        inputs = learner.inputs(self.batch, torch.Generator(run.generator.device)).clone()
        copied = blocks_of(copy_of(run.model, run))  # passes may change buffers
        costs, between = measure_blocks(copied, inputs)
        if strategy.microbatches > 1:
            refuse_what_does_not_add_up(run, "Pipeline", in_turn=True)
        begins = (0, *strategy.starts(run.model, blocks, costs, self.world_size), len(blocks))
        for index, block in enumerate(blocks):
            if not begins[self.rank] <= index < begins[self.rank + 1]:
                for name, _ in block:
                    self.model.set_submodule(name, nn.Identity())
        self.own_draws = (0, 0)
        if (plan := run.trial.plan) is not None:
            counts = [count_draws(partial(pass_through, *pair)) for pair in zip(copied, between, strict=False)]
            self.own_draws = draws_of_stage(plan, counts, *begins[self.rank : self.rank + 2])
        self.input, self.output = (between[index] for index in begins[self.rank : self.rank + 2])
        self.metric_names = list(learner.loss(between[-1], self.batch)[1])
        self.metrics: list[Metrics] = []  # of each microbatch
        self.schedules: dict[tuple[int, torch.dtype], Schedule1F1B | ScheduleGPipe] = {}
        self.log = Log(self.recorder, run.device)

    def sharded_draws(self, plan: DrawPlan) -> StageDraws:
        return StageDraws(plan, *self.own_draws, self.model)

    def drawing_for(self, batch: Batch) -> AbstractContextManager[object]:
        if isinstance(self.draws, StageDraws):
            self.draws.begin(len(batch))
        return nullcontext()  # `drawing` is for each microbatch

    def drawing(self, number: int) -> AbstractContextManager[object]:
        """Context of the forward pass of a microbatch."""
        if self.draws is None:
            return nullcontext()
        images = len(self.batch)
        count = images // self.parts(images)
        return self.draws.part_of(number * count, count, images)

    def reduce_grad(self, batch: Batch, generator: ShardedGenerator) -> Metrics:
        self.model.zero_grad()
        x = self.backprop.own_inputs(batch, generator).contiguous()
        self.batch, self.metrics = batch, []
        self.log.batches += not self.recorder.on_trial
        inputs = (x,) if self.rank == 0 else ()
        rows = torch.arange(len(x), device=x.device) if self.rank == self.world_size - 1 else None
        with fast_linear(self.model, len(x) // self.parts(len(x))):
            self.schedule(len(x), batch.images.dtype).step(*inputs, target=rows, return_outputs=False)
        total = x.new_empty(len(self.metric_names))
        if self.metrics:
            total.copy_(torch.stack([torch.stack([*metrics.values()]) for metrics in self.metrics]).sum(0))
        self.group.broadcast(total, source=self.world_size - 1)
        return dict(zip(self.metric_names, total, strict=True))

    def loss(self, output: Tensor, rows: Tensor) -> Tensor:
        """The weighted loss of a microbatch, these rows of the batch; that of the batch is the sum of all."""
        begin = self.log.moment()
        labels = None if self.batch.labels is None else self.batch.labels[rows]
        microbatch = Batch(self.batch.images[rows], labels, self.batch.weight * len(rows) / len(self.batch))
        loss, metrics = self.backprop.weighted_loss(output, microbatch)
        self.log.computed(f"L{len(self.metrics)}", begin)
        self.metrics.append(metrics)
        return loss

    def parts(self, rows: int) -> int:
        """The microbatches of a batch: as many as asked for, or the most that it divides into."""
        return max(n for n in divisors(rows) if n <= self.strategy.microbatches)

    def schedule(self, rows: int, dtype: torch.dtype) -> Schedule1F1B | ScheduleGPipe:
        """A batch of another size has a schedule of its own, since buffers are made for one size of microbatch.

        dtype: the images', in a trial not those that they have in the run.
        """
        if (rows, dtype) not in self.schedules:
            parts = self.parts(rows)
            wire = self.device if self.group.takes_cuda else torch.device("cpu")
            net = OnWire(self.model, self.device, self.device if self.rank == self.world_size - 1 else wire)
            dtypes = [x.dtype if dtype == self.dtype else dtype for x in (self.input, self.output)]
            input, output = (
                torch.empty(rows // parts, *x.shape[1:], dtype=own, device="meta", requires_grad=True)
                for x, own in zip((self.input, self.output), dtypes, strict=True)
            )
            stage = Stage(net, self.rank, self.world_size, wire, input, output, group=self.group.process_group)
            stage.log, stage.drawing = self.log, self.drawing
            made = SCHEDULES[self.strategy.schedule] if parts >= self.world_size else ScheduleGPipe
            self.schedules[rows, dtype] = made(stage, parts, loss_fn=self.loss, scale_grads=False)
        return self.schedules[rows, dtype]

    # A rank has some tensors, and has them whole.

    def model_state(self) -> dict[str, Tensor]:
        return self.united(self.model.state_dict())

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, numbers = super().optimizer_state(optimizer)
        everywhere = self.group.gather_objects(renumbered(numbers, trained(self.model), self.names))
        return self.united(tensors), {key: value for own in everywhere for key, value in own.items()}

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: dict[str, Any]
    ) -> None:
        super().load_optimizer(optimizer, tensors, renumbered(numbers, self.names, trained(self.model)))

    def united(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What all ranks have, stage after stage, on each."""
        whole = {}
        for source, kinds in enumerate(self.group.gather_objects({k: (v.shape, v.dtype) for k, v in own.items()})):
            for name, (shape, dtype) in kinds.items():
                whole[name] = torch.empty(shape, dtype=dtype, device=self.device)
                if source == self.rank:
                    whole[name].copy_(own[name])
                self.group.broadcast(whole[name], source)
        return whole


def renumbered(numbers: Mapping[str, Any], before: list[str], after: list[str]) -> dict[str, Any]:
    """Optimizer numbers, by the index of their parameter in `before`, of the parameters in `after`, by index there."""
    split = [(*key.split(".", 1), value) for key, value in numbers.items()]
    named = [(before[int(index)], number, value) for index, number, value in split]
    return {f"{after.index(name)}.{number}": value for name, number, value in named if name in after}
