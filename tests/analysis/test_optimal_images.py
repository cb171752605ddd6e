"""The optimum under a norm, against what linear algebra says it is."""

import pytest
import torch
from oracles import seeded

from dlkit.analysis import optimum


def test_of_a_linear_unit_it_is_the_filter():
    weights = torch.randn(4, 5, dtype=torch.float64, generator=seeded())
    start = torch.randn(4, 5, dtype=torch.float64, generator=seeded(1))
    found = optimum(lambda x: (x * weights).sum((1, 2)), start, norm=3.0)
    torch.testing.assert_close(found.image, 3 * weights / weights.norm(), rtol=1e-6, atol=1e-6)
    assert found.activations[-1] == pytest.approx(3 * weights.norm().item())
    assert found.activations == sorted(found.activations)
    assert str(found).startswith("Maximised(image of 4x5, activation ")


def test_of_a_pool_of_squares_it_is_the_largest_eigenvector():
    filters = torch.randn(6, 8, dtype=torch.float64, generator=seeded())
    found = optimum(lambda x: (x @ filters.T).square().sum(1), torch.randn(8, generator=seeded(1)).double(), steps=500)
    values, vectors = torch.linalg.eigh(filters.T @ filters)
    assert found.image.norm().item() == pytest.approx(1.0)
    assert abs(found.image @ vectors[:, -1]).item() == pytest.approx(1.0, abs=1e-6)
    assert found.activations[-1] == pytest.approx(values[-1].item())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm": 0.0}, "both are more than 0"),
        ({"rate": -1.0}, "both are more than 0"),
        ({"start": torch.zeros(3)}, "a start of zeros has no direction"),
        ({"respond": lambda x: x}, "one finite value is wanted"),
        ({"respond": lambda x: x.sum(1) / 0}, "one finite value is wanted"),
    ],
)
def test_what_has_no_optimum_is_refused(settings, said):
    given = {"respond": lambda x: x.sum(1), "start": torch.ones(3)} | settings
    with pytest.raises(ValueError, match=said):
        optimum(**given)


def test_a_start_of_noise_mends_a_start_of_zeros():
    assert optimum(lambda x: x.sum(1), torch.randn(3, generator=seeded())).activations[-1] == pytest.approx(3**0.5)
