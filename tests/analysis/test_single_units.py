"""The best single unit of each class, against all units, signs and thresholds tried one by one."""

import pytest
import torch
from oracles import seeded

from dlkit.analysis.single_units import best_units


def balanced(found, is_class):
    return 50 * ((found & is_class).sum() / is_class.sum() + (~found & ~is_class).sum() / (~is_class).sum()).item()


@pytest.mark.parametrize("kind", ["numbers", "few values", "constants"])
def test_the_best_unit_is_the_best_of_all_that_there_are(kind):
    values = torch.randn(60, 5, generator=seeded())
    labels = torch.arange(60) % 3
    values[:, 3] += labels == 1
    values[:, 1] -= 2.0 * (labels == 2)
    if kind == "few values":
        values = values.round()
    if kind == "constants":
        values[:, [0, 2, 4]] = 1.0
    best = best_units(values, labels)
    for label in range(3):
        is_class = labels == label
        every = [
            balanced(sign * values[:, unit] >= threshold, is_class)
            for unit in range(5)
            for sign in (1, -1)
            for threshold in (sign * values[:, unit]).unique()
        ]
        assert best.accuracy[label].item() == pytest.approx(max(every))
    torch.testing.assert_close(best.on(values, labels), best.accuracy)


def test_on_other_images_units_and_thresholds_stay():
    values, labels = torch.randn(80, 4, generator=seeded()), torch.arange(80) % 2
    best = best_units(values[:40], labels[:40])
    found = best.on(values[40:], labels[40:])
    for label in range(2):
        picked = values[40:, best.unit[label]] * best.sign[label] >= best.threshold[label]
        assert found[label].item() == pytest.approx(balanced(picked, labels[40:] == label))


def test_where_no_unit_is_better_than_chance_everything_is_found():
    values, labels = torch.ones(6, 3), torch.arange(6) % 2
    best = best_units(values, labels)
    assert best.accuracy.tolist() == best.on(values, labels).tolist() == [50.0, 50.0]


def test_more_units_than_are_looked_at_at_once():
    values, labels = torch.randn(30, 150, generator=seeded()), torch.arange(30) % 2
    values[:, 140] = labels.float()
    best = best_units(values, labels)
    assert best.unit.tolist() == [140, 140]
    assert best.accuracy.tolist() == [100.0, 100.0]
    assert best.sign.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 2, 2, 0]])
def test_a_class_without_images_is_refused(labels):
    with pytest.raises(ValueError, match="0 to the largest, each with images, and two"):
        best_units(torch.rand(4, 2), torch.tensor(labels))
