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
    """For each class the best unit, sign and threshold; unit 0 finds everything where none is better than chance.

    ValueError for a class without images, or for one class.
    """
    values, labels = values.cpu(), labels.cpu()
    counts = torch.bincount(labels)
    classes = len(counts)
    if classes < 2 or not counts.all():
        raise ValueError(f"labels {counts.nonzero().flatten().tolist()}: 0 to the largest, each with images, and two.")
    best = BestUnits(
        torch.zeros(classes, dtype=torch.long),
        torch.ones(classes, dtype=torch.float64),
        torch.full((classes,), -torch.inf, dtype=torch.float64),
        torch.full((classes,), 50.0, dtype=torch.float64),
    )
    for first in range(0, values.shape[1], AT_ONCE):
        _improve(best, values[:, first : first + AT_ONCE].T.double(), first, labels)
    return best


def _improve(best: BestUnits, values: Tensor, first: int, labels: Tensor) -> None:
    """Look at each value of each unit (units, images) as a threshold, with both signs."""
    ordered, order = values.sort(1, descending=True)
    parted = torch.zeros_like(ordered, dtype=torch.bool)  # no threshold parts those of one value
    parted[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    of_image, number = labels[order], torch.arange(1, len(labels) + 1)
    for label in range(len(best.unit)):
        is_class = of_image == label
        count = int(is_class[0].sum())
        hits = is_class.cumsum(1, dtype=torch.int32)  # among the largest values, down to each
        accuracy = 50 + 50 * (hits / count - (number - hits) / (len(labels) - count))
        for sign in (1.0, -1.0):  # all but the largest are what the other sign finds, and rightly where this one errs
            found = (accuracy if sign > 0 else 100 - accuracy).masked_fill(~parted, 0.0)
            score, place = found.max(1)
            unit = int(score.argmax())
            if score[unit] > best.accuracy[label]:
                best.unit[label], best.sign[label], best.accuracy[label] = first + unit, sign, score[unit].double()
                best.threshold[label] = sign * ordered[unit, place[unit] + (sign < 0)]
