"""What a pass of all stages, one after the other on copies, shows before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dlkit.core.draw_plan import count_draws
from dlkit.data.batch import Batch
from dlkit.models.graph import Node
from dlkit.strategies.pipeline.stage_program import StageProgram
from dlkit.training.trial import copies_of


@dataclass
class StageTrial:
    """draws: how many each stage makes from torch's own generators. has_grad: of what nodes a gradient comes back.
    metric_names: of the learner's loss."""

    draws: list[int] = field(default_factory=list)
    has_grad: set[Node] = field(default_factory=set)
    metric_names: list[str] = field(default_factory=list)


def try_stages(run: Any, stages: Sequence[StageProgram], inputs: Tensor, batch: Batch) -> StageTrial:
    """Both passes of copies of the run's model and learner. inputs: what the net is given for this batch."""
    model, learner = copies_of(run.model, run.learner, run, run.model)
    trial = StageTrial()
    values: Sequence[Tensor] = [inputs]
    sent: list[tuple[Node, Tensor]] = []
    output: Any = None
    for stage in stages:
        found: list[Any] = []
        given = [value.clone() for value in values]
        trial.draws.append(count_draws(lambda: found.append(stage.run(model, len(inputs), given))))  # noqa: B023
        output = found[0]
        values = output if stage.outputs else []
        for node, value in zip(stage.outputs, values, strict=True):
            if value.requires_grad:
                value.retain_grad()
                sent.append((node, value))
    loss, metrics = learner.loss(output, batch)
    trial.metric_names = list(metrics)
    if loss.requires_grad:
        loss.backward()
    trial.has_grad = {node for node, value in sent if value.grad is not None}
    return trial
