"""The units of each layer of a stack: their weights, what each looks for, and which images excite it."""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dlkit.analysis.examining import examines
from dlkit.models import DBN, LabelledRBM
from dlkit.models.unrolled import check_stack

Net = DBN | nn.Sequential | Sequence[nn.Module]

EXCITING = 16  # images that `most_exciting` returns


class UnitActivity:
    """The units of each layer of a net: `weights` (visible, hidden) and `activity` (images, hidden) of each layer.

    A plain net has one layer for each nn.Linear; its activity is the input of the next Linear, or the net's output. The
    label units of a labelled top layer are left out. All of it is on the CPU, to be looked at.
    ValueError if the layers do not fit each other or the images.
    """

    @examines
    def __init__(self, net: Net, images: Float[Tensor, "images height width"]):
        self.shape = images.shape[1], images.shape[2]
        self.weights = [W.detach().float().cpu() for W in _weights(net)]
        check_stack([(W.shape[0], W.shape[1]) for W in self.weights])
        if self.shape[0] * self.shape[1] != len(self.weights[0]):
            raise ValueError(
                f"images of {self.shape[0]}x{self.shape[1]} pixels for a first layer of {len(self.weights[0])} visible "
                "units: give images of the size it was trained on."
            )
        with torch.no_grad():
            self.activity = [h.float().cpu() for h in _activity(net, images)]
        self._pictures: dict[int, Tensor] = {}

    def __repr__(self) -> str:
        return f"UnitActivity(layers of {self.sizes} units, {len(self.activity[0])} images)"

    @property
    def sizes(self) -> list[int]:
        """The number of units of each layer."""
        return [W.shape[1] for W in self.weights]

    def pictures(self, layer: int) -> Float[Tensor, "units height width"]:
        """What each unit of the layer (counted from 0) looks for: W¹W²…, the pictures below weighted by its W.

        This linear picture ignores that units saturate: it says which pixels count for a unit, not how they combine.
        Sources: Lee, Ekanadham, Ng 2008, Sparse deep belief net model for visual area V2; compared with other ways in
        Erhan, Bengio, Courville, Vincent 2009, Visualizing higher-layer features of a deep network.
        """
        if layer not in self._pictures:
            self._pictures[layer] = reduce(torch.matmul, self.weights[: layer + 1]).T.reshape(-1, *self.shape)
        return self._pictures[layer]


def _weights(net: Net) -> list[Tensor]:
    """W (visible, hidden) of each layer, the lowest first."""
    if isinstance(net, nn.Sequential):
        weights = [module.weight.T for module in net.modules() if isinstance(module, nn.Linear)]
    else:
        layers = list(net.layers) if isinstance(net, DBN) else list(net)
        for number, layer in enumerate(layers, 1):
            if not hasattr(layer, "recognition"):
                raise ValueError(
                    f"layer {number} is a {type(layer).__name__}, with no way up: give a DBN, or its layers, like RBMs."
                )
        weights = [layer.recognition()[0] for layer in layers]  # type: ignore[operator]
    if not weights:
        raise ValueError("a net without layers: give a DBN, a list of RBMs, or dbn.classifier().")
    return weights


def _activity(net: Net, images: Tensor) -> list[Tensor]:
    """The output (images, hidden) of each layer, after its non-linearity."""
    v = images.flatten(1).to(_weights(net)[0]).clone()  # a first layer may work in place
    activity = []
    if isinstance(net, nn.Sequential):
        after_linear = False
        for module in net.modules():
            if isinstance(module, nn.Linear) and after_linear:
                activity.append(v)
            if not list(module.children()):
                after_linear = after_linear or isinstance(module, nn.Linear)
                v = module(v)
        return [*activity, v]
    for layer in net.layers if isinstance(net, DBN) else net:
        if isinstance(layer, LabelledRBM):
            W, b = layer.recognition()
            v = layer.hidden_mean(v @ W + b)
        else:
            v = layer.hidden_given(v)  # type: ignore[operator]
        activity.append(v)
    return activity


def class_means(
    activity: Float[Tensor, "images units"], labels: Int64[Tensor, " images"]
) -> Float[Tensor, "classes units"]:
    """Mean activity of each unit over the images of each class; 0 for a class without images."""
    members = nn.functional.one_hot(labels).to(activity.dtype)
    return members.T @ activity / members.sum(0).clamp_min(1)[:, None]


def sorted_units(
    activity: Float[Tensor, "images units"], labels: Int64[Tensor, " images"], by: str | int
) -> Int64[Tensor, " units"]:
    """The numbers of the units, sorted by "index", by mean "activity", or by how much they prefer the class `by`.

    A unit's preference is its mean activity over images of that class less its mean over all others.
    """
    if by == "index":
        return torch.arange(activity.shape[1])
    if by == "activity":
        return activity.mean(0).argsort(descending=True, stable=True)
    in_class = labels == by
    return (activity[in_class].mean(0) - activity[~in_class].mean(0)).argsort(descending=True, stable=True)


def most_exciting(activity: Float[Tensor, "images units"], unit: int, count: int = EXCITING) -> Int64[Tensor, " count"]:
    """The numbers of at most `count` images on which the unit is most active, the most active first."""
    return activity[:, unit].argsort(descending=True, stable=True)[:count]
