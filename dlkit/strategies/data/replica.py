"""What data parallel strategies have in common: on each rank the whole model, and a part of each batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlkit.core.slices import Slice, slice_of
from dlkit.data.batch import Batch
from dlkit.distributed.group import Group
from dlkit.strategies.base import DistributedShard, slice_counts
from dlkit.strategies.learner_trial import refuse_what_does_not_add_up


class Replica(DistributedShard):
    """The whole model and a part of each batch, on one rank of `data`, the group that batches are split over."""

    def __init__(self, run: Any, strategy: str, data: Group | None = None):
        super().__init__(run.model, run.learner)
        self.data = data or self.group
        self.chains: dict[str, Slice] = {}
        self.strategy_name = strategy

    def split_learner(self, run: Any) -> None:
        """Give the learner this rank's part. ValueError, with the reason, if it cannot learn from a part of a batch."""
        if self.data.world_size > 1:
            refuse_what_does_not_add_up(run, self.strategy_name)
        self.chains = self.learner.split(self.data.rank, self.data.world_size)

    def select(self, data: Batch, indices: Tensor) -> Batch:
        """This rank's part of a batch; a rank that has none takes an image of weight 0."""
        part = slice_of(len(indices), self.data.rank, self.data.world_size)
        weight = part.count / part.whole
        if not part.count:
            part = Slice(0, 1, part.whole)
        own = super().select(data, indices[part.start : part.stop])
        return Batch(own.images, own.labels, weight, part)

    def learner_state(self) -> dict[str, Tensor]:
        return {
            name: self.data.all_gather(value, slice_counts(self.chains[name], self.data))
            if name in self.chains
            else value
            for name, value in self.learner.state.items()
        }

    def load_learner(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        super().load_learner(state, device)
        for name, part in self.chains.items():
            self.learner.state[name] = self.learner.state[name][part.start : part.stop].clone()
