"""Twenty faults, one after another; `python -m tests.chaos` does hundreds."""

import pytest
from chaos import suffer

SEED = 11


@pytest.mark.parametrize("number", range(20))
def test_after_a_fault_the_next_run_is_right(cluster, number):
    row = suffer(cluster, number, SEED)
    assert row["right"], row
