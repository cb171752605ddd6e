"""How well a single unit tells a class from the rest: a threshold on its value, and nothing else.

Source: Le, Ranzato, Monga, Devin, Chen, Corrado, Dean, Ng 2012, Building high-level features using large scale
unsupervised learning, §4, where the best neuron is found so. Their data have nearly as many faces as not; here both
sides count half, so that chance is 50 %.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

AT_ONCE = 64  # units whose values are sorted together


@dataclass(frozen=True, eq=False)
class BestUnits:
    """Of each class the unit that tells it best from the rest: images whose value times `sign` is at least `threshold`.

    accuracy: in percent, on the values that it was chosen by: the mean of the share of the class that is found and of
    the share of the rest that is not.
    """

    unit: Int64[Tensor, " classes"]
    sign: Float[Tensor, " classes"]
    threshold: Float[Tensor, " classes"]
    accuracy: Float[Tensor, " classes"]

    def on(self, values: Float[Tensor, "images units"], labels: Int64[Tensor, " images"]) -> Float[Tensor, " classes"]:
        """The accuracy in percent of these units with these thresholds on other images."""
        values, labels = values.cpu(), labels.cpu()
        found = (values[:, self.unit] * self.sign).double() >= self.threshold
        is_class = labels[:, None] == torch.arange(len(self.unit))
        hits = (found & is_class).sum(0) / is_class.sum(0)
        passed = (~found & ~is_class).sum(0) / (~is_class).sum(0)
        return 50 * (hits + passed).double()


def best_units(values: Float[Tensor, "images units"], labels: Int64[Tensor, " images"]) -> BestUnits:
    """For each class the best unit, sign and threshold. ValueError for a class without images, or for one class."""
    values, labels = values.cpu(), labels.cpu()
    counts = torch.bincount(labels)
    classes = len(counts)
    if classes < 2 or not counts.all():
        raise ValueError(f"labels {counts.nonzero().flatten().tolist()}: 0 to the largest, each with images, and two.")
    best = BestUnits(
        torch.zeros(classes, dtype=torch.long),
        torch.ones(classes, dtype=torch.float64),
        torch.zeros(classes, dtype=torch.float64),
        torch.zeros(classes, dtype=torch.float64),
    )
    for first in range(0, values.shape[1], AT_ONCE):
        for sign in (1.0, -1.0):
            _improve(best, sign * values[:, first : first + AT_ONCE].double(), sign, first, labels)
    return best


def _improve(best: BestUnits, values: Tensor, sign: float, first: int, labels: Tensor) -> None:
    """Look at each value of each unit as a threshold."""
    ordered, order = values.sort(0, descending=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)  # of those of one value, which no threshold parts
    is_last[:-1] = ordered[:-1] != ordered[1:]
    for label in range(len(best.unit)):
        is_class = (labels == label)[order]
        count = int(is_class[:, 0].sum())
        hits, wrong = (each.cumsum(0) for each in (is_class, ~is_class))  # of the images from a threshold on
        accuracy = 50 + 50 * (hits / count - wrong / (len(labels) - count)).double()
        score, place = accuracy.masked_fill(~is_last, -torch.inf).max(0)
        unit = int(score.argmax())
        if score[unit] > best.accuracy[label]:
            best.unit[label], best.sign[label] = first + unit, sign
            best.threshold[label], best.accuracy[label] = ordered[place[unit], unit], score[unit]
