"""RBMs and autoassociators split by hidden units: a rank has their columns of W, their biases, and all visible units.

What comes up to a rank's own units needs no message; what goes down, Wh, is a sum over all ranks.
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
from dlkit.strategies.base import kind
from dlkit.strategies.tensor.layers import Shardings, cut_of, keep_part


class HiddenPart(RBM):
    """An RBM with the hidden units `units` here: `hidden` in a shape counts them; sums over h are those of all."""

    units: Slice
    group: Group

    def draw_hidden(
        self, mean: Float[Tensor, "batch hidden"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch hidden"]:
        """Those of all units are drawn, so that these are as they would be in one process."""
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


class RBMPart(HiddenPart, RBM): ...


class GaussianRBMPart(HiddenPart, GaussianRBM): ...


class CodeRBMPart(HiddenPart, CodeRBM): ...


class LabelledRBMPart(HiddenPart, LabelledRBM):
    def label_free_energies(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch labels"]:
        once = (features @ self.a[: self.features])[:, None] + self.a[self.features :]
        return reduce_from_ranks(super().label_free_energies(features) + once, self.group) - once


class AutoassociatorPart(Autoassociator):
    """An autoassociator with some of the hidden units here."""

    group: Group

    def hidden_given(self, v: Float[Tensor, "batch visible"]) -> Float[Tensor, "batch hidden"]:
        return super().hidden_given(copy_to_ranks(v, self.group))

    def visible_given(self, h: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch visible"]:
        x = reduce_from_ranks(matmul(h, self.W.T), self.group) + self.a
        return x if self.real else x.sigmoid()


PARTS = {
    RBM: RBMPart,
    GaussianRBM: GaussianRBMPart,
    LabelledRBM: LabelledRBMPart,
    CodeRBM: CodeRBMPart,
    Autoassociator: AutoassociatorPart,
}


def split_hidden(model: RBM | Autoassociator, group: Group) -> Shardings:
    """Leave the model this rank's hidden units. ValueError for too few of them, and for other kinds."""
    if type(model) not in PARTS:
        names = ", ".join(known.__name__ for known in PARTS)
        raise ValueError(
            f"{kind(model)} may do with its hidden units what needs all of them: TensorParallel splits {names}."
        )
    if model.hidden < group.world_size:
        raise ValueError(f"{model.hidden} hidden units for {group.world_size} ranks: give each at least one.")
    part: Any = model
    part.__class__ = PARTS[type(model)]
    part.group, part.units = group, slice_of(model.hidden, group.rank, group.world_size)
    layout = {"W": cut_of(1, model.hidden, group), "b": cut_of(0, model.hidden, group)}
    for name, cut in layout.items():
        keep_part(model, name, cut, group)
    return layout
