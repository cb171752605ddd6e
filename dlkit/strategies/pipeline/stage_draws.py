"""What the layers of one stage draw by torch itself, a microbatch at a time: parts of what one process would draw."""

import torch
from torch import nn

from dlkit.core.draw_plan import DrawPlan
from dlkit.core.draws import ShardedDraws
from dlkit.core.global_generators import restore_torch, torch_states


class StageDraws(ShardedDraws):
    """Makes each draw from the state from which one process, whose layers draw for the whole batch in turn, makes it.

    `first`: the draw with which this stage's layers begin; `count`: how many they make.
    """

    takes_any_dtype = False  # other stages' draws are made as in the plan

    def __init__(self, plan: DrawPlan, first: int, count: int, model: nn.Module | None):
        super().__init__(plan, model=model)
        self.first, self.count = first, count
        self.states: list[list[torch.Tensor]] = []

    def begin(self, images: int) -> None:
        """Called at the start of a step, when torch's generators are where one process has them."""
        self.states = []
        for number in range(len(self.plan.draws)):
            self.states.append(torch_states())
            self.plan.make(number, images)

    def expected(self) -> int:
        return self.count

    def _number(self) -> int:
        number = self.first + super()._number()
        if number < len(self.states):
            restore_torch(self.states[number])
        return number


def draws_of_stage(plan: DrawPlan, draws_of_blocks: list[int], begin: int, end: int) -> tuple[int, int]:
    """The number of the first draw of the stage of blocks begin to end, and how many it makes.

    ValueError where draws are not those of layers in turn, as one process would make them.
    """
    if plan.recomputes or not plan.complete or sum(draws_of_blocks) != len(plan.draws):
        raise ValueError(
            "Pipeline makes the draws of layers in turn, and here others are made too, or again in the backward pass "
            "(torch.utils.checkpoint): use DataParallel."
        )
    return sum(draws_of_blocks[:begin]), sum(draws_of_blocks[begin:end])
