"""The open task of notebook 04, measured: how many steps of the chain dreams took, and what became of them."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dlkit import data
from dlkit.analysis import by_net
from dlkit.exercises import Answer, Hint
from dlkit.exercises.answers import floats, seeded, shaped
from dlkit.models import DBN, pretrained

BUDGET = 2_000  # steps of one chain
LABELS = torch.arange(10).repeat_interleave(10)
FIRST = {
    "mm": 0,
    "bmm": 0,
    "mv": 0,
    "_linear_pointwise": 0,
    "linear": 0,
    "addmm": 1,
    "addmm_": 1,
    "baddbmm": 1,
    "addmv": 1,
}


class Dreams(NamedTuple):
    """What was measured: steps of one chain; dreams read as their label, of 100 and of the 10 of the worst label; and
    the mean distance between two dreams of a label that are read right, over that between two test digits of a label.
    """

    steps: float
    right: int
    worst: int
    apart: float


class Steps(TorchDispatchMode):
    """Context that counts the products with as many units as the top RBM has, as steps of one chain: up and down."""

    def __init__(self, visible: int, hidden: int):
        super().__init__()
        self.hidden, self.step, self.multiplications = hidden, 2 * visible * hidden, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = FIRST.get(func.overloadpacket.__name__)
        if first is not None:
            inner = args[first].shape[-1]  # the units that are summed over
            if self.hidden in (inner, *result.shape):
                self.multiplications += inner * result.numel()
        return result

    @property
    def count(self) -> float:
        return self.multiplications / self.step


def judged(answer: Answer) -> Dreams:
    """The dreams that the answer makes of LABELS, with the kit's own network. Raises Hint if there are none."""
    dbn, lenet, real = _nets_and_digits()
    steps = Steps(dbn.top.visible, dbn.top.hidden)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), steps:
        torch.manual_seed(0)
        features = answer(dbn, LABELS, seeded(0))
    features = floats(features)
    if features.shape == (100, dbn.top.visible):
        features = features[:, : dbn.top.features]  # a state with its label units
    if features.shape == (100, dbn.sizes[0]):
        raise Hint("Those are images: hand in the features that the top RBM ends on; the check brings them down.")
    features = shaped(features, (100, dbn.top.features), "the top RBM's features, a row a dream")
    if not (features.min() >= 0 and features.max() <= 1):
        raise Hint("Features are states or probabilities: from 0 to 1.")
    if not steps.count:
        raise Hint("No step of the top RBM's chain was counted: let it run, by torch, from noise.")
    with torch.no_grad():
        images = dbn.down(features.float()).view(-1, 28, 28)
    right = by_net(lenet, images) == LABELS
    apart = sum(_apart(images[right & (label == LABELS)]) for label in range(10)) / real
    return Dreams(steps.count, int(right.sum()), int(right.view(10, 10).sum(1).min()), apart)


@cache
def _nets_and_digits() -> tuple[DBN, torch.nn.Module, float]:
    """The network; the net that judges; and how far apart ten test digits of a label are, summed over the labels."""
    test = data.load("mnist").test
    return pretrained("dbn"), pretrained("lenet5"), sum(_apart(test.images[test.labels == i][:10]) for i in range(10))


def _apart(images: Tensor) -> float:
    """The mean distance between two of the images; 0 if there are not two."""
    return float(torch.pdist(images.flatten(1)).mean()) if len(images) > 1 else 0.0
