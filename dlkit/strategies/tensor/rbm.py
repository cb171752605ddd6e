"""RBMs and autoassociators split by hidden units: a rank has their columns of W, their biases, and all visible units.

The input of a rank's own hidden units needs no message; that of the visible units, Wh, is a sum over all ranks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dlkit.core.matmul import matmul
from dlkit.core.slices import Slice, slice_of
from dlkit.distributed.autograd import copy_to_ranks, reduce_from_ranks
from dlkit.distributed.group import Group
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.rbm import RBM, GaussianRBM
from dlkit.models.top_rbms import CodeRBM, LabelledRBM
from dlkit.strategies.checks import class_name
from dlkit.strategies.graph.exchanges import even_layout
from dlkit.strategies.graph.on_rank import Layouts, keep_part


class HiddenShard(RBM):
    """An RBM of which this rank has the hidden units `units`: `hidden` in a shape counts them; sums are over all."""

    units: Slice
    group: Group

    def draw_hidden(
        self, mean: Float[Tensor, "batch hidden"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """Samples of this rank's units; numbers are drawn for all, so that they are those of one process."""
        units = self.units
        whole = F.pad(mean, (units.start, units.whole - units.stop))
        return super().draw_hidden(whole, generator)[:, units.start : units.stop]

    def log_sum_hidden(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        return reduce_from_ranks(super().log_sum_hidden(x), self.group)

    def visible_input(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        return reduce_from_ranks(super().visible_input(h), self.group)

    def energy(self, v: Float[Tensor, "batch visible"], h: Float[Tensor, "batch hidden"]) -> Float[Tensor, " batch"]:
        once = self.visible_term(v, self.a)
        return reduce_from_ranks(super().energy(v, h) + once, self.group) - once


class RBMShard(HiddenShard, RBM): ...


class GaussianRBMShard(HiddenShard, GaussianRBM): ...


class CodeRBMShard(HiddenShard, CodeRBM): ...


class LabelledRBMShard(HiddenShard, LabelledRBM):
    def label_free_energies(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch labels"]:
        once = (features @ self.a[: self.features])[:, None] + self.a[self.features :]
        return reduce_from_ranks(super().label_free_energies(features) + once, self.group) - once


class AutoassociatorShard(Autoassociator):
    """An autoassociator of which this rank has some of the hidden units."""

    group: Group

    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        return super().hidden_given(copy_to_ranks(v, self.group))

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        x = reduce_from_ranks(matmul(h, self.W.T), self.group) + self.a
        return x if self.real else x.sigmoid()


SHARDS = {
    RBM: RBMShard,
    GaussianRBM: GaussianRBMShard,
    LabelledRBM: LabelledRBMShard,
    CodeRBM: CodeRBMShard,
    Autoassociator: AutoassociatorShard,
}


def split_hidden(model: RBM | Autoassociator, group: Group) -> Layouts:
    """Leave the model this rank's hidden units. ValueError for too few of them, and for other kinds."""
    if type(model) not in SHARDS:
        names = ", ".join(known.__name__ for known in SHARDS)
        raise ValueError(
            f"{class_name(model)} may do with its hidden units what needs all of them: TensorParallel splits {names}."
        )
    if model.hidden < group.world_size:
        raise ValueError(f"{model.hidden} hidden units for {group.world_size} ranks: give each at least one.")
    shard: Any = model
    shard.__class__ = SHARDS[type(model)]
    shard.group, shard.units = group, slice_of(model.hidden, group.rank, group.world_size)
    layouts = {name: even_layout(dim, model.hidden, group.world_size) for name, dim in (("W", 1), ("b", 0))}
    for name, layout in layouts.items():
        keep_part(model, name, layout, group)
    return layouts
