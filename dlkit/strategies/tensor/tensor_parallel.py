"""By neurons: every rank has some units or maps of each layer, and sees every image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.group import Group
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.rbm import RBM
from dlkit.strategies.base import DistributedShard, kind, refuse_optimizer, refuse_random
from dlkit.strategies.tensor.dtensor import DTensorShard
from dlkit.strategies.tensor.layers import Shardings, own_part, split_net
from dlkit.strategies.tensor.rbm import split_hidden
from dlkit.training.contrastive import CD
from dlkit.training.learner import Backprop, Learner


@dataclass(frozen=True)
class TensorParallel:
    """Each rank has a part of the parameters of a layer, and computes some of its units for the whole batch.

    Nets: Linear layers in turn by outputs and by inputs, so that one sum over ranks serves two of them; convolutions by
    output maps, which are gathered for the next one. RBMs under CD and PCD, and autoassociators: by hidden units.
    using: "dlkit", or "dtensor", torch's own parallelize_module, for chains of Linear layers and an optimizer that is
    not fused; what it sends is not counted.
    Callbacks see a net whose answers are whole, and of an RBM this rank's hidden units.
    Sources: Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks, §2 and §4; Shoeybi et al.
    2019, Megatron-LM, §3.
    """

    using: str = "dlkit"

    def __post_init__(self):
        if self.using not in ("dlkit", "dtensor"):
            raise ValueError(f'using="{self.using}": it is "dlkit" or "dtensor".')

    def shard(self, run: Any) -> DistributedShard:
        """ValueError for models, learners and optimizers that need whole layers, with the reason."""
        refuse_random(run.model, "TensorParallel")
        optimizer = refuse_optimizer(run.experiment, "TensorParallel")
        if self.using == "dlkit":
            return TensorParallelShard(run.model, run.learner)
        if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["fused"]:
            raise ValueError("torch's fused SGD takes no DTensors: give the Experiment optimizer=torch.optim.SGD.")
        return DTensorShard(run.model, run.learner)


class TensorParallelShard(DistributedShard):
    """Some units of each layer, and every image."""

    model_is_whole = False

    def __init__(self, model: nn.Module, learner: Learner):
        super().__init__(model, learner)
        self.model, self.layout = split_model(model, learner, self.group)

    def gather(self, name: str, part: Tensor) -> Tensor:
        return gather_part(name, part, self.layout, self.group)

    def scatter(self, name: str, whole: Tensor) -> Tensor:
        return scatter_whole(name, whole, self.layout, self.group)


def split_model(model: nn.Module, learner: Learner, group: Group) -> tuple[nn.Module, Shardings]:
    """The model with this rank's part of its parameters, and how they are split over `group`; it is changed in place.

    ValueError, with the reason, for a model or a learner that cannot be split so.
    """
    if isinstance(model, RBM):
        if not isinstance(learner, CD):
            raise ValueError(f"TensorParallel splits an RBM under CD or PCD, and this learner is {kind(learner)}.")
        if learner.centred:
            raise ValueError(
                "centred=True moves each visible bias by the means of all hidden units, and a rank has some of them: "
                "leave it out, or train in one process."
            )
        return model, split_hidden(model, group)
    if not isinstance(learner, Backprop):
        raise ValueError(
            f"{kind(learner)} trains a {kind(model)} by passes of its own, which need each layer's units whole: "
            "TensorParallel splits nets under learners that backpropagate a loss (`Backprop` in "
            "dlkit/training/learner.py), and RBMs under CD or PCD; DataParallel splits the batch."
        )
    if isinstance(model, Autoassociator):
        return model, split_hidden(model, group)
    return model, split_net(model, group)


def gather_part(name: str, part: Tensor, layout: Shardings, group: Group) -> Tensor:
    """The whole of which each rank of the group has a part."""
    return group.all_gather(part, layout[name].counts, layout[name].dim) if name in layout else part


def scatter_whole(name: str, whole: Tensor, layout: Shardings, group: Group) -> Tensor:
    """The part of a whole that this rank of the group has."""
    return own_part(whole, layout[name], group) if name in layout else whole
