"""Pipeline parallelism: every rank has some layers that follow one another, and microbatches go from rank to rank."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.models.graph import NetGraph
from dlkit.models.graph_check import STEPS
from dlkit.strategies.checks import check_learner, refuse_batch_statistics, refuse_optimizer
from dlkit.strategies.graph.on_paper import paper_graph
from dlkit.strategies.graph.plan import Step
from dlkit.strategies.layer_cost import LayerCost
from dlkit.strategies.learner_trial import refuse_passes_of_its_own
from dlkit.strategies.pipeline.partition import Partition, divisors, partition
from dlkit.strategies.pipeline.shard import SCHEDULES, PipelineShard
from dlkit.strategies.pipeline.stage_costs import stage_costs, stage_steps
from dlkit.training.learner import Backprop


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
        """ValueError, with the reason, for nets that have too few layers, or cannot be cut, or no loss."""
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
        images = images[:1].expand(max(STEPS), *images.shape[1:])
        blocks = partition(paper_graph(net, images.shape[1:]), images, deepcopy)
        begins = self.starts(blocks, world_size)
        microbatches = max(n for n in divisors(batch_size) if n <= self.microbatches)
        return stage_costs(blocks, begins, batch_size, microbatches)

    def steps(self, graph: NetGraph, world_size: int) -> list[Step]:
        """Which rank has what of the graph, for `explain`."""
        images = torch.rand(max(STEPS), *graph.image_shape, generator=torch.Generator().manual_seed(0))
        blocks = partition(graph, images, deepcopy)
        return stage_steps(blocks, self.starts(blocks, world_size))

    def starts(self, blocks: Partition, world_size: int) -> Sequence[int]:
        """The blocks with which the second and later stages begin. ValueError if `stages` names what cannot be one."""
        blocks.check_enough(world_size)
        if self.stages is None:
            return blocks.best(world_size)
        names = list(blocks.graph.net._modules)
        asked = [names[x] if isinstance(x, int) and 0 <= x < len(names) else x for x in self.stages]
        starts = [blocks.beginning_with(str(x)) for x in asked]
        if 0 in starts or starts != sorted(set(starts)):
            raise ValueError(
                f"stages={list(self.stages)}: give, in the net's order, the layers with which the second and later "
                f"stages begin, of those with weights: {', '.join(blocks.names[1:])}."
            )
        if len(starts) != world_size - 1:
            raise ValueError(
                f"stages={list(self.stages)} makes {len(starts) + 1} stages, and there are {world_size} ranks: give "
                f"{world_size - 1} in all."
            )
        return starts
