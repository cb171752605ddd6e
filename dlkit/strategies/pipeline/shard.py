"""What a rank has of a pipeline: one stage, and the schedules by which microbatches go through it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

from dlkit.core.draw_plan import DrawPlan
from dlkit.core.matmul import fast_linear
from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.models.graph import Node
from dlkit.models.graph_check import STEPS
from dlkit.strategies.base import DistributedShard
from dlkit.strategies.graph.of_run import graph_of_run
from dlkit.strategies.learner_trial import refuse_what_does_not_add_up
from dlkit.strategies.pipeline.partition import divisors, partition
from dlkit.strategies.pipeline.stage import Log, Stage, Value
from dlkit.strategies.pipeline.stage_draws import StageDraws, draws_of_stage
from dlkit.strategies.pipeline.stage_program import StageProgram, keep_stage
from dlkit.strategies.pipeline.trial import try_stages
from dlkit.training.learner import Backprop, Metrics
from dlkit.training.shard import trained
from dlkit.training.trial import copy_of

SCHEDULES = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}


class PipelineShard(DistributedShard):
    """One stage: the net with nn.Identity in place of the layers of other ranks."""

    model_is_whole = False

    def __init__(self, run: Any, learner: Backprop, strategy: Any):
        super().__init__(run.model, run.learner)
        if strategy.microbatches > 1:
            refuse_what_does_not_add_up(run, "Pipeline", in_turn=True)
        graph = graph_of_run(run)
        if strategy.schedule == "1f1b" and strategy.microbatches < self.world_size:
            raise ValueError(
                f"microbatches={strategy.microbatches} does not fill {self.world_size} stages: 1F1B needs one for "
                'each, and schedule="gpipe" does not.'
            )
        self.strategy, self.backprop, self.device = strategy, learner, run.device
        self.dtype = run.data.images.dtype
        self.batch = run.first_images(max(STEPS))
        inputs = learner.own_inputs(self.batch, ShardedGenerator(run.generator.device))
        blocks = partition(graph, inputs, lambda net: copy_of(net, run))
        begins = (0, *strategy.starts(blocks, self.world_size), len(blocks.begins))
        stages = [StageProgram(graph, *blocks.span(*pair)) for pair in pairwise(begins)]
        tried = try_stages(run, stages, inputs, self.batch)
        self.own_draws = (0, 0)
        if run.trial.plan is not None:
            self.own_draws = draws_of_stage(run.trial.plan, tried.draws, self.rank, self.rank + 1)
        self.called = {node.target for node in graph.nodes if node.op == "module"}
        self.seen, self.stage, self.has_grad = blocks.seen, stages[self.rank], tried.has_grad
        keep_stage(self.model, graph, self.stage, self.rank == 0)
        self.metric_names = tried.metric_names
        self.metrics: list[Metrics] = []  # of each microbatch
        self.schedules: dict[tuple[int, torch.dtype], Schedule1F1B | ScheduleGPipe] = {}
        self.log = Log(self.recorder, run.device)

    def sharded_draws(self, plan: DrawPlan) -> StageDraws:
        watched = None if plan.modules is None or not self.called.issuperset(plan.modules) else self.model
        return StageDraws(plan, *self.own_draws, watched)

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
            rows_of_one = rows // parts
            received, sent = (
                [self.value(node, rows_of_one, dtype) for node in nodes]
                for nodes in ((self.stage.inputs if self.rank else []), self.stage.outputs)
            )
            stage: Any = Stage(
                self.forward, rows_of_one, received, sent, self.group.process_group, self.wire, self.log, self.drawing
            )
            made = SCHEDULES[self.strategy.schedule] if parts >= self.world_size else ScheduleGPipe
            self.schedules[rows, dtype] = made(stage, parts, loss_fn=self.loss, scale_grads=False)
        return self.schedules[rows, dtype]

    @property
    def wire(self) -> torch.device:
        """Where values are sent from and to."""
        return self.device if self.group.takes_cuda else torch.device("cpu")

    def forward(self, rows: int, inputs: Sequence[Tensor]) -> Any:
        """The stage's pass, on copies of its inputs, which may be parts of a batch, or buffers, and may be changed."""
        output = self.stage.run(self.model, rows, [x.to(self.device, copy=True) for x in inputs])
        return output if self.stage.is_last else [value.to(self.wire).contiguous() for value in output]

    def value(self, node: Node, images: int, dtype: torch.dtype) -> Value:
        own = node.value.dtype
        return Value(
            self.seen.shape(node, images),
            dtype if own == self.dtype else own,
            node.value.requires_grad,
            node in self.has_grad,
        )

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
