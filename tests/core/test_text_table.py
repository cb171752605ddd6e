"""How numbers are written."""

from dlkit.core.text_table import format_number


def test_numbers_have_a_minus_sign_and_zero_has_none():
    assert [format_number(value) for value in (-0.346, 0.0, -0.001, 12.0)] == ["−0.35", "0.00", "0.00", "12.00"]
